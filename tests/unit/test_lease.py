"""A driver changes nothing without its lease; on an API server see tests/cluster."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from launching import make_plan

from rvk8s.engines import driver, lease
from rvk8s.engines.driver_log import DriverLog
from rvk8s.engines.lease import Lease
from rvk8s.engines.leaving import Leaving
from rvk8s.errors import ClusterUnavailable, Conflict, HandedOver

Object = dict[str, Any]


class Server:
    """The Lease as an API server has it, and a clock."""

    def __init__(self) -> None:
        self.seconds, self.slow = 0.0, 0.0
        self.stored: Object | None = None
        self.namespace, self.patience = "ml", 20.0
        self.guard: Callable[[], float] = lambda: 0.0

    def monotonic(self) -> float:
        return self.seconds

    def unguarded(self) -> Self:
        return self

    def get(self, kind: str, name: str) -> Object | None:
        return copy.deepcopy(self.stored)

    def create(self, manifest: Object) -> Object:
        self.stored = copy.deepcopy(manifest)
        self.stored["metadata"]["resourceVersion"] = 1
        return copy.deepcopy(self.stored)

    def replace(self, manifest: Object) -> Object:
        assert self.stored is not None
        self.seconds += self.slow
        version = self.stored["metadata"]["resourceVersion"]
        if manifest["metadata"]["resourceVersion"] != version:
            raise Conflict("changed since")
        self.stored = copy.deepcopy(manifest)
        self.stored["metadata"]["resourceVersion"] = version + 1
        return copy.deepcopy(self.stored)

    def give_to(self, holder: str) -> None:
        """As the driver does that takes over."""
        assert self.stored is not None
        self.stored["spec"]["holderIdentity"] = holder
        self.stored["metadata"]["resourceVersion"] += 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=found.monotonic))
    return found


@pytest.fixture
def held(server: Server) -> Lease:
    found = Lease(server, "run-1", "driver-1", labels={}, owner={"uid": "u"})  # type: ignore[arg-type]
    found._acquire()
    return found


def test_a_lease_is_renewed_before_a_change(server: Server, held: Lease) -> None:
    assert held.confirm() == 30
    server.seconds = 20
    assert held.confirm() == 10, "for so long no other driver can have it"
    server.seconds = 23
    assert held.confirm() == 30


def test_a_lost_lease_forbids_changes(server: Server, held: Lease) -> None:
    server.seconds = 60  # the driver was frozen, and another one took over
    server.give_to("driver-2")
    for _ in range(2):
        with pytest.raises(HandedOver, match="driver-2"):
            held.confirm()
    assert held.lost()


def test_a_renewal_that_took_long_protects_nothing(server: Server, held: Lease) -> None:
    server.seconds, server.slow = 23, 25
    with pytest.raises(ClusterUnavailable, match="too long"):
        held.confirm()
    server.slow = 0
    assert held.confirm() == 30


def test_every_change_of_a_driver_asks_its_lease(server: Server, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    environ = {"RVK8S_RUN_ID": "run-1", "RVK8S_STAGES_DIR": str(tmp_path), "RVK8S_POD": "driver-1"}
    metadata = {"name": "run-1", "uid": "u", "creationTimestamp": "2026-11-24T10:00:00Z"}
    session = driver._Session(
        driver.Settings.of(environ),
        server,  # type: ignore[arg-type]
        Leaving(),
        {"metadata": metadata},
        {"plan.json": json.dumps(plan.to_dict())},
        DriverLog("%(message)s"),
    )
    session._lease._acquire()
    assert server.guard() == 30
    server.give_to("driver-2")
    server.seconds = 60
    with pytest.raises(HandedOver):
        server.guard()
