"""The loop that starts stages, with a launcher whose stages end as the test says."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rvk8s import drive, storage
from rvk8s.contract import STAGES, ExitCode, RunLayout, State, split_of
from rvk8s.drive import Driver
from rvk8s.errors import InputError, Interrupted, StorageUnavailable
from rvk8s.plan import Plan, Stage
from rvk8s.record import RunRecord

#: What a stage does: its exit code, or None to go on for ever.
Act = Callable[[str, int, int], int | None]
COMMANDS = ["chip", "train", "predict", "eval", "bundle"]


class FakeRunning:
    def __init__(self, launcher: FakeLauncher, stage: Stage, splits: Sequence[int]):
        self.launcher, self.stage, self.splits = launcher, stage, splits
        self.codes: dict[int, int] = {}
        for split in splits:
            attempt = launcher.started.count((stage.name, split))
            launcher.started.append((stage.name, split))
            code = launcher.act(stage.name, split, attempt)
            if code is not None:
                self.codes[split] = code
                launcher.mark(stage, split, code)

    def poll(self) -> Mapping[int, int]:
        return self.codes

    def stop(self) -> None:
        self.launcher.stopped.append(self.stage.name)


class FakeLauncher:
    """Leaves the markers that rvk8s-stage would leave."""

    def __init__(self, layout: RunLayout, act: Act):
        self.layout, self.act = layout, act
        self.started: list[tuple[str, int]] = []
        self.stopped: list[str] = []
        self.serial = itertools.count()

    def start(self, stage: Stage, splits: Sequence[int], attempt: int = 1) -> FakeRunning:
        return FakeRunning(self, stage, splits)

    def mark(self, stage: Stage, split: int, code: int) -> None:
        index = split_of(stage.splits, split)
        uri = self.layout.done(stage.name, index)
        if code:
            said = {"exitCode": code, "message": f"{stage.name} says {code}"}
            storage.write_json(self.layout.failed(stage.name, index), said)
        elif not storage.exists(uri):
            extra = {"commands": COMMANDS, "split_commands": ["chip", "predict"]}
            storage.write_json(uri, {"inputs": next(self.serial), **extra})


def _plan(root: Path, **changes: Any) -> Plan:
    stages = changes.pop("stages", {})
    planned = tuple(Stage(name, **stages.get(name, {})) for name in STAGES)
    values = {"run_id": "run-1", "experiment": "e", "module": "m.py", "project_dir": str(root)}
    return Plan(**{**values, "args": {}, "root_uri": str(root), "stages": planned, **changes})


def _drive(
    plan: Plan, act: Act = lambda *_: 0, **options: Any
) -> tuple[RunRecord | BaseException, FakeLauncher]:
    launcher = FakeLauncher(plan.layout, act)
    driver = Driver(plan, launcher, engine="fake", tick=0.001, **options)
    try:
        return driver.drive(), launcher
    except (InputError, Interrupted) as error:
        return error, launcher


def _states(record: RunRecord | BaseException) -> dict[str, str]:
    assert isinstance(record, RunRecord), record
    return {stage.name: str(stage.state) for stage in record.stages}


def _stored(plan: Plan) -> RunRecord:
    value = storage.read_json(plan.layout.run_json)
    assert value
    return RunRecord.from_dict(value)


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "_BACKOFF", 0.001)


def test_all_stages_in_order(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    record, launcher = _drive(plan)
    assert [name for name, _ in launcher.started] == ["configure", *COMMANDS]
    assert _states(record)["analyze"] == "Skipped", "the pipeline has no such command"
    assert _states(record)["train"] == "Succeeded"
    stored = _stored(plan)
    assert (stored.state, stored.exit_code) == (State.SUCCEEDED, 0)
    assert stored.to_dict() == record.to_dict()  # type: ignore[union-attr]


def test_going_on_finds_stages_done(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    _drive(plan)
    record, _ = _drive(plan)
    assert set(_states(record).values()) == {"Skipped"}
    assert record.stage("chip").message == "found done"  # type: ignore[union-attr]


def test_a_failure_stops_the_run(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    record, launcher = _drive(plan, lambda name, *_: 12 if name == "train" else 0)
    states = _states(record)
    assert (states["chip"], states["train"], states["predict"]) == (
        "Succeeded",
        "Failed",
        "Pending",
    )
    stored = _stored(plan)
    assert (stored.state, stored.exit_code) == (State.FAILED, 12)
    assert stored.message == "stage train: train says 12"
    assert ("predict", 0) not in launcher.started


def test_splits(tmp_path: Path) -> None:
    plan = _plan(tmp_path, stages={"chip": {"splits": 3}, "predict": {"splits": 2}})
    _, launcher = _drive(plan)
    assert launcher.started.count(("chip", 2)) == 1
    assert [split for name, split in launcher.started if name == "predict"] == [0, 1]


def test_one_split_fails_for_good(tmp_path: Path) -> None:
    plan = _plan(tmp_path, stages={"chip": {"splits": 3, "retries": 5}})

    def act(name: str, split: int, attempt: int) -> int | None:
        return {0: None, 1: 2, 2: 137}[split] if name == "chip" else 0

    record, launcher = _drive(plan, act)
    assert launcher.stopped == ["chip"], "the others are ended"
    assert isinstance(record, RunRecord)
    chip = record.stage("chip")
    assert (chip.exit_code, chip.failed_split, chip.attempts) == (2, 1, 1)


@pytest.mark.parametrize("code", [137, 138, 143])
def test_retries_only_what_failed(tmp_path: Path, code: int) -> None:
    plan = _plan(tmp_path, stages={"chip": {"splits": 2, "retries": 2}})

    def act(name: str, split: int, attempt: int) -> int:
        return code if name == "chip" and split == 1 and attempt < 2 else 0

    record, launcher = _drive(plan, act)
    assert _states(record)["chip"] == "Succeeded"
    assert launcher.started.count(("chip", 1)) == 3
    assert launcher.started.count(("chip", 0)) == 1


def test_retries_end(tmp_path: Path) -> None:
    plan = _plan(tmp_path, stages={"train": {"retries": 2}})
    record, launcher = _drive(plan, lambda name, *_: 138 if name == "train" else 0)
    assert _states(record)["train"] == "Failed"
    assert launcher.started.count(("train", 0)) == 3


@pytest.mark.parametrize("code", [1, 2, 12, 28, 124])
def test_final_codes_are_not_tried_again(tmp_path: Path, code: int) -> None:
    plan = _plan(tmp_path, stages={"train": {"retries": 2}})
    _, launcher = _drive(plan, lambda name, *_: code if name == "train" else 0)
    assert launcher.started.count(("train", 0)) == 1
    assert _stored(plan).exit_code == code


def test_a_killed_stage_says_what_that_may_mean(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    launcher = FakeLauncher(plan.layout, lambda name, *_: 137 if name == "train" else 0)
    launcher.mark = lambda stage, split, code: (  # type: ignore[method-assign]
        None if code else FakeLauncher.mark(launcher, stage, split, code)
    )
    record = Driver(plan, launcher, engine="fake", tick=0.001).drive()
    assert "was killed (SIGKILL)" in str(record.stage("train").message)


def test_deadline(tmp_path: Path) -> None:
    plan = _plan(tmp_path, stages={"train": {"deadline_seconds": 1}})
    began = time.monotonic()
    _, launcher = _drive(plan, lambda name, *_: None if name == "train" else 0)
    assert 0.9 < time.monotonic() - began < 5
    assert _stored(plan).exit_code == ExitCode.DEADLINE
    assert launcher.stopped == ["train"]
    assert "longer than its deadline" in str(_stored(plan).message)


def test_cancelled(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    asked = itertools.count()
    error, launcher = _drive(
        plan,
        lambda name, *_: None if name == "train" else 0,
        cancelled=lambda: next(asked) > 20,
    )
    assert isinstance(error, Interrupted)
    assert launcher.stopped == ["train"]
    stored = _stored(plan)
    assert (stored.state, stored.stage("train").state) == (State.CANCELLED, State.CANCELLED)
    assert stored.stage("chip").state == State.SUCCEEDED


def test_cancelled_while_storage_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = _plan(tmp_path)

    def cancelled() -> bool:
        def no_answer(uri: str, value: object) -> None:
            raise StorageUnavailable(f"{uri}: no answer")

        monkeypatch.setattr(storage, "write_json", no_answer)
        return True

    error, launcher = _drive(plan, lambda *_: None, cancelled=cancelled)
    assert isinstance(error, Interrupted)
    assert launcher.stopped == ["configure"]
    assert "does not say that the run is cancelled" in caplog.text


def test_cancelled_while_storage_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, over = _plan(tmp_path), threading.Event()
    began, write_json = time.monotonic(), storage.write_json

    def hang(uri: str, value: dict[str, Any]) -> None:
        if uri == plan.layout.run_json:
            over.wait(60)
        write_json(uri, value)

    def act(name: str, *_: int) -> int:
        if name == "train":
            monkeypatch.setattr(storage, "write_json", hang)
        return 0

    error, _ = _drive(plan, act, cancelled=lambda: time.monotonic() - began > 0.5)
    over.set()
    assert isinstance(error, Interrupted)
    assert time.monotonic() - began < 10


def test_seconds_of_stages_found_done_are_kept(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    first, _ = _drive(plan)
    assert isinstance(first, RunRecord)
    stored = storage.read_json(plan.layout.run_json)
    assert stored
    for number, stage in enumerate(stored["stages"]):
        stage["seconds"] = 100.0 + number
    storage.write_json(plan.layout.run_json, stored)
    for _ in range(2):
        _drive(plan)
        found = {stage.name: (stage.state, stage.seconds) for stage in _stored(plan).stages}
        assert found["configure"] == (State.SKIPPED, 100.0)
        assert found["train"] == (State.SKIPPED, 103.0)
    _drive(replace(plan, from_stage="predict"))
    assert _stored(plan).stage("train").seconds == 103.0


def test_rerun_forgets_markers_and_outputs(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    _drive(plan)
    for name in ("chip/old", "train/old"):
        storage.write_bytes(plan.layout.at(name), b"")
    again = _plan(tmp_path, rerun=STAGES[STAGES.index("train") :])
    record, _ = _drive(again)
    states = _states(record)
    assert (states["chip"], states["train"], states["bundle"]) == (
        "Skipped",
        "Succeeded",
        "Succeeded",
    )
    assert storage.exists(plan.layout.at("chip/old"))
    assert not storage.exists(plan.layout.at("train/old"))


def test_another_number_of_splits_forgets_the_old_ones(tmp_path: Path) -> None:
    _drive(_plan(tmp_path, stages={"chip": {"splits": 3}}))
    plan = _plan(tmp_path, stages={"chip": {"splits": 2}})
    storage.write_bytes(plan.layout.at("chip/of-three"), b"")
    record, _ = _drive(plan)
    assert _states(record)["chip"] == "Succeeded"
    assert _states(record)["train"] == "Skipped"
    assert not storage.exists(plan.layout.at("chip/of-three"))
    assert not storage.exists(plan.layout.stage_dir("chip", 2))


def test_from(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    _drive(plan)
    record, launcher = _drive(_plan(tmp_path, from_stage="predict"))
    assert [name for name, _ in launcher.started] == ["configure", "predict", "eval", "bundle"]
    assert "starts from predict" in str(record.stage("chip").message)  # type: ignore[union-attr]


def test_from_with_an_earlier_stage_not_done(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    _drive(plan, lambda name, *_: 1 if name == "train" else 0)
    error, _ = _drive(_plan(tmp_path, from_stage="predict"))
    assert isinstance(error, InputError)
    assert "stage train of run-1 is not done; start --from train" in str(error)
    assert _stored(plan).state == State.FAILED


def test_stages_that_cannot_be_split_are_not(tmp_path: Path) -> None:
    plan = _plan(tmp_path, stages={"eval": {"splits": 4}})
    launcher = FakeLauncher(plan.layout, lambda *_: 0)
    told = []
    start = launcher.start
    launcher.start = lambda stage, splits, attempt: (told.append(stage), start(stage, splits))[1]  # type: ignore[method-assign]
    Driver(plan, launcher, engine="fake", tick=0.001).drive()
    assert [stage.splits for stage in told if stage.name == "eval"] == [1]
    assert launcher.started.count(("eval", 0)) == 1
