"""`rvk8s-stage NAME`: one stage of a run, or one split of it. The entry point of every pod.

It reads contract.Env, does the work if it is not done, and leaves markers, a heartbeat and its
progress in the run's folder. Its exit status is one of contract.ExitCode. Killed at any moment and
started again, it goes on and ends in the same results.

Where several processes train, the one that the engine starts is their agent (see launch.py), and
of the ranks only rank 0 writes. It writes everything, the done-marker last; then all meet at a
barrier: a PyTorchJob may be over, and its other pods gone, as soon as one of them has ended.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from rastervision.kubernetes import launch, marks, threads
from rastervision.kubernetes.context import Context
from rastervision.kubernetes.failure_report import write_failed, write_termination_message
from rastervision.kubernetes.failures import explain, one_line
from rastervision.kubernetes.heartbeat import Heartbeat

from rvk8s import storage
from rvk8s.contract import CONFIGURE, Env, ExitCode, now
from rvk8s.errors import InputError, Interrupted, Preempted, Rvk8sError, StorageUnavailable

if TYPE_CHECKING:
    from rastervision.fastai_backend.distributed import Group

_T = TypeVar("_T")

log = logging.getLogger(__name__)

#: Seconds from the engine's death to the end of this process, if it does not stop by itself.
_ORPHAN_GRACE = 8.0
#: Seconds before a stage looks again for storage that was away, doubled up to the second number.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
#: Endings of the files that a training leaves: checkpoints and bundles, also Raster Vision's own.
_MODELS = (".pt", ".pth", ".zip")


class _Signalled(BaseException):
    """Raised in the main thread by a signal; no `except Exception` of others catches it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Do the stage that the command line names and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fix_hash_seed(arguments)
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"usage: rvk8s-stage NAME\n\n{__doc__}")
        sys.exit(ExitCode.OK if len(arguments) == 1 else ExitCode.BAD_INPUT)
    # Imports make half a million objects and next to no garbage, and each collection walks them: a
    # fifth of the imports' time. From _collect_again() on there are collections.
    gc.disable()
    _set_environment()
    level, who = launch.log_as() if launch.is_rank() else (logging.INFO, "")
    logging.basicConfig(
        level=level, stream=sys.stderr, format=f"%(asctime)s %(levelname)s {who}%(message)s"
    )
    # It says for each client where its keys are from.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    code = run(arguments[0])
    if launch.is_rank():
        launch.leave(code)
    sys.exit(code)


def run(name: str) -> int:
    """Do a stage; every error ends as an exit code, a line in the log and failed.json."""
    context, began = None, now()
    signalled: list[int] = []
    try:
        with _signals(signalled):
            context = Context.from_environ(name)
            _do(context)
        return ExitCode.OK
    except BaseException as error:  # noqa: BLE001 - this is where exit codes are made
        return _fail(context, error, began, signalled)


def _do(context: Context) -> None:
    group: Group | None = None
    if context.stage == "train":
        if launch.is_rank():
            group = launch.join()
        else:
            several = launch.Launch.from_environ()
            if several.world_size > 1:
                _do_as_agent(context, several)
                return
            launch.forget_node()
    look = lambda: _patiently(context, lambda: _look(context))  # noqa: E731
    inputs = group.from_first(look) if group else look()
    if inputs is None:
        return
    with _work_folder() as work:
        if group and not group.writes:
            _work(context, work, inputs, group)
        else:
            with Heartbeat(context, work) as heartbeat:
                os.environ[Env.PROGRESS_FILE] = str(heartbeat.progress_file)
                _work(context, work, inputs, group)
    if group:
        group.barrier()


def _do_as_agent(context: Context, several: launch.Launch) -> None:
    # On several nodes rank 0 alone decides: a node that comes late may find another answer.
    if several.nodes == 1 and _patiently(context, lambda: _look(context)) is None:
        return
    _collect_again()
    with _work_folder() as work:
        launch.run(several, context.stage, work)


def _look(context: Context) -> str | None:
    """The hash of the stage's inputs; None where it is done with them."""
    failed = context.layout.failed(context.stage, context.split)
    if storage.exists(failed):  # S3 asks for the right to delete also where there is nothing
        storage.delete_file(failed)
    inputs = marks.input_hash(context)
    done = marks.done(context)
    if done and done["inputs"] == inputs:
        log.info("Stage %s is done already, with the same inputs.", context.stage)
        return None
    return inputs


