"""The engine of one machine: `rvk8s run`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from rvk8s import storage
from rvk8s.contract import CONFIGURE, ExitCode, State, split_of
from rvk8s.drive import Driver
from rvk8s.engines.lock import run_lock
from rvk8s.engines.processes import ProcessLauncher
from rvk8s.errors import InputError, InputErrors, Interrupted, Rvk8sError
from rvk8s.going_on import check_same
from rvk8s.plan import Plan
from rvk8s.runs import display
from rvk8s.runs.go_on import command
from rvk8s.runs.record import RunRecord, read_record
from rvk8s.runs.summary import RunSummary


class RunError(Rvk8sError):
    """A stage failed; exits with its code.

    Attributes:
        summary: the run, as far as it came.
    """

    def __init__(self, message: str, code: int, summary: RunSummary):
        super().__init__(message)
        self.exit_code = ExitCode.nearest(code)
        self.summary = summary


def run(plan: Plan, *, run_id_given: bool, output: Literal["auto", "json"] = "auto") -> RunSummary:
    """Run a plan on this machine, or go on with it.

    Args:
        plan: what to do.
        run_id_given: go on with a run that exists.
        output: auto shows progress on stderr and the scores on stdout; json nothing on stdout: the
            caller prints the summary.

    Raises:
        RunError: a stage failed.
        InputError: the data or configuration is wrong; a new run is then removed again. Or there is
            no such run, it was begun otherwise, another process runs it, the root cannot be
            written, or this install cannot do stages.
        Interrupted: Ctrl-C or SIGTERM; all processes are gone.
    """
    _check_installed()
    made_root = not storage.is_s3(plan.root_uri) and not os.path.exists(plan.root_uri)
    if run_id_given:
        _check_exists(plan)
    else:
        storage.check_writable(plan.root_uri)
    scratch = Path(tempfile.mkdtemp(prefix="rvk8s-"))
    try:
        with run_lock(plan), _signals() as cancelled, display.show(plan, output) as shown:
            driver = Driver(
                plan,
                ProcessLauncher(plan, scratch),
                engine="local",
                observe=shown.update,
                cancelled=cancelled,
            )
            record = driver.drive()
    except Interrupted:
        display.say(f"finished stages stay finished; go on with\n  {plan.go_on}")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not run_id_given and _refused_at_once(record):
        _remove(plan, made_root)
        lines = str(record.stage(CONFIGURE).message).splitlines()
        raise InputErrors([InputError(line) for line in lines])
    summary = RunSummary.of(record)
    if record.state == State.FAILED:
        _say_how_to_go_on(record)
        raise RunError(str(record.message), int(record.exit_code or 1), summary)
    if output == "auto":
        display.print_summary(record, summary.scores, summary.pictures)
    return summary


def _check_installed() -> None:
    for name, what in (("rastervision.pipeline", "Raster Vision"), ("torch", "torch")):
        if importlib.util.find_spec(name) is None:
            fix = "in rvk8s's checkout: pip install '.[stage]'; or `rvk8s submit` to a cluster"
            raise InputError(f"this install is the client alone, without {what}", fix=fix)


def _check_exists(plan: Plan) -> None:
    record = read_record(plan.layout.run_json)
    if record is None:
        fix = "`rvk8s list` shows the runs"
        raise InputError(f"no run {plan.run_id} in {plan.root_uri}", where="--run-id", fix=fix)
    before = record.plan
    if before.experiment != plan.experiment:
        fix = f"go on with `{before.go_on}`"
        what = f"{plan.run_id} is a run of {before.experiment}, not of {plan.experiment}"
        raise InputError(what, where="--run-id", fix=fix)
    check_same(plan, before)


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and a closed terminal are only noted; yields whether one of them came.

    What was ignored from the start stays so: nohup does it, and a shell's script for `rvk8s run &`.
    """
    # No threading.Event: a signal that interrupts the handler of another one would want its lock.
    received: list[int] = []

    def came() -> bool:
        return bool(received)

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    may_be_ignored = (signal.SIGINT, signal.SIGHUP)
    heard = [n for n in may_be_ignored if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, *heard)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refused_at_once(record: RunRecord) -> bool:
    configure = record.stage(CONFIGURE)
    return configure.state == State.FAILED and configure.exit_code == ExitCode.BAD_INPUT


def _remove(plan: Plan, made_root: bool) -> None:
    """Remove the folder of a run that never began, and the root if it was made for it."""
    storage.delete_tree(plan.run_uri)
    if made_root and not os.listdir(plan.root_uri):
        os.rmdir(plan.root_uri)


def _say_how_to_go_on(record: RunRecord) -> None:
    """Where the log of the stage that failed lies, and the command that goes on."""
    plan = record.plan
    failed = next(stage for stage in record.stages if stage.state == State.FAILED)
    split = split_of(failed.splits, failed.failed_split or 0)
    display.say(f"log:   {plan.layout.log(failed.name, split)}\ngo on: {command(record)}")
