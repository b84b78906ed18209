"""The certificates of a test cluster, made by openssl: one authority, one server, its clients."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

# file name -> (organisation = group, common name = user), as Kubernetes reads them.
CLIENTS = {
    "admin": ("system:masters", "admin"),
    "controller-manager": ("", "system:kube-controller-manager"),
    "scheduler": ("", "system:kube-scheduler"),
    "proxy": ("", "system:kube-proxy"),
    "coredns": ("system:masters", "coredns"),
    "kubelet": ("system:nodes", "system:node:node1"),
    # What the API server shows to the kubelet, and to API servers behind it.
    "to-kubelet": ("system:masters", "kube-apiserver"),
    "to-aggregated": ("", "front-proxy-client"),
}


def make(folder: Path, hosts: list[str]) -> None:
    """Write ca.crt, server.*, sa.key (for tokens) and a key pair for each of CLIENTS.

    Args:
        hosts: names and addresses by which the server is reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(folder, f"{_EC} -out ca.key")
    _openssl(folder, "req -x509 -new -key ca.key -out ca.crt -days 3650 -subj /CN=rvk8s-tests")
    _openssl(folder, f"{_EC} -out sa.key")
    _openssl(folder, "ec -in sa.key -pubout -out sa.pub")
    names = ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)
    _sign(folder, "server", "/CN=kube-apiserver", f"subjectAltName={names}")
    for name, (group, user) in CLIENTS.items():
        _sign(folder, name, (f"/O={group}" if group else "") + f"/CN={user}", "")


def kubeconfig(folder: Path, client: str, server: str, file: Path) -> Path:
    """Write a kubeconfig with everything inline, so that it can be copied."""
    cluster = {"server": server, "certificate-authority-data": _encoded(folder / "ca.crt")}
    user = {
        "client-certificate-data": _encoded(folder / f"{client}.crt"),
        "client-key-data": _encoded(folder / f"{client}.key"),
    }
    context = {"cluster": "rvk8s-tests", "user": client, "namespace": "default"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rvk8s-tests",
        "clusters": [{"name": "rvk8s-tests", "cluster": cluster}],
        "users": [{"name": client, "user": user}],
        "contexts": [{"name": "rvk8s-tests", "context": context}],
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return file


_EC = "ecparam -name prime256v1 -genkey -noout"


def _sign(folder: Path, name: str, subject: str, extension: str) -> None:
    _openssl(folder, f"{_EC} -out {name}.key")
    _openssl(folder, f"req -new -key {name}.key -out {name}.csr -subj {subject}")
    (folder / "extension").write_text(
        f"extendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n{extension}\n"
    )
    files = f"-in {name}.csr -out {name}.crt -CA ca.crt -CAkey ca.key -CAcreateserial"
    _openssl(folder, f"x509 -req {files} -days 3650 -extfile extension")


def _openssl(folder: Path, args: str) -> None:
    command = ["openssl", *args.split()]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit()


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
