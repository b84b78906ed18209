"""What run.json, markers and heartbeats say about runs: for `rvk8s list` and `rvk8s status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rvk8s import storage
from rvk8s.contract import DRIVER, RunLayout, State, split_of
from rvk8s.errors import InputError
from rvk8s.heartbeat import LOST_AFTER, lives
from rvk8s.parallel import in_threads
from rvk8s.progress import Progress
from rvk8s.runs.record import RunRecord, StageRecord, read_record
from rvk8s.times import seconds_since

#: Shown instead of Running for a stage whose process is gone without saying so.
LOST = "Lost"


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
        unreadable: gets the runs that are left out, with the reason: we may not read them, their
            run.json is damaged, or another version of rvk8s wrote it.
    """

    def look(name: str) -> RunStatus | None:
        uri = f"{root_uri}/{name}"
        try:
            record = read_record(RunLayout(uri).run_json)
            if record is not None:
                return _status(uri, record, with_stages=False)
        except InputError as error:
            if unreadable is not None:
                unreadable[name] = error.what + (f"; {error.fix}" if error.fix else "")
        return None

    names = [name for name in storage.list_dirs(root_uri) if not name.startswith(".")]
    found = [run for run in in_threads(look, names) if run is not None]
    return sorted(found, key=lambda run: (run.record.plan.created, run.run_id), reverse=True)


def run_status(root_uri: str, run: str) -> RunStatus:
    """The status of one run.

    Args:
        run: a run's id, or the beginning of one and only one.

    Raises:
        InputError: there is no such run, or more than one.
    """
    uri = f"{root_uri}/{find_run(root_uri, run)}"
    found = read_status(uri)
    if found is None:
        fix = "`rvk8s list` shows the runs; --root-uri looks elsewhere"
        raise NoSuchRun(f"{uri} is no run: it has no run.json", fix=fix)
    return found


def read_status(uri: str) -> RunStatus | None:
    """The status of the run in a folder; None where no run is.

    Raises:
        InputError: its record is damaged, or that of another version.
    """
    record = read_record(RunLayout(uri).run_json)
    return None if record is None else _status(uri, record, with_stages=True)


def stored_state(uri: str) -> str | None:
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
    try:
        return read_record(RunLayout(uri).run_json)
    except InputError:
        return None


def _status(uri: str, record: RunRecord, with_stages: bool) -> RunStatus:
    layout = RunLayout(uri)
    running = [stage for stage in record.stages if stage.state == State.RUNNING]
    lost = any(_is_lost(layout, stage) for stage in running) or _is_left(record)
    # Its stage may wait for a node, or its ranks for each other.
    if record.engine == "kubernetes" and record.state == State.RUNNING:
        lost = _has_left(layout) or (lost and not lives(layout.heartbeat(DRIVER)))
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
    return not any(lives(layout.heartbeat(stage.name, split)) for split in splits)


def _has_left(layout: RunLayout) -> bool:
    """Whether the last driver says that it left for good: somebody deleted its Job."""
    return bool((storage.read_json(layout.heartbeat(DRIVER)) or {}).get("left"))


def _is_left(record: RunRecord) -> bool:
    """Whether nothing happens between two stages, or before the first: it takes seconds."""
    if any(stage.state == State.RUNNING for stage in record.stages):
        return False
    times = [record.started, *(stage.ended for stage in record.stages)]
    return min(seconds_since(time) for time in times if time or time is record.started) > LOST_AFTER
