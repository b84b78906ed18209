"""The cluster that the tests here stand on, started for the session unless it runs already.

Several processes test at once (`make test-cluster`), each a file at a time: they share the one
cluster, and the API server of tests that need no more, and have namespaces and buckets of their
own. A test marked `alone` waits until no other one runs, and keeps the others from beginning.

The smoke (`make test-cluster-smoke`) has every test that needs only an API server and is not marked
`slow`, and those on the node that are marked `smoke`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

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
#: Tells the processes of a session which one it is: whose test starts the cluster ends it.
_SESSION = "RVK8S_TEST_SESSION"
#: What takes longest, first; before it what mostly waits, and needs no image.
_FIRST = (
    "test_driver_waits.py",
    "test_runs.py",
    "test_dubai.py",
    "test_cancel.py",
    "test_faults.py",
    "test_storage_faults.py",
    "test_schedule.py",
    "test_rastervision.py",
    "test_driver_faults.py",
    "test_survival.py",
)


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        os.environ[_SESSION] = str(os.getpid())


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and beds.is_up() and _is_ours():
        beds.down()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and _needs_only_the_api(item):
            item.add_marker("smoke")

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.name
        first = _FIRST.index(name) if name in _FIRST else len(_FIRST)
        return _is_alone(item), first

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Hold the lock from a file's first test to its last: what its fixtures made stays until then,
    so nobody may start the node anew in between."""
    if _held.of != _lock_of(item):
        _held.stack.close()
        _held.of = _lock_of(item)
        _held.stack.enter_context(beds.lock("test", shared=not _is_alone(item)))
    try:
        return (yield)
    finally:
        if nextitem is None or _lock_of(nextitem) != _held.of:
            _held.stack.close()
            _held.of = None


@dataclass
class _Held:
    """The lock that this process holds: for which file, and whether alone."""

    stack: ExitStack = field(default_factory=ExitStack)
    of: tuple[Path, bool] | None = None


_held = _Held()


def _lock_of(item: pytest.Item) -> tuple[Path, bool]:
    return item.path, _is_alone(item)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _needs_only_the_api(item: pytest.Item) -> bool:
    """Whether a test needs no node, and no more than seconds."""
    closure = getattr(item, "fixturenames", ())
    long = any(item.get_closest_marker(name) for name in ("alone", "endurance", "slow"))
    return "testbed" not in closure and not long


def _is_ours() -> bool:
    return beds.started_by() == os.environ[_SESSION]


@pytest.fixture(scope="session")
def cluster_is_ours(testbed: Testbed) -> bool:
    """Whether this session has started the cluster: another one is never restarted or ended."""
    return _is_ours()


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """A cluster with the training operator, S3 with two users, today's images."""
    try:
        with beds.lock("start"):
            return beds.up(session=os.environ[_SESSION])
    except (beds.Unusable, CannotBuild, CannotClear, NoRoom, NotReady) as error:
        if _is_ours():
            beds.down()  # half of it may run
        pytest.fail(f"NOT TESTED: on a cluster, because {error}", pytrace=False)


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
