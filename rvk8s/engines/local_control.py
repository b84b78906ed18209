"""Stops and removes runs of this machine: `rvk8s cancel` and `rvk8s delete`."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

from rvk8s import storage
from rvk8s.contract import ExitCode, RunLayout, State, now
from rvk8s.engines.lock import holder_of, is_of_this_machine
from rvk8s.errors import InputError, Rvk8sError
from rvk8s.heartbeat import local_process
from rvk8s.runs.record import read_record
from rvk8s.runs.status import NoSuchRun, find_run

#: Seconds that `rvk8s run` may take to end its stages, and to tell storage that hangs.
_STOPPED = 40.0
_POLL = 0.1


@dataclass(frozen=True)
class LocalRun:
    """A run of this machine.

    Attributes:
        run_id: its id.
        folder: its URI.
    """

    run_id: str
    folder: str

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.folder)


def find(root_uri: str, run: str) -> LocalRun:
    """The run of this machine that a user means.

    Args:
        run: a run's id, or the beginning of one and only one.

    Raises:
        NoSuchRun: there is none, or it is one of a cluster.
        InputError: there are several.
    """
    run_id = find_run(root_uri, run)
    found = LocalRun(run_id, f"{root_uri}/{run_id}")
    value = storage.read_json(found.layout.run_json)
    if value is None and not storage.exists(found.layout.run_json):
        fix = "`rvk8s list` shows the runs; --root-uri looks elsewhere"
        raise NoSuchRun(f"{found.folder} is no run: it has no run.json", fix=fix)
    if (value or {}).get("engine", "local") != "local":
        raise NoSuchRun(f"{run_id} is a run of a cluster", fix="-n says of which namespace")
    return found


def check_cancellable(run: LocalRun) -> None:
    """See that there is something to stop.

    Raises:
        InputError: it has ended, goes on elsewhere, or its run.json cannot be read.
    """
    record = read_record(run.layout.run_json)
    if record is None or record.is_over:
        state = record.state if record else "gone"
        raise InputError(f"{run.run_id} has ended: {state}", fix="there is nothing to cancel")
    _check_is_here(run)


def cancel(run: LocalRun) -> None:
    """Stop a run; what its finished stages have made stays. Where no process has it, say so there.

    Raises:
        InputError: its process is somebody else's.
        Rvk8sError: it does not stop.
    """
    process = holder_of(run.run_id, run.folder)
    if process is None:
        _write_cancelled(run)
        return
    if not is_of_this_machine(process, run.run_id, run.folder):
        if holder_of(run.run_id, run.folder) is None:  # it has ended meanwhile
            return
        what = f"process {process}, of another user or machine, runs {run.run_id}"
        raise InputError(what, fix="cancel it there")
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(process, signal.SIGTERM)
    end = time.monotonic() + _STOPPED
    while holder_of(run.run_id, run.folder) == process:
        if time.monotonic() > end:
            raise Rvk8sError(f"{run.run_id} has not stopped after {_STOPPED:.0f} s; it may yet")
        time.sleep(_POLL)


def check_deletable(run: LocalRun, results: bool) -> None:
    """See that there is something to delete, and that nobody works on it.

    Raises:
        InputError: its results are not meant, or a process has it.
    """
    if not results:
        what = f"{run.run_id} is a run of this machine, which has no objects in a cluster"
        raise InputError(what, fix="--results deletes its folder")
    process = holder_of(run.run_id, run.folder)
    if process is not None:
        fix = f"end it first: rvk8s cancel {run.run_id}"
        raise InputError(f"{run.run_id} is being run by process {process}", fix=fix)
    _check_is_here(run)


def delete(run: LocalRun) -> None:
    """Delete a run's folder."""
    check_deletable(run, results=True)  # nobody has begun it meanwhile
    storage.delete_tree(run.folder)


def _check_is_here(run: LocalRun) -> None:
    if holder_of(run.run_id, run.folder) is not None:
        return
    try:
        host = local_process(run.layout)
    except InputError:  # a damaged run.json keeps nobody from deleting it
        return
    if host:
        raise InputError(f"`rvk8s run` has {run.run_id}, on {host}", fix="end it there")


def _write_cancelled(run: LocalRun) -> None:
    """Of a run whose process was killed, run.json says for ever that it goes on."""
    record = read_record(run.layout.run_json)
    if record is None or record.is_over:
        return
    for stage in record.stages:
        if stage.state == State.RUNNING:
            stage.state, stage.ended = State.CANCELLED, now()
            stage.exit_code = ExitCode.INTERRUPTED
    record.state, record.ended = State.CANCELLED, now()
    record.exit_code, record.message = ExitCode.INTERRUPTED, "cancelled while no process ran it"
    storage.write_json(run.layout.run_json, record.to_dict())
