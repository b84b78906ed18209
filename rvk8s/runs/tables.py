"""Runs as `rvk8s list` and `rvk8s status` print them."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from rvk8s.contract import State
from rvk8s.runs.go_on import command
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import LOST, RunStatus, StageStatus
from rvk8s.tables import Unfolded, columns, head
from rvk8s.times import duration, seconds_since

STYLES = {
    "Pending": "dim",
    "Running": "bold cyan",
    "Succeeded": "green",
    "Failed": "bold red",
    "Skipped": "dim",
    "Cancelled": "yellow",
    LOST: "bold red",
}


def runs_table(runs: list[RunStatus], with_namespace: bool = False) -> RenderableType:
    """A row for each run."""
    first = ["NAMESPACE"] if with_namespace else []
    table = columns(*first, "RUN", "STATE", "STAGE", "CREATED", "TIME")
    for run in runs:
        record = run.record
        table.add_row(
            *([Text(run.namespace or "-")] if with_namespace else []),
            Text(run.run_id),
            Text(run.state, style=STYLES[run.state]),
            Text(_current_stage(record)),
            Text(record.plan.created),
            Text(_run_time(run)),
        )
    return table


def status_tables(run: RunStatus) -> list[RenderableType]:
    """A run's head, a row for each stage, and why it failed."""
    record = run.record
    rows: list[tuple[str, RenderableType]] = [
        ("Run", Text(run.run_id)),
        ("State", Text(run.state, style=STYLES[run.state])),
        ("Folder", Unfolded(run.uri)),
        ("Created", Text(record.plan.created)),
    ]
    if (
        run.state == State.FAILED
        and record.message
        and not any(s.state == State.FAILED for s in run.stages)
    ):
        rows.append(("Why", Text(record.message)))
    rows += [("Note", Text(note)) for note in run.notes]
    stages = columns("STAGE", "STATE", "SPLITS", "STARTED", "TIME", "", texts=[""])
    for stage in run.stages:
        stages.add_row(
            Text(stage.record.name),
            Text(stage.state, style=STYLES[stage.state]),
            Text(str(stage.record.splits)),
            Text(stage.record.started or "-"),
            Text(duration(stage.seconds) or "-"),
            Text(_detail(stage)),
        )
    parts: list[RenderableType] = [head(rows), Text(), stages]
    if run.state in (State.FAILED, State.CANCELLED, LOST) and record.plan.go_on:
        parts += [Text(), Unfolded(f"Go on with: {command(record)}")]
    return parts


def _detail(stage: StageStatus) -> str:
    if stage.state == LOST:
        return "its process is gone"
    return stage.record.message or stage.progress.text()


def _current_stage(record: RunRecord) -> str:
    """The stage that is running or has ended the run."""
    ended = (State.RUNNING, State.FAILED, State.CANCELLED)
    return next((stage.name for stage in record.stages if stage.state in ended), "-")


def _run_time(run: RunStatus) -> str:
    """Seconds that the stages took: a run that was gone on with has pauses."""
    seconds = sum(stage.seconds or 0.0 for stage in run.record.stages)
    if run.state == State.RUNNING:
        current = next((s for s in run.record.stages if s.state == State.RUNNING), None)
        seconds += seconds_since(current.started) if current else 0.0
    return duration(seconds)
