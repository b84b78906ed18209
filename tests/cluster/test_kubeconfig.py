"""The cluster is found as kubectl finds it: several files, exec plugins, inside a pod."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.apiproxy import api_proxy
from cluster.clientrun import Client
from cluster.controlplane import ControlPlane

from rvk8s import yaml_loader
from rvk8s.cluster import Cluster, kubeconfig


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client.make(tmp_path / "project")


def config(apiserver: ControlPlane) -> dict[str, Any]:
    value: dict[str, Any] = yaml_loader.load(apiserver.kubeconfig.read_text())
    return value


def write(path: Path, **value: Any) -> str:
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **value}))
    return str(path)


def reader(apiserver: ControlPlane, namespace: str) -> str:
    """The token of a service account that may list what `rvk8s list` does."""
    apiserver.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    account = f"--serviceaccount={namespace}:reader"
    binding = ("rolebinding", "reader", "--clusterrole=view", account)
    apiserver.kubectl("create", *binding, "-n", namespace)
    return apiserver.kubectl("create", "token", "reader", "-n", namespace).strip()


def test_several_files_are_merged(
    client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The context is in one, the cluster and the user in others; the first current-context wins."""
    whole = config(apiserver)
    context = {"cluster": "there", "user": "me", "namespace": namespace}
    other = {"cluster": "nowhere", "user": "me", "namespace": "other"}
    (tmp_path / "empty").touch()
    files = [
        str(tmp_path / "empty"),
        write(
            tmp_path / "1",
            **{"current-context": "mine", "contexts": [{"name": "mine", "context": context}]},
        ),
        str(tmp_path / "missing"),
        write(
            tmp_path / "2",
            **{
                "current-context": "other",
                "contexts": [{"name": "other", "context": other}],
                "clusters": [{"name": "there", "cluster": whole["clusters"][0]["cluster"]}],
            },
        ),
        write(tmp_path / "3", users=[{"name": "me", "user": whole["users"][0]["user"]}]),
    ]
    client.environ["KUBECONFIG"] = os.pathsep.join(files)
    code, out, err = client("list", "--context", "mine")
    assert (code, out) == (0, ""), err
    assert err == f"no runs in namespace {namespace}\n"
    assert "kubeconfig: " in client.error("list", "--context", "other")
    assert f"no runs in namespace {namespace}" in client("list", "--context", "mine")[2]
    file = client.folder / "rvk8s.yaml"
    file.write_text(file.read_text() + "namespace: from-file\n")
    assert "there is no namespace from-file" in client.error("list", "--context", "mine")
    for words in (["list"], ["status", "x"], ["cancel", "x"], ["delete", "x"]):
        assert "there is no namespace given; " in client.error(*words, "-n", "given")


def test_the_proxy_is_the_kubeconfig_s_else_the_environment_s(
    client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    nothing = f"no runs in namespace {namespace}\n"
    nowhere = "http://127.0.0.1:9"
    with api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy:
        whole = yaml_loader.load(proxy.kubeconfig.read_text())
        cluster = whole["clusters"][0]["cluster"]
        cluster |= {"server": "http://cluster.invalid", "proxy-url": proxy.url}
        client.environ["KUBECONFIG"] = write(tmp_path / "1", **whole)
        client.environ |= {"HTTP_PROXY": nowhere, "NO_PROXY": ".invalid"}
        assert client("list", "-n", namespace)[2] == nothing
        assert proxy.requests
        del cluster["proxy-url"]
        write(tmp_path / "1", **whole)
        client.environ |= {"HTTP_PROXY": proxy.url, "HTTPS_PROXY": nowhere, "NO_PROXY": ""}
        assert client("list", "-n", namespace)[2] == nothing
        cluster["proxy-url"] = "socks5://127.0.0.1:9"
        write(tmp_path / "1", **whole)
        assert "proxies by socks5:// are not supported" in client.error("list", "-n", namespace)
    client.environ |= {"KUBECONFIG": str(apiserver.kubeconfig), "HTTPS_PROXY": nowhere}
    assert client("list", "-n", namespace)[2] == nothing, "a server on loopback needs none"


def test_acting_as_another_user(client: Client, apiserver: ControlPlane, tmp_path: Path) -> None:
    whole = config(apiserver)
    user = whole["users"][0]["user"]
    user["as"] = "alice"
    client.environ["KUBECONFIG"] = write(tmp_path / "1", **whole)
    assert 'forbidden: User "alice" cannot list' in client.error("list", "-n", "default")
    user["as-groups"] = ["people", "system:masters"]
    write(tmp_path / "1", **whole)
    assert client("list", "-n", "default") == (0, "", "no runs in namespace default\n")


def test_an_exec_plugin_brings_the_credentials(
    client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """As on EKS and GKE."""
    token = reader(apiserver, namespace)
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": token},
    }
    plugin = tmp_path / "get-token"
    answer = f"cat <<'END'\n{json.dumps(credential)}\nEND\n"
    plugin.write_text(f'#!/bin/sh\n[ "$1" = "$WANTED" ] && {answer}')
    plugin.chmod(0o755)
    execute = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "args": ["team"],
        "env": [{"name": "WANTED", "value": "team"}],
        "interactiveMode": "Never",
    }
    whole = config(apiserver)
    whole["users"][0]["user"] = {"exec": execute}
    path = tmp_path / "exec.kubeconfig"
    path.write_text(yaml.safe_dump(whole))
    client.environ["KUBECONFIG"] = str(path)
    assert client("list", "-n", namespace)[2] == f"no runs in namespace {namespace}\n"
    assert "not allowed: " in client.error("list", "-n", "default")
    execute["args"] = ["wrong"]
    path.write_text(yaml.safe_dump(whole))
    error = client.error("list", "-n", namespace)
    assert f"{plugin}, which logs in, failed" in error
    assert len(error.splitlines()) == 1


def test_in_a_pod_its_service_account_is_used(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(reader(apiserver, namespace))
    (folder / "namespace").write_text(namespace)
    (folder / "ca.crt").write_bytes((apiserver.pki / "ca.crt").read_bytes())
    host, port = apiserver.server.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    # The paths are fixed in pods; this is all that is moved.
    monkeypatch.setattr(kubeconfig, "_IN_CLUSTER", folder)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(folder / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(folder / "ca.crt"))
    found = Cluster.connect()
    assert found.namespace == namespace
    assert found.list_all("Pod") == []


def test_no_cluster_is_said(client: Client, tmp_path: Path) -> None:
    client.environ |= {"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    assert "kubeconfig: there is no file" in client.error("list", "-n", "team")
    broken = tmp_path / "broken"
    broken.write_text("clusters: [")
    client.environ["KUBECONFIG"] = str(broken)
    error = client.error("list", "-n", "team")
    assert error.startswith("error: kubeconfig: ")
    assert len(error.splitlines()) == 1
