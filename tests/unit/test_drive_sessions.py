"""The loop in a cluster: drivers that go on with each other's runs, lost nodes, storage away."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import FakeLauncher, FakeRunning, drive_plan, make_plan, states_of, stored_record
from said import says

from rvk8s import retries, storage
from rvk8s.contract import STAGES, State
from rvk8s.drive import Driver
from rvk8s.errors import HandedOver, StorageRefused, StorageUnavailable
from rvk8s.launcher import Manners
from rvk8s.runs.record import RunRecord


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_BACKOFF", 0.001)


SESSION = Manners(session="job-1", disruptions=3)


def test_the_next_driver_of_a_session_goes_on(tmp_path: Path) -> None:
    """It starts nothing that is done, and forgets nothing again."""
    plan = make_plan(tmp_path, rerun=("chip", *STAGES[3:]))
    stopped = HandedOver("ended")
    leave = iter([None] * 30 + [stopped] * 1000)
    first = FakeLauncher(plan.layout, lambda name, *_: None if name == "train" else 0)
    manners = replace(SESSION, leave=lambda: next(leave))
    with pytest.raises(HandedOver):
        Driver(plan, first, engine="fake", tick=0.001, manners=manners).drive()
    assert first.stopped == [], "what runs goes on"
    before = stored_record(plan)
    assert (before.state, before.stage("train").state) == (State.RUNNING, State.RUNNING)
    second = FakeLauncher(plan.layout, lambda *_: 0)
    record = Driver(plan, second, engine="fake", tick=0.001, manners=SESSION).drive()
    assert [name for name, _ in second.started] == ["train", "predict", "eval", "bundle"]
    assert record.state == State.SUCCEEDED
    assert record.started == before.started
    assert record.stage("train").attempts == 1
    assert storage.exists(plan.layout.done("chip"))


def test_another_session_begins_anew(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    drive_plan(plan, manners=SESSION)
    record, launcher = drive_plan(plan, manners=SESSION)
    assert launcher.started == [], "the run is over"
    assert isinstance(record, RunRecord)
    assert record.state == State.SUCCEEDED
    _, launcher = drive_plan(plan, manners=replace(SESSION, session="job-2"))
    assert ("configure", 0) in launcher.started


def test_a_run_json_of_something_else(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    for session in ("job-1", "job-2"):
        storage.write_json(plan.layout.run_json, {"driver": "job-1", "stages": []})
        error, launcher = drive_plan(plan, manners=replace(SESSION, session=session))
        assert says(str(error), "…run.json: …this version…(it has no rvk8s)…")
        assert launcher.started == []
        assert (stored_record(plan).state, stored_record(plan).exit_code) == (State.FAILED, 2)


@pytest.mark.parametrize("from_the_start", [False, True])
def test_rotated_keys_are_for_the_next_driver(
    from_the_start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod keeps the keys that it began with: a training that succeeded is not failed for them."""
    plan, refused = make_plan(tmp_path), StorageRefused("access denied (InvalidAccessKeyId)")
    read, away = storage.read_json, [from_the_start]

    def read_json(uri: str) -> dict[str, Any] | None:
        if away[0]:
            raise refused
        return read(uri)

    def act(name: str, split: int, attempt: int) -> int:
        away[0] = name == "train"
        return 0

    monkeypatch.setattr(storage, "read_json", read_json)
    if from_the_start:
        error, _ = drive_plan(plan, act, manners=SESSION)
        assert isinstance(error, StorageRefused)
        return
    with pytest.raises(StorageUnavailable, match="access denied"):
        drive_plan(plan, act, manners=SESSION)
    away[0] = False
    assert stored_record(plan).state == State.RUNNING
    record, launcher = drive_plan(plan, manners=SESSION)
    assert states_of(record)["bundle"] == "Succeeded"
    assert ("chip", 0) not in launcher.started


