"""Sees a run through to its end, or to a point: submit --wait and --follow, status -w, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from rvk8s.cluster import Cluster
from rvk8s.cluster.conditions import ENDED
from rvk8s.cluster.kinds import Forbidden, NoSuchKind
from rvk8s.cluster.watch import Watcher
from rvk8s.contract import STAGES, ExitCode, Label, State
from rvk8s.errors import InputError, Interrupted, Rvk8sError, WaitedTooLong
from rvk8s.runs import cluster_runs, display, status
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places, merged, record_of
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import LOST, RunStatus
from rvk8s.runs.summary import RunSummary

#: Seconds between two looks: at what the watches know, at a folder, at S3.
_TICK, _FOLDER, _REMOTE = 0.3, 1.0, 5.0
#: Seconds after which storage that could not be read is asked again.
_AGAIN = 60.0
#: Words of wait's --for -> whether a state is meant.
_TARGETS: dict[str, tuple[str, ...]] = {
    "succeeded": (State.SUCCEEDED,),
    "failed": (State.FAILED, State.CANCELLED, LOST),
    "ended": (State.SUCCEEDED, State.FAILED, State.CANCELLED, LOST),
}


class RunFailed(Rvk8sError):
    """The run that was waited for failed or was cancelled; exits with its code, or the nearest."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = ExitCode.nearest(code)


@dataclass(frozen=True)
class Condition:
    """What a run is waited for.

    Attributes:
        text: as the user has it.
        holds: whether a run has come so far.
    """

    text: str
    holds: Callable[[RunStatus], bool]


def until_ended(places: Places, run: str, *, show: bool, go_on: str) -> None:
    """Wait until a run has ended.

    Args:
        show: show its stages as `rvk8s run` does, and in the end its scores.
        go_on: the command that follows it again.

    Raises:
        RunFailed: it failed or was cancelled.
        Interrupted: Ctrl-C; the run goes on.
    """
    with ExitStack() as stack:
        shown: display.Display | None = None
        try:
            for found in changes(places, run):
                record = record_of(found)
                if show and shown is None:
                    reachable = not places.faults
                    for note in places.notes():
                        display.say(note)
                    context = display.show(record.plan, "auto", progress=reachable)
                    shown = stack.enter_context(context)
                if shown is not None:
                    shown.update(record)
                if found.state in _TARGETS["ended"]:
                    break
        except KeyboardInterrupt:
            raise Interrupted(f"the run goes on; see it again with: {go_on}") from None
    if found.state != State.SUCCEEDED:
        raise _failure(found)
    if show and not places.faults:
        summary = RunSummary.of(record)
        display.print_summary(record, summary.scores, summary.pictures)


def each_change(places: Places, run: str, write: Callable[[RunStatus], None]) -> None:
    """Write a run as it is, and again each time that it has changed, until it has ended.

    Raises:
        RunFailed: it failed or was cancelled since.
        Interrupted: Ctrl-C; the run goes on.
    """
    written: dict[str, Any] | None = None
    try:
        for found in changes(places, run, noted=True):
            first, value = written is None, found.to_dict()
            if value != written:
                write(found)
            written = value
            if found.state in _TARGETS["ended"]:
                break
    except KeyboardInterrupt:
        raise Interrupted("the run goes on") from None
    if found.state != State.SUCCEEDED and not first:
        raise _failure(found)


def condition(text: str) -> Condition:
    """What succeeded, failed, ended, or stage=NAME (until that stage is done) stands for.

    Raises:
        InputError: it is none of these.
    """
    if text in _TARGETS:
        return Condition(text, lambda found: found.state in _TARGETS[text])
    word, _, stage = text.partition("=")
    if word != "stage" or stage not in STAGES:
        fix = f"give succeeded, failed, ended, or stage= with one of {', '.join(STAGES)}"
        raise InputError(f"{text!r} cannot be waited for", where="--for", fix=fix)
    done = (State.SUCCEEDED, State.SKIPPED)

    def holds(found: RunStatus) -> bool:
        # Of a stage that was skipped the cluster has nothing: the run's end says that it is done.
        return found.state == State.SUCCEEDED or found.record.stage(stage).state in done

    return Condition(text, holds)