def _patiently(context: Context, work: Callable[[], _T]) -> _T:
    """The result of something that reads storage, before there is anything to lose.

    A pod that ends at once because storage is away is started again, but only so many times, and
    soon: storage may be away for longer than that.
    """
    end, pause = time.monotonic() + context.storage_patience, _FIRST_PAUSE
    while True:
        try:
            return work()
        except StorageUnavailable as error:
            if time.monotonic() + pause > end:
                raise
            log.warning("%s; trying again in %.0f s", error, pause)
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder of this process, removed at the end."""
    work = Path(tempfile.mkdtemp(prefix="rvk8s-stage-"))
    # Whoever makes temporary files in this process makes them there, so that none stays.
    tempfile.tempdir = str(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _work(context: Context, work: Path, inputs: str, group: Group | None = None) -> None:
    began, clock = now(), time.monotonic()
    writes = group is None or group.writes
    folder = context.plan.project_dir
    if os.path.isdir(folder):
        os.chdir(folder)
    log.info("Stage %s: split %d of %d", context.stage, context.index + 1, context.splits)
    _import_raster_vision(context, work)
    # After the imports, which are a stage's longest time with nothing to lose.
    from rastervision.kubernetes.configure import configure
    from rastervision.kubernetes.outputs import clear, run_command

    _collect_again()
    if writes:
        _start(context, inputs, clear)
    if group:
        group.barrier()
    if context.stage == CONFIGURE:
        outputs, extra = configure(context, work)
        inputs = marks.configure_hash(context, extra["sources"])
    else:
        outputs, extra = run_command(context, work, inputs), {}
    if writes:
        marks.write_done(context, inputs, began, time.monotonic() - clock, outputs, extra)
        log.info("Stage %s is done: %.1f s", context.stage, time.monotonic() - clock)


def _collect_again() -> None:
    """Collect garbage from here on, and never walk again what was imported: so a loader's workers,
    which are forks, keep sharing its memory."""
    gc.enable()
    gc.freeze()


def _start(context: Context, inputs: str, clear: Callable[[Context], None]) -> None:
    """Clear what an attempt with other inputs left, and say that outputs are of these."""
    started = marks.started(context)
    if not started or started["inputs"] != inputs:
        if started and started["inputs"] not in ("", inputs):
            if context.stage == "train":
                _refuse_to_lose_a_model(context)
            log.warning("The config or the code has changed: what the stage wrote is removed.")
        clear(context)
        marks.write_started(context, inputs)


def _refuse_to_lose_a_model(context: Context) -> None:
    """Raises InputError if the train folder holds a model of other inputs: hours of work."""
    config = storage.read_json(context.layout.config_uri) or {}
    folder = config.get("train_uri", "")
    if any(name.endswith(_MODELS) for name in storage.list_files(folder)):
        raise InputError(
            f"{folder} holds a model of another config, other chips or another version of the code",
            fix="start a new run, or give --rerun train to train anew and lose it",
        )


def _import_raster_vision(context: Context, work: Path) -> None:
    """Import what the stage needs, and seed what Raster Vision draws at random."""
    import random

    import numpy as np
    from rastervision.kubernetes.lean import import_raster_vision

    config: dict[str, Any] = {}
    if context.stage != CONFIGURE:
        config = _patiently(context, lambda: storage.read_json(context.layout.config_uri) or {})
    import_raster_vision(context.stage, config)

    from rastervision.kubernetes import gdal
    from rastervision.pipeline import rv_config_

    gdal.prepare()

    # Raster Vision has a log handler of its own.
    logging.getLogger("rastervision").propagate = False
    if launch.is_rank():
        logging.getLogger("rastervision").setLevel(launch.log_as()[0])
    # Keeps Raster Vision's cache of imagery for the stages that come after this one.
    rv_config_.set_tmp_dir_root(os.environ.get("TMPDIR") or str(work))
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        if number := os.environ.get(Env.THREADS):
            torch.set_num_threads(int(number))


def _fail(
    context: Context | None, error: BaseException, began: str, signalled: Sequence[int]
) -> int:
    """Log an error, write failed.json (a rank: tell its agent), and say which exit code it has."""
    # From here on a signal would only interrupt the writing.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = _known(context, error, signalled)
    if known is None:
        log.error("Stage failed", exc_info=error)
        code, message = int(ExitCode.FAILED), f"{one_line(error)} (the log has the traceback)"
    else:
        code, message = launch.code_of(known), str(known)
        for line in message.splitlines():
            log.error("%s", line)
    lost = launch.is_lost(known)
    if launch.is_rank():
        launch.tell_agent(message, code, lost=lost, known=known is not None)
        return code
    write_termination_message(message)
    if context:
        # Nodes that are ended for another one's failure must not write over what it says.
        ended = isinstance(known, Preempted) and context.stage == "train"
        write_failed(context, message, code, began, tries=5 if lost else 1 if ended else 0)
    return code


def _known(
    context: Context | None, error: BaseException, signalled: Sequence[int]
) -> Rvk8sError | None:
    # Whatever the error: in the middle of torch.save a signal ends as torch's complaint about half
    # a file, and others may make an error of their own of it.
    if signal.SIGTERM in signalled:
        training = context is not None and context.stage == "train"
        resumes = "goes on from the last checkpoint, or anew without one"
        what = resumes if training else "goes on from here"
        return Preempted(f"ended by SIGTERM; a restart {what}")
    if signalled or isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if launch.is_rank() and (lost := launch.lost(error)):
        return lost
    return explain(error, _batch_size(context))


def _batch_size(context: Context | None) -> tuple[str, int] | None:
    """The option that decides how much memory the stage needs, and its value."""
    if context is None or context.stage not in ("train", "predict"):
        return None
    try:
        config = storage.read_json(context.layout.config_uri) or {}
    except (Rvk8sError, OSError):
        return None
    if context.stage == "predict":
        option, value = "predict_options.batch_sz", config.get("predict_options") or {}
    else:
        option, value = "solver.batch_sz", config.get("backend", {}).get("solver") or {}
    size = value.get("batch_sz")
    return (option, size) if isinstance(size, int) else None


@contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """SIGTERM and SIGINT are noted and raised as _Signalled; the engine's death is a SIGTERM."""

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Once: a second one must not interrupt the writing of failed.json.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Signalled

    # Gives signals a stack of their own, besides tracebacks of crashes: oneDNN's AVX-512 kernels
    # keep data below the stack pointer, and a signal on their stack writes over it (some 3 % of
    # SIGTERMs while a CPU predicted ended in "double free or corruption").
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    if launch.is_rank():
        launch.end_with_agent()
    if os.environ.get(Env.WATCH_PARENT) == "1":
        threading.Thread(target=_watch_parent, name="watch-parent", daemon=True).start()
    yield


