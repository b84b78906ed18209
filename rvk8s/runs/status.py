"""What run.json, markers and heartbeats say about runs: for `rvk8s list` and `rvk8s status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rvk8s import storage
from rvk8s.contract import DRIVER, RunLayout, State, split_of
from rvk8s.errors import InputError
from rvk8s.heartbeat import LOST_AFTER
from rvk8s.progress import Progress, duration, seconds_since
from rvk8s.runs.record import RunRecord, StageRecord
from rvk8s.storage.parallel import in_threads

#: Shown instead of Running for a stage whose process is gone without saying so.
LOST = "Lost"

STYLES = {
    "Pending": "dim",
    "Running": "bold cyan",
    "Succeeded": "green",
    "Failed": "bold red",
    "Skipped": "dim",
    "Cancelled": "yellow",
    LOST: "bold red",
}


class NoSuchRun(InputError):
    """No run is named so."""


class SeveralRuns(InputError):
    """The names of several runs begin so."""


@dataclass(frozen=True)
class StageStatus:
    """One stage of a run.

    Attributes:
        record: what run.json says.
        state: its state in a word: that of the record, or LOST.
        progress: how far it is; empty unless it is running.
    """

    record: StageRecord
    state: str
    progress: Progress

    @property
    def seconds(self) -> float | None:
        if self.state == State.RUNNING:
            return seconds_since(self.record.started)
        return self.record.seconds

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.record.to_dict(),
            "state": self.state,
            "progress": dict(self.progress.values),
        }


@dataclass(frozen=True)
class RunStatus:
    """A run.

    Attributes:
        uri: its folder.
        record: what run.json says.
        state: its state in a word: that of the record, or LOST.
        stages: its stages; empty in a list of runs.
        notes: what a user should know beside that, such as why it does not start; a line each.
        namespace: that has its objects; empty where none is known.
    """

    uri: str
    record: RunRecord
    state: str
    stages: tuple[StageStatus, ...] = ()
    notes: tuple[str, ...] = ()
    namespace: str = ""

    @property
    def run_id(self) -> str:
        return self.record.plan.run_id

    def to_dict(self) -> dict[str, Any]:
        """JSON types: run.json with runId, runUri, namespace, the states as shown and progress."""
        value = {"runId": self.run_id, "runUri": self.uri, **self.record.to_dict()}
        if self.namespace:
            value["namespace"] = self.namespace
        value["state"] = self.state
        if self.stages:
            value["stages"] = [stage.to_dict() for stage in self.stages]
        if self.notes:
            value["notes"] = list(self.notes)
        return value


def list_runs(root_uri: str, unreadable: dict[str, str] | None = None) -> list[RunStatus]:
    """The runs below a root URI, the newest first.

    Args:
        unreadable: gets the runs that are left out, with the reason: we may not read them, or
            another version of rvk8s wrote them in another form.
    """
    found: list[RunStatus] = []

    def look(name: str) -> None:
        uri = f"{root_uri}/{name}"
        try:
            value = storage.read_json(RunLayout(uri).run_json)
            if value is not None:
                found.append(_status(uri, RunRecord.from_dict(value), with_stages=False))
        except InputError as error:
            if unreadable is not None:
                unreadable[name] = error.what

    in_threads(look, [name for name in storage.list_dirs(root_uri) if not name.startswith(".")])
    return sorted(found, key=lambda run: (run.record.plan.created, run.run_id), reverse=True)


def run_status(root_uri: str, run: str) -> RunStatus:
    """The status of one run.

    Args:
        run: a run's id, or the beginning of one and only one.

    Raises:
        InputError: there is no such run, or more than one.
    """
    uri = f"{root_uri}/{find_run(root_uri, run)}"
    value = storage.read_json(RunLayout(uri).run_json) or {}
    record = RunRecord.from_dict(value, RunLayout(uri).run_json)
    return _status(uri, record, with_stages=True)


def run_state(uri: str) -> str | None:
    """The state of the run in a folder: that of its record, or LOST; None where there is none."""
    record = _record(uri)
    return None if record is None else _status(uri, record, with_stages=False).state


def check_given(run: str) -> None:
    """Refuse an empty name, as of a shell's variable that is not set: all ids begin with it."""
    if not run:
        fix = "give a run's id or its beginning; `rvk8s list` shows the runs"
        raise InputError("is empty", where="RUN", fix=fix)


def find_run(root_uri: str, run: str) -> str:
    """The id of the run that a user means.

    Raises:
        InputError: there is no such run, or more than one; `run` is empty.
    """
    check_given(run)
    names = [name for name in storage.list_dirs(root_uri) if name.startswith(run)]
    if run not in names:
        names = [name for name in names if storage.exists(RunLayout(f"{root_uri}/{name}").run_json)]
    if run in names or len(names) == 1:
        return run if run in names else names[0]
    if names:
        some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise SeveralRuns(f"{len(names)} runs begin with {run}", fix=f"name one of {some}")
    fix = "`rvk8s list` shows the runs; --root-uri looks elsewhere"
    raise NoSuchRun(f"no run {run} in {root_uri}", fix=fix)


def _record(uri: str) -> RunRecord | None:
    value = storage.read_json(RunLayout(uri).run_json)
    try:
        return None if value is None else RunRecord.from_dict(value)
    except InputError:
        return None


def _status(uri: str, record: RunRecord, with_stages: bool) -> RunStatus:
    layout = RunLayout(uri)
    running = [stage for stage in record.stages if stage.state == State.RUNNING]
    lost = any(_is_lost(layout, stage) for stage in running) or _is_left(record)
    # Its stage may wait for a node, or its ranks for each other.
    lost = lost and not (record.engine == "kubernetes" and _lives(layout.heartbeat(DRIVER)))
    state = LOST if lost and record.state == State.RUNNING else str(record.state)
    stages = []
    for stage in record.stages if with_stages else ():
        progress = Progress()
        if stage in running:
            files = [
                storage.read_json(layout.progress(stage.name, split_of(stage.splits, index)))
                for index in range(stage.splits)
            ]
            progress = Progress.of_splits(files, stage.started)
        name = LOST if lost and stage in running else str(stage.state)
        stages.append(StageStatus(stage, name, progress))
    return RunStatus(uri, record, state, tuple(stages))


def _is_lost(layout: RunLayout, stage: StageRecord) -> bool:
    """Whether no split of a running stage shows life; young stages need time to begin."""
    if seconds_since(stage.started) < LOST_AFTER:
        return False
    splits = (split_of(stage.splits, index) for index in range(stage.splits))
    return not any(_lives(layout.heartbeat(stage.name, split)) for split in splits)


def _lives(heartbeat: str) -> bool:
    beat = storage.read_json(heartbeat)
    return beat is not None and seconds_since(str(beat["at"])) < LOST_AFTER


def _is_left(record: RunRecord) -> bool:
    """Whether nothing happens between two stages, or before the first: it takes seconds."""
    if any(stage.state == State.RUNNING for stage in record.stages):
        return False
    times = [record.started, *(stage.ended for stage in record.stages)]
    return min(seconds_since(time) for time in times if time or time is record.started) > LOST_AFTER


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
        parts += [Text(), Text(f"Go on with: {record.plan.go_on}")]
    return Group(*parts)


def _detail(stage: StageStatus) -> str:
    if stage.state == LOST:
        return "no heartbeat for more than a minute: its process is gone"
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
