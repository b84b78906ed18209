"""Fixtures: a real API server with controllers and no node, for tests of what speaks to it.

Jobs get pods, which stay Pending: a test that needs them to run patches their status, or stands
in tests/cluster. PyTorchJobs are accepted (the resource definition is there) and nobody acts on
them. Everything is on loopback, root is not needed, and a start takes a few seconds.

conftest.py brings the fixtures; a module that imported them would get a server of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.controlplane import ControlPlane, install_training_crds, kubectl, light
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
    plane = light(tmp_path_factory.mktemp("apiserver"))
    try:
        plane.start()
        install_training_crds(plane.kubeconfig)
        yield plane
    finally:
        plane.stop()


@pytest.fixture
def namespace(apiserver: ControlPlane) -> Iterator[str]:
    """A new namespace that enforces the restricted pod security standard."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    make_namespace(apiserver.kubeconfig, name)
    yield name
    apiserver.kubectl("delete", "namespace", name, "--wait=false")


def make_namespace(config: Path, name: str) -> None:
    """A namespace that enforces the restricted pod security standard."""
    kubectl(config, "create", "namespace", name)
    labels = [f"pod-security.kubernetes.io/{level}=restricted" for level in _LEVELS]
    kubectl(config, "label", "namespace", name, *labels)
