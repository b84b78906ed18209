"""The loop that starts stages, with a launcher whose stages end as the test says."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import COMMANDS, FakeLauncher, drive_plan, make_plan, states_of, stored_record
from said import says

from rvk8s import retries, storage
from rvk8s.contract import STAGES, ExitCode, State
from rvk8s.drive import Driver
from rvk8s.errors import InputError, Interrupted, StorageUnavailable
from rvk8s.runs.record import RunRecord


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_BACKOFF", 0.001)


def test_all_stages_in_order(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record, launcher = drive_plan(plan)
    assert [name for name, _ in launcher.started] == ["configure", *COMMANDS]
    assert states_of(record)["analyze"] == "Skipped", "the pipeline has no such command"
    assert states_of(record)["train"] == "Succeeded"
    stored = stored_record(plan)
    assert (stored.state, stored.exit_code) == (State.SUCCEEDED, 0)
    assert stored.to_dict() == record.to_dict()  # type: ignore[union-attr]


def test_going_on_finds_stages_done(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    drive_plan(plan)
    record, _ = drive_plan(plan)
    assert set(states_of(record).values()) == {"Skipped"}
    assert record.stage("chip").message == "found done"  # type: ignore[union-attr]


def test_a_failure_stops_the_run(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record, launcher = drive_plan(plan, lambda name, *_: 12 if name == "train" else 0)
    states = states_of(record)
    assert (states["chip"], states["train"], states["predict"]) == (
        "Succeeded",
        "Failed",
        "Pending",
    )
    stored = stored_record(plan)
    assert (stored.state, stored.exit_code) == (State.FAILED, 12)
    assert stored.message == "stage train: train says 12"
    assert ("predict", 0) not in launcher.started


def test_splits(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"chip": {"splits": 3}, "predict": {"splits": 2}})
    _, launcher = drive_plan(plan)
    assert launcher.started.count(("chip", 2)) == 1
    assert [split for name, split in launcher.started if name == "predict"] == [0, 1]


def test_one_split_fails_for_good(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"chip": {"splits": 3, "retries": 5}})

    def act(name: str, split: int, attempt: int) -> int | None:
        return {0: None, 1: 2, 2: 137}[split] if name == "chip" else 0

    record, launcher = drive_plan(plan, act)
    assert launcher.stopped == ["chip"], "the others are ended"
    assert isinstance(record, RunRecord)
    chip = record.stage("chip")
    assert (chip.exit_code, chip.failed_split, chip.attempts) == (2, 1, 1)


@pytest.mark.parametrize("code", [137, 138, 143])
def test_retries_only_what_failed(tmp_path: Path, code: int) -> None:
    plan = make_plan(tmp_path, stages={"chip": {"splits": 2, "retries": 2}})

    def act(name: str, split: int, attempt: int) -> int:
        return code if name == "chip" and split == 1 and attempt < 2 else 0

    record, launcher = drive_plan(plan, act)
    assert states_of(record)["chip"] == "Succeeded"
    assert launcher.started.count(("chip", 1)) == 3
    assert launcher.started.count(("chip", 0)) == 1


def test_retries_end(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"train": {"retries": 2}})
    record, launcher = drive_plan(plan, lambda name, *_: 138 if name == "train" else 0)
    assert states_of(record)["train"] == "Failed"
    assert launcher.started.count(("train", 0)) == 3


@pytest.mark.parametrize("code", [1, 2, 12, 28, 124])
def test_final_codes_are_not_tried_again(tmp_path: Path, code: int) -> None:
    plan = make_plan(tmp_path, stages={"train": {"retries": 2}})
    _, launcher = drive_plan(plan, lambda name, *_: code if name == "train" else 0)
    assert launcher.started.count(("train", 0)) == 1
    assert stored_record(plan).exit_code == code


def test_a_killed_stage_says_what_that_may_mean(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    launcher = FakeLauncher(plan.layout, lambda name, *_: 137 if name == "train" else 0)
    launcher.mark = lambda stage, split, code: (  # type: ignore[method-assign]
        None if code else FakeLauncher.mark(launcher, stage, split, code)
    )
    record = Driver(plan, launcher, engine="fake", tick=0.001).drive()
    assert "was killed (SIGKILL)" in str(record.stage("train").message)


def test_deadline(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"train": {"deadline_seconds": 1}})
    began = time.monotonic()
    _, launcher = drive_plan(plan, lambda name, *_: None if name == "train" else 0)
    assert 0.9 < time.monotonic() - began < 5
    assert stored_record(plan).exit_code == ExitCode.DEADLINE
    assert launcher.stopped == ["train"]
    assert "longer than its deadline" in str(stored_record(plan).message)


def test_a_deadline_after_a_retry_blames_no_split_that_is_done(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"chip": {"splits": 2, "retries": 1, "deadline_seconds": 1}})

    def act(name: str, split: int, attempt: int) -> int | None:
        if name != "chip" or split == 0:
            return 0
        return None if attempt else 138

    record, _ = drive_plan(plan, act)
    assert isinstance(record, RunRecord)
    chip = record.stage("chip")
    assert (chip.exit_code, chip.failed_split) == (ExitCode.DEADLINE, 1)


def test_cancelled(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    asked = itertools.count()
    error, launcher = drive_plan(
        plan,
        lambda name, *_: None if name == "train" else 0,
        cancelled=lambda: next(asked) > 20,
    )
    assert isinstance(error, Interrupted)
    assert launcher.stopped == ["train"]
    stored = stored_record(plan)
    assert (stored.state, stored.stage("train").state) == (State.CANCELLED, State.CANCELLED)
    assert stored.stage("chip").state == State.SUCCEEDED


def test_cancelled_while_storage_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(tmp_path)

    def cancelled() -> bool:
        def no_answer(uri: str, value: object) -> None:
            raise StorageUnavailable(f"{uri}: no answer")

        monkeypatch.setattr(storage, "write_json", no_answer)
        return True

    error, launcher = drive_plan(plan, lambda *_: None, cancelled=cancelled)
    assert isinstance(error, Interrupted)
    assert launcher.stopped == ["configure"]
    assert says(caplog.text, "…not say…cancelled…")


def test_cancelled_while_storage_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, over = make_plan(tmp_path), threading.Event()
    began, write_json = time.monotonic(), storage.write_json

    def hang(uri: str, value: dict[str, Any]) -> None:
        if uri == plan.layout.run_json:
            over.wait(60)
        write_json(uri, value)

    def act(name: str, *_: int) -> int:
        if name == "train":
            monkeypatch.setattr(storage, "write_json", hang)
        return 0

    error, _ = drive_plan(plan, act, cancelled=lambda: time.monotonic() - began > 0.5)
    over.set()
    assert isinstance(error, Interrupted)
    assert time.monotonic() - began < 10


def test_seconds_of_stages_found_done_are_kept(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    first, _ = drive_plan(plan)
    assert isinstance(first, RunRecord)
    stored = storage.read_json(plan.layout.run_json)
    assert stored
    for number, stage in enumerate(stored["stages"]):
        stage["seconds"] = 100.0 + number
    storage.write_json(plan.layout.run_json, stored)
    for _ in range(2):
        drive_plan(plan)
        found = {stage.name: (stage.state, stage.seconds) for stage in stored_record(plan).stages}
        assert found["configure"] == (State.SKIPPED, 100.0)
        assert found["train"] == (State.SKIPPED, 103.0)
    drive_plan(replace(plan, from_stage="predict"))
    assert stored_record(plan).stage("train").seconds == 103.0


def test_rerun_forgets_markers_and_outputs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    drive_plan(plan)
    for name in ("chip/old", "train/old"):
        storage.write_bytes(plan.layout.at(name), b"")
    again = make_plan(tmp_path, rerun=STAGES[STAGES.index("train") :])
    record, _ = drive_plan(again)
    states = states_of(record)
    assert (states["chip"], states["train"], states["bundle"]) == (
        "Skipped",
        "Succeeded",
        "Succeeded",
    )
    assert storage.exists(plan.layout.at("chip/old"))
    assert not storage.exists(plan.layout.at("train/old"))


def test_another_number_of_splits_forgets_the_old_ones(tmp_path: Path) -> None:
    drive_plan(make_plan(tmp_path, stages={"chip": {"splits": 3}}))
    plan = make_plan(tmp_path, stages={"chip": {"splits": 2}})
    storage.write_bytes(plan.layout.at("chip/of-three"), b"")
    record, _ = drive_plan(plan)
    assert states_of(record)["chip"] == "Succeeded"
    assert states_of(record)["train"] == "Skipped"
    assert not storage.exists(plan.layout.at("chip/of-three"))
    assert not storage.exists(plan.layout.stage_dir("chip", 2))


def test_from(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    drive_plan(plan)
    record, launcher = drive_plan(make_plan(tmp_path, from_stage="predict"))
    assert [name for name, _ in launcher.started] == ["configure", "predict", "eval", "bundle"]
    assert "starts from predict" in str(record.stage("chip").message)  # type: ignore[union-attr]


def test_from_with_an_earlier_stage_not_done(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    drive_plan(plan, lambda name, *_: 1 if name == "train" else 0)
    error, _ = drive_plan(make_plan(tmp_path, from_stage="predict"))
    assert isinstance(error, InputError)
    assert says(str(error), "…train of run-1…not done; …--from train…")
    assert stored_record(plan).state == State.FAILED


def test_stages_that_cannot_be_split_are_not(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, stages={"eval": {"splits": 4}})
    launcher = FakeLauncher(plan.layout, lambda *_: 0)
    told = []
    start = launcher.start
    launcher.start = lambda stage, splits, attempt: (told.append(stage), start(stage, splits))[1]  # type: ignore[method-assign]
    Driver(plan, launcher, engine="fake", tick=0.001).drive()
    assert [stage.splits for stage in told if stage.name == "eval"] == [1]
    assert launcher.started.count(("eval", 0)) == 1
