"""Fixtures: a real API server with controllers and no node, for tests of what speaks to it.

Jobs get pods, which stay Pending: a test that needs them to run patches their status, or stands
in tests/cluster. PyTorchJobs are accepted (the resource definition is there) and nobody acts on
them. Everything is on loopback, root is not needed, and a start takes a few seconds. Processes that
test side by side have one such server, and each test a namespace.

conftest.py brings the fixtures; a module that imported them would get a server of its own.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster.controlplane import ControlPlane, install_training_crds, kubectl, light
from cluster.processes import free_ports, is_last, locked
from cluster.programs import CannotBuild, built

_numbers = itertools.count(1)
_LEVELS = ("enforce", "warn")


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane; `.kubeconfig` is the administrator's, `.kubectl(…)` runs kubectl."""
    try:
        for tool in ("etcd", "kubernetes", "training-operator"):
            built(tool)
    except CannotBuild as error:
        pytest.skip(f"NOT TESTED: against a real API server, because {error}")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of the session, where each of its processes has a folder
    with _shared(folder / "apiserver") as plane:
        yield plane


@contextmanager
def _shared(folder: Path) -> Iterator[ControlPlane]:
    """The control plane in a folder: who comes first starts it, who goes last ends it."""
    folder.mkdir(exist_ok=True)
    start, users = folder / "start.lock", folder / "users.lock"
    with locked(users, shared=True) as user:
        with locked(start):
            plane = _started(folder)
        try:
            yield plane
        finally:
            with locked(start):
                if is_last(user):
                    plane.stop()
                    _ports(folder).unlink()


def _started(folder: Path) -> ControlPlane:
    """What runs already, or what is started now."""
    ports = _ports(folder)
    if ports.exists():
        return light(folder, json.loads(ports.read_text()))
    numbers = free_ports(5)
    plane = light(folder, numbers)
    plane.stop()  # what a process has left that died while it started it
    _start(plane)
    ports.write_text(json.dumps(numbers))
    return plane


def _start(plane: ControlPlane) -> None:
    try:
        plane.start()
        install_training_crds(plane.kubeconfig)
    except BaseException:
        plane.stop()
        raise


@contextmanager
def of_one_test(folder: Path) -> Iterator[ControlPlane]:
    """A control plane for a test that takes it away."""
    plane = light(folder)
    _start(plane)
    try:
        yield plane
    finally:
        plane.stop()


def _ports(folder: Path) -> Path:
    """Names the ports of a control plane that runs."""
    return folder / "ports.json"


@pytest.fixture
def namespace(apiserver: ControlPlane) -> Iterator[str]:
    """A new namespace that enforces the restricted pod security standard."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    make_namespace(apiserver.kubeconfig, name)
    yield name
    apiserver.kubectl("delete", "namespace", name, "--wait=false")


def bind_to_new_node(plane: ControlPlane, namespace: str, pod: str, node: str) -> None:
    """Put a pod on a node without a kubelet: when it is deleted, it stays until that is forced.

    One without a node would be deleted by the pods' garbage collector, which looks every 20 s.
    """
    manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    plane.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/binding"
    plane.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))


def make_namespace(config: Path, name: str) -> None:
    """A namespace that enforces the restricted pod security standard."""
    labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in _LEVELS}
    metadata = {"name": name, "labels": labels}
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    kubectl(config, "create", "-f", "-", stdin=json.dumps(manifest))
