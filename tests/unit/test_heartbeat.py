"""Two drivers that no Lease keeps apart meet in a run's folder: one of them has the run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from launching import drive_plan, make_plan, states_of, stored_record
from s3server import S3Server
from said import says

from rvk8s import heartbeat, storage
from rvk8s.contract import DRIVER, RunLayout, State, now
from rvk8s.errors import Interrupted
from rvk8s.heartbeat import OtherDriver, other_driver
from rvk8s.launcher import Manners
from rvk8s.plan import Plan
from rvk8s.runs import control
from rvk8s.runs.control import ToDelete
from rvk8s.runs.record import RunRecord

OURS, THEIRS = "job-1", "job-2"


class Begun:
    """Manners of a driver that counts how often it was told that the run is its own."""

    def __init__(self) -> None:
        self.count = 0

    def manners(self, session: str | None = OURS) -> Manners:
        def begun() -> None:
            self.count += 1

        return Manners(session=session, begun=begun)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_LOOK", 0.05)


def running(plan: Plan, session: str | None = THEIRS) -> RunRecord:
    """The run as a driver of a session has left it, or goes on with it."""
    record = RunRecord.of_plan(plan, "kubernetes")
    record.state, record.driver, record.started = State.RUNNING, session, now()
    storage.write_json(plan.layout.run_json, record.to_dict())
    return record


def beat(layout: RunLayout, ago: float = 0.0, **more: Any) -> None:
    at = (datetime.now(timezone.utc) - timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    value = {"at": at, "host": "pod-2", "namespace": "prod", **more}
    storage.write_json(layout.heartbeat(DRIVER), value)


def grow_old(path: str, seconds: float) -> None:
    """Let a file have been written so long ago."""
    written = time.time() - seconds
    os.utime(path, (written, written))


@contextmanager
def living(layout: RunLayout) -> Iterator[None]:
    """Another driver's heartbeat."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.1):
            beat(layout)

    thread = threading.Thread(target=go_on)
    beat(layout)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_run_that_another_driver_has_is_left_alone(tmp_path: Path) -> None:
    plan, begun = make_plan(tmp_path, rerun=("train",)), Begun()
    storage.write_json(plan.layout.done("train"), {"inputs": 1})
    before = running(plan)
    with living(plan.layout):
        error, launcher = drive_plan(plan, manners=begun.manners())
    assert isinstance(error, OtherDriver)
    assert says(str(error), "…another driver, pod-2 in namespace prod,…; …")
    assert (launcher.started, begun.count) == ([], 0)
    assert stored_record(plan) == before
    assert storage.exists(plan.layout.done("train")), "nothing was forgotten"


def test_a_run_on_one_machine_leaves_it_alone_too(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    before = running(plan)
    with living(plan.layout):
        error, launcher = drive_plan(plan)
    assert isinstance(error, OtherDriver)
    assert launcher.started == []
    assert stored_record(plan) == before


def test_whoever_is_cancelled_while_it_waits_changes_nothing(tmp_path: Path) -> None:
    plan, begun = make_plan(tmp_path), Begun()
    before = running(plan)
    beat(plan.layout)
    began = time.monotonic()
    error, launcher = drive_plan(
        plan, manners=begun.manners(), cancelled=lambda: time.monotonic() > began + 0.3
    )
    assert isinstance(error, Interrupted)
    assert (launcher.started, begun.count) == ([], 0)
    assert stored_record(plan) == before


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("ago", [90.0, 3600.0, -3600.0])
def test_the_storages_clock_says_who_lives(
    ago: float, remote: bool, tmp_path: Path, s3: S3Server
) -> None:
    """The driver's clock, or this machine's, is wrong by 90 s or an hour."""
    plan = make_plan(tmp_path)
    if remote:
        plan = replace(plan, root_uri=f"{s3.bucket(f'clock{ago + 3600:.0f}')}/runs")
    running(plan)
    beat(plan.layout, ago)
    other = other_driver(plan.layout, OURS)
    assert other is not None
    assert other.seconds < 30
    there = ToDelete(plan.run_id, plan.run_uri, None)
    with pytest.raises(OtherDriver, match="pod-2 in namespace prod"):
        control.check_is_ours(there)
    if remote:
        return
    grow_old(plan.layout.heartbeat(DRIVER), 61.0)
    assert other_driver(plan.layout, OURS) is None
    control.check_is_ours(there)


def test_results_of_a_local_run_that_goes_on_are_kept(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record = running(plan, None)
    record.engine = "local"
    record.stages[0].state = State.RUNNING
    storage.write_json(plan.layout.run_json, record.to_dict())
    there, uri = ToDelete(plan.run_id, plan.run_uri, None), plan.layout.heartbeat("configure")
    storage.write_json(uri, {"at": "2026-01-01T00:00:10Z", "host": "laptop-7"})
    with pytest.raises(OtherDriver, match="laptop-7"):
        control.check_is_ours(there)
    grow_old(uri, 61.0)
    control.check_is_ours(there)


@pytest.mark.parametrize("ago", [0.0, -3600.0])
def test_a_driver_that_was_killed_is_waited_for(
    ago: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose clock is ahead."""
    monkeypatch.setattr(heartbeat, "LOST_AFTER", 1.6)
    plan, begun, began = make_plan(tmp_path), Begun(), time.monotonic()
    running(plan)
    beat(plan.layout, ago)
    record, _ = drive_plan(plan, manners=begun.manners())
    assert 0.5 < time.monotonic() - began < 6
    assert set(states_of(record).values()) <= {"Succeeded", "Skipped"}
    assert (stored_record(plan).driver, begun.count) == (OURS, 1)


@pytest.mark.parametrize("case", ["ours", "left", "long ago", "none", "over", "no driver"])
def test_what_nobody_else_has_is_begun_at_once(case: str, tmp_path: Path) -> None:
    plan, begun, began = make_plan(tmp_path), Begun(), time.monotonic()
    record = running(plan, {"ours": OURS, "no driver": None}.get(case, THEIRS))
    if case == "over":
        record.state = State.FAILED
        storage.write_json(plan.layout.run_json, record.to_dict())
    if case != "none":
        beat(plan.layout, left=case == "left")
    if case == "long ago":
        grow_old(plan.layout.heartbeat(DRIVER), 61.0)
    driven, _ = drive_plan(plan, manners=begun.manners())
    assert time.monotonic() - began < 2
    assert states_of(driven)["bundle"] == "Succeeded"
    assert begun.count == 1


def test_of_two_that_begin_at_once_the_last_has_the_run(tmp_path: Path) -> None:
    """As a schedule in two clusters does: both see no run.json, or one that is over."""
    plan, begun, theirs = make_plan(tmp_path), Begun(), None

    def act(stage: str, split: int, attempt: int) -> int:
        nonlocal theirs
        assert stage == "configure"
        theirs = running(plan)
        return 0

    error, launcher = drive_plan(plan, act, manners=begun.manners())
    assert isinstance(error, OtherDriver)
    assert says(str(error), "…another driver, …another namespace or cluster…began…")
    assert launcher.started == [("configure", 0)]
    assert stored_record(plan) == theirs
    record, _ = drive_plan(plan, manners=replace(begun.manners(), session=THEIRS))
    assert states_of(record)["bundle"] == "Succeeded"
