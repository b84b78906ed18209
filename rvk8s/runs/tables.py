"""Runs as `rvk8s list` and `rvk8s status` print them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rvk8s.contract import State
from rvk8s.runs.go_on import command
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import LOST, RunStatus, StageStatus
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
    table = _table(*first, "RUN", "STATE", "STAGE", "CREATED", "TIME")
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


def status_table(run: RunStatus) -> RenderableType:
    """A run's head, a row for each stage, and why it failed."""
    record = run.record
    head = Table(box=None, pad_edge=False, show_header=False)
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    head.add_row("Run", Text(run.run_id))
    head.add_row("State", Text(run.state, style=STYLES[run.state]))
    head.add_row("Folder", Text(run.uri))
    head.add_row("Created", Text(record.plan.created))
    if (
        run.state == State.FAILED
        and record.message
        and not any(s.state == State.FAILED for s in run.stages)
    ):
        head.add_row("Why", Text(record.message))
    stages = _table("STAGE", "STATE", "SPLITS", "STARTED", "TIME", "")
    for stage in run.stages:
        stages.add_row(
            Text(stage.record.name),
            Text(stage.state, style=STYLES[stage.state]),
            Text(str(stage.record.splits)),
            Text(stage.record.started or "-"),
            Text(duration(stage.seconds) or "-"),
            Text(_detail(stage)),
        )
    for note in run.notes:
        head.add_row("Note", Text(note))
    parts: list[RenderableType] = [head, Text(), stages]
    if run.state in (State.FAILED, State.CANCELLED, LOST) and record.plan.go_on:
        parts += [Text(), Text(f"Go on with: {command(record)}")]
    return Group(*parts)


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


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
