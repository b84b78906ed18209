"""A server that is away, or refuses what it allowed before: it is waited for, and that is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from rvk8s.cluster import Cluster, Object, api_server, watch
from rvk8s.cluster.kinds import Forbidden, NoSuchKind, Unauthorized
from rvk8s.cluster.watch import Watcher
from rvk8s.errors import ClusterUnavailable, Rvk8sError

REFUSED = Forbidden("not allowed: jobs is forbidden", where="https://server")
UNKNOWN = Unauthorized("does not accept these credentials", where="https://server")
AWAY = ClusterUnavailable("https://server answered 500: failed calling webhook")


class Answer:
    status, data = 200, b"{}"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A server that has allowed to read Jobs."""
    monkeypatch.setattr(api_server, "NOTED_AFTER", 0.3)
    connection: Any = None
    made = Cluster(connection, "team", patience=3.0, forgives=60.0)
    made._answered = True
    made._allowed = {("GET", "jobs")}
    return made


def answers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *faults: Exception) -> None:
    left = iter(faults)

    def send(*_: object, **__: object) -> Any:
        if fault := next(left, None):
            raise fault
        return Answer()

    monkeypatch.setattr(cluster, "_send", send)


@pytest.mark.parametrize("fault", [REFUSED, UNKNOWN, AWAY], ids=["403", "401", "500"])
def test_a_fault_that_lasts_is_said_until_it_is_over(
    cluster: Cluster, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str | None] = []
    cluster.waits = said.append
    answers(cluster, monkeypatch, fault, fault)
    assert cluster.get("Job", "a") == {}
    assert said[-1] is None
    assert said[0] is not None
    assert str(fault) in said[0]


def test_a_fault_that_passes_at_once_is_not_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str | None] = []
    cluster.waits = said.append
    monkeypatch.setattr(api_server, "NOTED_AFTER", 10.0)
    answers(cluster, monkeypatch, AWAY)
    cluster.get("Job", "a")
    assert said == []


def test_a_refusal_of_what_was_allowed_leaves_the_run_to_the_next_driver(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a mistake of the user's, which would end the run."""
    answers(cluster, monkeypatch, *[REFUSED] * 99)
    with pytest.raises(ClusterUnavailable, match="allowed before"):
        cluster.get("Job", "a")
    cluster.forgives = 0.0
    with pytest.raises(Forbidden):  # a client says so at once
        cluster.get("Job", "a")


@pytest.mark.parametrize("fault", [REFUSED, UNKNOWN, AWAY], ids=["403", "401", "500"])
def test_a_watch_that_is_refused_goes_on_and_says_so(
    fault: Rvk8sError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "NOTED_AFTER", 0.2)
    monkeypatch.setattr(watch, "_UNKNOWN", 0.2)
    monkeypatch.setattr(watch, "_LAST_PAUSE", 0.1)
    server: Any = Lists([fault] * 12)
    with Watcher(server, "Job") as watcher:
        assert watcher.objects(5.0) == {}
        until(lambda: watcher.trouble == str(fault))
        assert watcher.objects() == {}, "what was heard last is still known"
        until(lambda: watcher.trouble is None)


def test_a_watch_of_a_kind_that_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_UNKNOWN", 0.2)
    monkeypatch.setattr(watch, "_LAST_PAUSE", 0.1)
    server: Any = Lists([NoSuchKind("has no pytorchjobs")] * 99)
    with Watcher(server, "PyTorchJob") as watcher:
        watcher.objects(5.0)

        def ended() -> bool:
            try:
                watcher.objects()
            except NoSuchKind:
                return True
            return False

        until(ended)


class Lists:
    """A cluster that lists no objects, then meets faults, then sends bookmarks."""

    def __init__(self, faults: list[Rvk8sError]):
        self._faults, self._listed = iter(faults), False

    def watch_once(
        self, kind: str, labels: str, version: str | None
    ) -> Iterator[tuple[str, Object]]:
        if not self._listed:
            self._listed = True
            yield "LISTED", {"items": [], "version": "1"}
        if fault := next(self._faults, None):
            raise fault
        time.sleep(0.05)
        yield "BOOKMARK", {"metadata": {"resourceVersion": "2"}}


def until(so: Any) -> None:
    end = time.monotonic() + 10
    while not so():
        assert time.monotonic() < end
        time.sleep(0.02)
