"""The cluster that the tests here stand on, started for the session unless it runs already."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator

import pytest
from cluster import testbed as beds
from cluster.apiserver import apiserver, make_namespace, namespace
from cluster.controlplane import kubectl
from cluster.leftovers import CannotClear
from cluster.processes import NotReady
from cluster.programs import CannotBuild
from cluster.projectimage import NoRoom
from cluster.sites import bed, chaos, dubai, site_factory, tiny_site
from cluster.testbed import Testbed

__all__ = ["apiserver", "bed", "chaos", "dubai", "namespace", "site_factory", "tiny_site"]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def started_by_hand() -> bool:
    """Whether `make cluster-up` was there before: such a cluster is never restarted or ended."""
    return beds.running() is not None


@pytest.fixture(scope="session")
def testbed(started_by_hand: bool) -> Iterator[Testbed]:
    """A cluster with the training operator, S3 with two users, today's images."""
    try:
        bed = beds.up()
    except (beds.Unusable, CannotBuild, CannotClear, NoRoom, NotReady) as error:
        pytest.fail(f"NOT TESTED: on a cluster, because {error}", pytrace=False)
    yield bed
    if not started_by_hand and not os.environ.get("RVK8S_TEST_KUBECONFIG"):
        beds.down()


@pytest.fixture
def team(testbed: Testbed) -> Iterator[str]:
    """A new namespace that enforces the restricted pod security standard."""
    name = f"team-{os.getpid()}-{next(_numbers)}"
    make_namespace(testbed.kubeconfig, name)
    yield name
    try:
        kubectl(testbed.kubeconfig, "delete", "namespace", name, "--wait=false")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        assert testbed.node is not None, "a restarted node has forgotten its namespaces"
