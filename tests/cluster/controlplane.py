"""The control plane: etcd, kube-apiserver, kube-controller-manager and, for a node, the scheduler.

Without a node it needs no root, stands on loopback and starts in a few seconds.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import certificates, processes
from cluster.programs import built, program

SERVICES = "10.96.0.0/16"
#: What the tests' objects need; each of the others costs a part of a second at the start.
CONTROLLERS = (
    "clusterrole-aggregation",
    "cronjob",
    "deployment",
    "disruption",
    "endpoints",
    "endpointslice",
    "garbage-collector",
    "job",
    "namespace",
    "node-lifecycle",
    "pod-garbage-collector",
    "replicaset",
    "resourcequota",
    "root-ca-certificate-publisher",
    "serviceaccount",
    "serviceaccount-token",
    "statefulset",
    "taint-eviction",
    "ttl-after-finished",
)


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane, or one to be started.

    Attributes:
        folder: certificates, etcd's data, logs, pid files, kubeconfigs.
        host: the address that the API server binds.
        port: of the API server; the kubeconfig has it.
        scheduler: whether pods are put on nodes.
        options: further options of the API server.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 6443
    scheduler: bool = False
    ports: tuple[int, int, int, int] = (2379, 2380, 10257, 10259)
    options: tuple[str, ...] = field(default=())

    @property
    def server(self) -> str:
        return f"https://{self.host}:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    def start(self) -> None:
        """Start all of it and wait until the API server and the default account are there.

        Raises:
            processes.NotReady: it did not come up in a minute.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.pki.exists():
            hosts = ["127.0.0.1", self.host, "10.96.0.1", "localhost", "kubernetes"]
            hosts += ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
            certificates.make(self.pki, list(dict.fromkeys(hosts)))
        for client in certificates.CLIENTS:
            file = self.folder / f"{client}.kubeconfig"
            certificates.kubeconfig(self.pki, client, self.server, file)
        self._start_etcd()
        self.start_apiserver()
        self.start_controllers()
        processes.wait("the default service account", self._has_account, 60)

    def stop(self) -> None:
        """End all of it; the data stays."""
        for name in ("scheduler", "controller-manager", "apiserver"):
            # An API server drains its watches for seconds before it ends: nobody here waits for it.
            processes.stop(self.folder, name, sig=signal.SIGKILL)
        processes.stop(self.folder, "etcd")

    def start_apiserver(self) -> None:
        """Start the API server (again) and wait until it is ready."""
        pki, folder = self.pki, self.folder
        command = [
            program("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self.ports[0]}",
            f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--secure-port={self.port}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={pki}/server.crt",
            f"--tls-private-key-file={pki}/server.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--kubelet-client-certificate={pki}/to-kubelet.crt",
            f"--kubelet-client-key={pki}/to-kubelet.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki}/ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki}/to-aggregated.crt",
            f"--proxy-client-key-file={pki}/to-aggregated.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            *self.options,
        ]
        if self.host.startswith("127."):  # an endpoint on loopback is refused
            command.append("--endpoint-reconciler-type=none")
        processes.start(folder, "apiserver", command)
        processes.wait("kube-apiserver", self._is_ready, 60, folder, "apiserver")

    def stop_apiserver(self) -> None:
        """End the API server alone, as a crash does."""
        processes.stop(self.folder, "apiserver", sig=signal.SIGKILL)

    def start_controllers(self) -> None:
        """Start the controller manager and, where asked, the scheduler."""
        pki, folder = self.pki, self.folder
        config = folder / "controller-manager.kubeconfig"
        command: list[str | Path] = [
            program("kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--root-ca-file={pki}/ca.crt",
            f"--service-account-private-key-file={pki}/sa.key",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports[2]}",
            "--leader-elect=false",
            f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS)}",
        ]
        processes.start(folder, "controller-manager", command)
        if self.scheduler:
            options = (
                f"--kubeconfig={folder}/scheduler.kubeconfig",
                "--bind-address=127.0.0.1",
                f"--secure-port={self.ports[3]}",
                "--leader-elect=false",
            )
            processes.start(folder, "scheduler", [program("kube-scheduler"), *options])

    def kubectl(self, *args: str, stdin: str | None = None, seconds: float = 60) -> str:
        """What kubectl prints.

        Raises:
            subprocess.CalledProcessError: it failed; the error holds what it said.
        """
        return kubectl(self.kubeconfig, *args, stdin=stdin, seconds=seconds)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in self.ports[:2])
        command = [
            program("etcd"),
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        processes.start(self.folder, "etcd", command)
        ready = lambda: processes.listens("127.0.0.1", self.ports[0])  # noqa: E731
        processes.wait("etcd", ready, 30, self.folder, "etcd")

    def _is_ready(self) -> bool:
        if not processes.listens(self.host, self.port):
            return False
        return succeeds(self.kubeconfig, "get", "--raw", "/readyz")

    def _has_account(self) -> bool:
        return succeeds(self.kubeconfig, "-n", "default", "get", "serviceaccount", "default")


def light(folder: Path, ports: Sequence[int] | None = None) -> ControlPlane:
    """A control plane without a node, on loopback and five ports, free ones if none are given."""
    port, etcd, peer, controllers, scheduler = ports or processes.free_ports(5)
    return ControlPlane(folder, port=port, ports=(etcd, peer, controllers, scheduler))


def install_training_crds(config: Path) -> None:
    """The training operator's resource definitions (PyTorchJob), without the operator."""
    crds = built("training-operator") / "manifests" / "base" / "crds"
    kubectl(config, "apply", "--server-side", "-f", f"{crds}/kubeflow.org_pytorchjobs.yaml")
    listed = ("get", "--raw", "/apis/kubeflow.org/v1/pytorchjobs")
    # `kubectl wait` fails where a definition has no conditions yet.
    processes.wait("the PyTorchJob resource", lambda: succeeds(config, *listed), 30)


def kubectl(config: Path, *args: str, stdin: str | None = None, seconds: float = 60) -> str:
    """What kubectl prints.

    Raises:
        subprocess.CalledProcessError: it failed; the error's note holds what it said.
    """
    try:
        return subprocess.run(
            [program("kubectl"), f"--kubeconfig={config}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
        ).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise


def succeeds(config: Path, *args: str) -> bool:
    """Whether kubectl succeeds within 5 seconds."""
    try:
        kubectl(config, *args, "--request-timeout=5s", seconds=10)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def kubectl_json(config: Path, *args: str) -> Any:
    """What `kubectl … -o json` prints, decoded."""
    return json.loads(kubectl(config, *args, "-o", "json"))
