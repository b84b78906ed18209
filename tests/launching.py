"""A launcher whose stages end as a test says, for the loop of rvk8s/drive.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rvk8s import storage
from rvk8s.contract import STAGES, RunLayout, split_of
from rvk8s.drive import Driver
from rvk8s.errors import InputError, Interrupted
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord

#: What a stage does: its exit code, or None to go on for ever.
Act = Callable[[str, int, int], int | None]
COMMANDS = ["chip", "train", "predict", "eval", "bundle"]


class FakeRunning:
    #: Set for tests of trainings that give their nodes back.
    gave_back = False
    held = 0.0

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


def make_plan(root: Path, **changes: Any) -> Plan:
    stages = changes.pop("stages", {})
    planned = tuple(Stage(name, **stages.get(name, {})) for name in STAGES)
    values = {"run_id": "run-1", "experiment": "e", "module": "m.py", "project_dir": str(root)}
    return Plan(**{**values, "args": {}, "root_uri": str(root), "stages": planned, **changes})


def drive_plan(
    plan: Plan, act: Act = lambda *_: 0, **options: Any
) -> tuple[RunRecord | BaseException, FakeLauncher]:
    launcher = FakeLauncher(plan.layout, act)
    driver = Driver(plan, launcher, engine="fake", tick=0.001, **options)
    try:
        return driver.drive(), launcher
    except (InputError, Interrupted) as error:
        return error, launcher


def states_of(record: RunRecord | BaseException) -> dict[str, str]:
    assert isinstance(record, RunRecord), record
    return {stage.name: str(stage.state) for stage in record.stages}


def stored_record(plan: Plan) -> RunRecord:
    value = storage.read_json(plan.layout.run_json)
    assert value
    return RunRecord.from_dict(value)