def test_lost_nodes_are_not_counted_as_retries(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"train": {"retries": 0}})

    def act(name: str, split: int, attempt: int) -> int:
        return 143 if name == "train" and attempt < 3 else 0

    record, launcher = drive_plan(plan, act, manners=SESSION)
    assert states_of(record)["train"] == "Succeeded"
    assert launcher.started.count(("train", 0)) == 4
    assert record.stage("train").disruptions == 3  # type: ignore[union-attr]
    again = make_plan(tmp_path / "more", stages={"train": {"retries": 0}})
    record, launcher = drive_plan(
        again, lambda name, *_: 143 if name == "train" else 0, manners=SESSION
    )
    assert states_of(record)["train"] == "Failed"
    assert launcher.started.count(("train", 0)) == 4


def test_lost_nodes_are_counted_anew_after_they_were_had_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training on spot nodes loses one each day and gets on all the same."""
    plan = make_plan(tmp_path, stages={"train": {"retries": 0}})
    started = itertools.count()
    # It loses its nodes soon as often as it may, before it has them for long.
    held = property(lambda _: 1800.0 if next(started) in (3, 6, 9) else 1799.0)
    monkeypatch.setattr(FakeRunning, "held", held)

    def act(name: str, split: int, attempt: int) -> int:
        return 143 if name == "train" and attempt < 12 else 0

    record, _ = drive_plan(plan, act, manners=SESSION)
    assert states_of(record)["train"] == "Succeeded"
    assert record.stage("train").disruptions == 12  # type: ignore[union-attr]
    stored = stored_record(plan).stage("train")
    assert stored is not None
    assert stored.losses == 3, "also the next driver counts on"


def test_nodes_that_were_given_back_are_counted_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRunning, "gave_back", True)
    plan = make_plan(tmp_path, stages={"train": {"retries": 0}})

    def act(name: str, split: int, attempt: int) -> int:
        return 143 if name == "train" and attempt < 8 else 0

    manners = replace(SESSION, give_backs=9)
    record, _ = drive_plan(plan, act, manners=manners)
    assert states_of(record)["train"] == "Succeeded"
    train = stored_record(plan).stage("train")
    assert (train.attempts, train.disruptions, train.given_back) == (1, 0, 8)


def test_a_launcher_that_retries_is_believed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"chip": {"splits": 2, "retries": 5}})
    manners = replace(SESSION, retries_splits=frozenset({"chip"}), why=lambda *_: "said so")
    act = lambda name, split, _: (138, None)[split] if name == "chip" else 0  # noqa: E731
    record, launcher = drive_plan(plan, act, manners=manners)
    assert isinstance(record, RunRecord)
    assert (record.exit_code, record.stage("chip").attempts) == (138, 1)
    assert launcher.stopped == ["chip"]


def test_a_launcher_that_retries_is_given_all_splits_again(tmp_path: Path) -> None:
    """Of those that ended with the one that lost its node nobody knows whether they were done."""
    plan = make_plan(tmp_path, stages={"chip": {"splits": 3}})
    manners = replace(SESSION, retries_splits=frozenset({"chip"}))

    def act(name: str, split: int, attempt: int) -> int | None:
        if name != "chip" or attempt:
            return 0
        return (0, 143, None)[split]

    record, launcher = drive_plan(plan, act, manners=manners)
    assert states_of(record)["chip"] == "Succeeded"
    assert [split for name, split in launcher.started if name == "chip"] == [0, 1, 2] * 2


def test_reading_waits_for_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tmp_path)
    read, faults = storage.read_json, iter([True, True])

    def flaky(uri: str) -> dict[str, Any] | None:
        if uri.endswith("done.json") and next(faults, False):
            raise StorageUnavailable("away")
        return read(uri)

    monkeypatch.setattr(storage, "read_json", flaky)
    record, _ = drive_plan(plan, manners=replace(SESSION, patience=60.0))
    assert isinstance(record, RunRecord)
    assert record.state == State.SUCCEEDED


def test_success_without_a_marker_is_none(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    launcher = FakeLauncher(plan.layout, lambda *_: 0)
    mark = launcher.mark
    launcher.mark = lambda stage, split, code: (  # type: ignore[method-assign]
        None if stage.name == "train" else mark(stage, split, code)
    )
    record = Driver(plan, launcher, engine="fake", tick=0.001).drive()
    assert (record.state, record.exit_code) == (State.FAILED, 1)
    assert "left no done-marker" in str(record.message)