def _watch_parent() -> None:
    """End this process group when the engine is gone: its end of our stdin is closed then."""
    while os.read(0, 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_GRACE)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _fix_hash_seed(arguments: Sequence[str]) -> None:
    """Start again with a fixed hash seed: Raster Vision walks over sets of scene ids.

    In another order the random windows of analyze would be others.
    """
    if os.environ.get("PYTHONHASHSEED") == "0":
        return
    os.environ["PYTHONHASHSEED"] = "0"
    command = [sys.executable, "-P", "-m", "rastervision.kubernetes.stage", *arguments]
    os.execv(sys.executable, command)


def _set_environment() -> None:
    """What libraries read when they are imported."""
    threads.prepare()
    if os.environ.get(Env.GPUS) == "0":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Threads that spin while they wait steal the cores of the other splits, and of other pods: on
    # two shared cores a training step took 2.5 to 4 times as long (docs/benchmarks.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    # conda turns it on. Without a way to the internet PROJ gives infinity then for EPSG:31468 and
    # others that have grids there; and the same run would have other places in other pods.
    os.environ["PROJ_NETWORK"] = "OFF"
    if not sys.stderr.isatty():
        # Progress bars would fill the log; progress.json has the numbers.
        os.environ.setdefault("TQDM_DISABLE", "1")


if __name__ == "__main__":
    main()
