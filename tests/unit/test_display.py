"""What a run shows: plain lines, the live table, progress in words."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from rich.console import Console

from rvk8s import storage
from rvk8s.contract import STAGES, State, now
from rvk8s.errors import InputError, StorageUnavailable
from rvk8s.plan import Plan, Stage
from rvk8s.progress import Progress
from rvk8s.runs import display
from rvk8s.runs.display import Lines, LiveTable, ProgressReader
from rvk8s.runs.record import RunRecord
from rvk8s.times import duration


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    stages = tuple(Stage(name) for name in STAGES)
    return Plan("run-1", "e", "m.py", str(tmp_path), {}, str(tmp_path), stages)


@pytest.fixture
def record(plan: Plan) -> RunRecord:
    return RunRecord.of_plan(plan, "test")


@pytest.fixture
def lines(
    plan: Plan,
    record: RunRecord,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Lines:
    """Has said that the training runs."""
    lines = Lines(plan)
    monkeypatch.setattr(lines._reader, "_interval", 0.0)
    train = record.stage("train")
    train.state, train.started = State.RUNNING, now()
    lines.update(record)
    return lines


def test_lines(
    plan: Plan, record: RunRecord, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    train = record.stage("train")
    for epoch, batch in ((1, 1), (1, 2), (2, 1)):
        values = {"epoch": epoch, "epochs": 2, "batch": batch, "batches": 2, "macroF1": 0.5}
        storage.write_json(plan.layout.progress("train"), values)
        lines.update(record)
    train.state, train.seconds = State.SUCCEEDED, 83.2
    lines.update(record)
    lines.update(record)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"run run-1 in {plan.run_uri}",
        "train: started",
        "train: epoch 1/2  batch 1/2  macro F1 0.500",
        "train: epoch 2/2  batch 1/2  macro F1 0.500",
        "train: done in 1:23",
    ]


def test_a_line_each_minute(
    plan: Plan,
    record: RunRecord,
    lines: Lines,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for batch in (1, 2, 3):  # of a first epoch, which has no score yet
        values = {"epoch": 1, "epochs": 2, "batch": batch, "batches": 3}
        storage.write_json(plan.layout.progress("train"), values)
        monkeypatch.setattr(display, "LINE_EVERY", 0.0 if batch == 2 else 60.0)
        lines.update(record)
    assert capsys.readouterr().err.splitlines()[2:] == ["train: epoch 1/2  batch 2/3"]


def test_live_table(plan: Plan, record: RunRecord) -> None:
    table = LiveTable(plan)
    predict = record.stage("predict")
    predict.state, predict.started, predict.splits = State.RUNNING, now(), 2
    for index, done in enumerate((30, 20)):
        value = {"pixelsDone": done, "pixelsTotal": 100, "scene": "a"}
        storage.write_json(plan.layout.progress("predict", index), value)
    table.update(record)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table.render())
    text = console.export_text()
    assert "predict x2" in text
    assert "25% of pixels" in text
    assert "Pending" in text


@contextmanager
def stderr_on(file: int | str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    raw = open(file, "wb", buffering=0)  # noqa: SIM115
    with io.TextIOWrapper(raw, write_through=True) as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield


def shown_on_a_terminal(plan: Plan, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> str:
    leader, terminal = pty.openpty()
    with stderr_on(terminal, monkeypatch), display.show(plan, "auto") as shown:
        record.stage("chip").state = State.SKIPPED
        shown.update(record)
    text = b""
    with suppress(OSError):  # it has ended
        while part := os.read(leader, 2**16):
            text += part
    os.close(leader)
    return text.decode()


def test_a_table_on_a_terminal(
    plan: Plan, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert re.search(r"predict[^\n]*Pending", shown_on_a_terminal(plan, record, monkeypatch))


def test_lines_on_a_terminal_that_cannot_be_drawn_again(
    plan: Plan, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = shown_on_a_terminal(plan, record, monkeypatch)
    assert text.startswith("run run-1 in ")
    assert "chip: skipped" in text


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_lines_in_a_pipe_whatever_colours_are_wanted(
    plan: Plan, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    reader, writer = os.pipe()
    with stderr_on(writer, monkeypatch), display.show(plan, "auto"):
        assert os.read(reader, 2**16).decode() == f"run run-1 in {plan.run_uri}\n"
    os.close(reader)


def test_a_terminal_that_goes_away_ends_no_run(
    plan: Plan, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    leader, terminal = pty.openpty()
    with stderr_on(terminal, monkeypatch):
        with display.show(plan, "auto") as shown:
            os.close(leader)
            shown.update(record)
            time.sleep(0.6)  # it is drawn again by then
            display.say("more")
        display.say("more")


def test_nothing_is_said_where_nobody_hears(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stderr_on("/dev/full", monkeypatch):
        display.say("more")
    monkeypatch.setattr(sys, "stderr", None)
    display.say("more")
    assert capsys.readouterr().out == ""


def test_a_summary_that_nobody_reads_keeps_no_other_run_from_starting(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as raw, io.TextIOWrapper(raw, write_through=True) as out:
        monkeypatch.setattr(sys, "stdout", out)
        display.print_summary(record, None, ())
    monkeypatch.setattr(sys, "stdout", None)
    display.print_summary(record, None, ())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fault", [StorageUnavailable("no answer"), InputError("expired")])
def test_storage_that_does_not_answer_ends_no_run(
    plan: Plan, record: RunRecord, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ProgressReader(plan)
    monkeypatch.setattr(reader, "_interval", 0.0)
    train = record.stage("train")
    train.state, train.started = State.RUNNING, now()
    storage.write_json(plan.layout.progress("train"), {"epoch": 1, "epochs": 2})
    assert reader.read(train).text() == "epoch 1/2"

    def no_answer(uri: str) -> None:
        raise fault

    monkeypatch.setattr(storage, "read_json", no_answer)
    assert reader.read(train).text() == "epoch 1/2"
    assert reader.read(record.stage("predict")).text() == ""


def test_progress_of_an_attempt_before_is_passed_over() -> None:
    old = {"updated": "2026-01-01T00:00:00Z", "epoch": 5, "epochs": 5}
    assert Progress.of_splits([old], "2026-01-01T00:00:01Z").text() == ""
    assert Progress.of_splits([old], "2026-01-01T00:00:00Z").text() == "epoch 5/5"


def test_eta() -> None:
    progress = Progress(elapsed=30, shares=(0.25,))
    assert progress.text() == "25% of pixels  1:30 left"
    assert Progress(
        {"epoch": 3, "epochs": 10, "loss": 0.41234, "imagesPerSecond": 61.3}
    ).text() == ("epoch 3/10  loss 0.4123  61.3 images/s")
    assert Progress().text() == ""


def test_a_line_for_each_tenth() -> None:
    said = {Progress(shares=(n / 1000,)).milestone() for n in range(1001)}
    assert len(said) == 11


def test_share_over_scenes_and_splits() -> None:
    half = {"scenes": 2, "scenesDone": 0, "pixelsDone": 50, "pixelsTotal": 50}
    over = {"scenes": 2, "scenesDone": 2, "pixelsDone": 50, "pixelsTotal": 50}
    assert Progress.of_splits([half], None).share == 0.5
    assert Progress.of_splits([half, over], None).share == 0.75
    assert Progress.of_splits([half, None], None).share == 0.25
    assert Progress.of_splits([{"epoch": 1}], None).share is None
    assert Progress.of_splits([{"pixelsDone": 1, "pixelsTotal": 4}], None).share == 0.25


def test_duration() -> None:
    assert [duration(s) for s in (None, 0.04, 59.94, 61, 3723)] == [
        "",
        "0.0 s",
        "59.9 s",
        "1:01",
        "1:02:03",
    ]
