"""Following the logs of a run ends when the run does, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from rvk8s import storage
from rvk8s.contract import STAGES, State, now
from rvk8s.plan import Plan, Stage
from rvk8s.runs import logs
from rvk8s.runs.record import RunRecord


def test_following_a_run_that_was_killed_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has written its end into run.json; its heartbeat has stopped."""
    stages = tuple(Stage(name) for name in STAGES)
    plan = Plan("run-1", "e", "m.py", str(tmp_path), {}, str(tmp_path), stages)
    record = RunRecord.of_plan(plan, "test")
    record.state = State.RUNNING
    train = record.stage("train")
    train.state, train.started = State.RUNNING, "2026-01-01T00:00:00Z"
    storage.write_json(plan.layout.run_json, record.to_dict())
    storage.write_json(plan.layout.heartbeat("train"), {"at": now()})
    storage.write_bytes(plan.layout.log("train"), b"first\n")

    def waited(seconds: float) -> None:
        storage.write_bytes(plan.layout.log("train"), b"first\nsecond\n")
        storage.write_json(plan.layout.heartbeat("train"), {"at": "2026-01-01T00:00:10Z"})

    monkeypatch.setattr(logs.time, "sleep", waited)
    logs.print_logs(str(tmp_path), "run-1", follow=True)
    assert capsys.readouterr().out == "==> train <==\nfirst\nsecond\n"