def until(
    places: Places, run: str, wanted: Condition, timeout: float | None, began: float
) -> RunStatus:
    """Wait until a run is as wanted.

    Args:
        timeout: seconds since `began`, a time.monotonic(); None: no end.

    Raises:
        InputError: there is no such run, or it is gone.
        WaitedTooLong: it is not so after the time.
        RunFailed: it can no longer be so: the run has ended otherwise.
    """
    for found in changes(places, run):
        if wanted.holds(found):
            return found
        if found.state in _TARGETS["ended"]:
            if found.state == State.SUCCEEDED:
                raise RunFailed(f"{found.run_id} has succeeded", ExitCode.FAILED)
            raise _failure(found)
        if timeout is not None and time.monotonic() - began > timeout:
            what = f"{found.run_id} is {found.state} after {timeout:g} s, not {wanted.text}"
            raise WaitedTooLong(what)
    raise AssertionError("changes() never ends")


def changes(places: Places, run: str, noted: bool = False) -> Iterator[RunStatus]:
    """A run as it is, again and again, with a pause between two looks; never ends by itself.

    Args:
        noted: look again and again, too, why its pods don't run; else only the first has notes.

    Raises:
        InputError: there is no such run, or it is gone.
    """
    found, there = places.find(run)
    yield found
    if there is not None and places.cluster is not None:
        notes = found.notes if noted else None
        yield from _cluster_changes(places, places.cluster, there, notes)
        return
    pause = _REMOTE if found.uri.startswith("s3://") else _FOLDER
    while True:
        time.sleep(pause)
        now = status.read_status(found.uri)
        if now is None:
            raise InputError(f"{found.uri} was deleted")
        yield now


def _cluster_changes(
    places: Places, cluster: Cluster, there: ClusterRun, notes: tuple[str, ...] | None
) -> Iterator[RunStatus]:
    """`notes`: those of the first look, to be looked for again and again; None: of no interest."""
    labels = f"{Label.RUN}={there.run_id}"
    scheduled = Label.RUN not in there.driver["metadata"]["labels"]
    root, read_at, noted_at = there.root_uri, float("-inf"), time.monotonic()
    uri = f"{root}/{there.run_id}"
    stored: RunStatus | None = None
    with ExitStack() as stack:
        jobs = stack.enter_context(Watcher(cluster, "Job", labels))
        training = stack.enter_context(Watcher(cluster, "PyTorchJob", labels))
        own = stack.enter_context(Watcher(cluster, "Job", cluster_runs.OURS)) if scheduled else jobs
        while True:
            drivers = [j for j in own.objects().values() if j["metadata"]["name"] == there.run_id]
            if not drivers:
                raise InputError(f"{there.run_id} was deleted from namespace {cluster.namespace}")
            items = [*jobs.objects().values(), *_objects(training)]
            now = ClusterRun(
                there.run_id,
                drivers[0],
                cluster_runs.in_order(i for i in items if Label.STAGE in i["metadata"]["labels"]),
                plan=there.plan,
            )
            if now.state in ENDED:  # its pods know the exit codes
                now = cluster_runs.find(cluster, there.run_id) or now
            if root in places.faults and time.monotonic() - read_at >= _AGAIN:
                del places.faults[root]
            if time.monotonic() - read_at >= _REMOTE or now.state in ENDED:
                if root not in places.faults:
                    read_at = time.monotonic()
                stored = places.stored(root, lambda: status.read_status(uri))
            found = merged(now, stored)
            if notes is not None:
                if time.monotonic() - noted_at >= _REMOTE or now.state in ENDED:
                    noted_at = time.monotonic()
                    with_pods = cluster_runs.find(cluster, there.run_id) or now
                    notes = places.noted(cluster, found, with_pods).notes
                found = replace(found, notes=notes)
            yield found
            time.sleep(_TICK)


def _objects(training: Watcher) -> list[cluster_runs.Object]:
    try:
        return list(training.objects().values())
    except (Forbidden, NoSuchKind):  # the cluster has no training operator, the user no right
        return []


def _failure(found: RunStatus) -> RunFailed:
    record: RunRecord = found.record
    message = record.message or f"{found.run_id} is {found.state}"
    if found.state == State.CANCELLED:
        return RunFailed(f"{found.run_id} was cancelled", record.exit_code or ExitCode.INTERRUPTED)
    if found.state == LOST:
        return RunFailed(f"{found.run_id} is lost: no stage shows life", ExitCode.FAILED)
    return RunFailed(message, record.exit_code or ExitCode.FAILED)
