"""`rvk8s-stage NAME`: one stage of a run, or one split of it. The entry point of every pod.

It reads contract.Env, does the work if it is not done, and leaves markers, a heartbeat and its
progress in the run's folder. Its exit status is one of contract.ExitCode. Killed at any moment and
started again, it goes on and ends in the same results.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rastervision.kubernetes import marks
from rastervision.kubernetes.context import Context
from rastervision.kubernetes.failures import chain, explain, one_line
from rastervision.kubernetes.heartbeat import Heartbeat

from rvk8s import storage
from rvk8s.contract import CONFIGURE, Env, ExitCode, now
from rvk8s.errors import InputError, Interrupted, Preempted, Rvk8sError

log = logging.getLogger(__name__)

#: Seconds from the engine's death to the end of this process, if it does not stop by itself.
_ORPHAN_GRACE = 8.0
#: Endings of the files that a training leaves: checkpoints and bundles, also Raster Vision's own.
_MODELS = (".pt", ".pth", ".zip")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class _Signalled(BaseException):
    """Raised in the main thread by a signal; no `except Exception` of others catches it."""

    def __init__(self, number: int):
        self.number = number


def main(argv: Sequence[str] | None = None) -> None:
    """Do the stage that the command line names and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _fix_hash_seed(arguments)
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"usage: rvk8s-stage NAME\n\n{__doc__}")
        sys.exit(ExitCode.OK if len(arguments) == 1 else ExitCode.BAD_INPUT)
    _set_environment()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    sys.exit(run(arguments[0]))


def run(name: str) -> ExitCode:
    """Do a stage; every error ends as an exit code, a line in the log and failed.json."""
    context = None
    try:
        with _signals():
            context = Context.from_environ(name)
            _do(context)
        return ExitCode.OK
    except BaseException as error:  # noqa: BLE001 - this is where exit codes are made
        return _fail(context, error)


def _do(context: Context) -> None:
    storage.delete_file(context.layout.failed(context.stage, context.split))
    inputs = marks.input_hash(context)
    done = marks.done(context)
    if done and done["inputs"] == inputs and not context.rerun:
        log.info("Stage %s is done already, with the same inputs.", context.stage)
        return
    work = Path(tempfile.mkdtemp(prefix="rvk8s-stage-"))
    # Whoever makes temporary files in this process makes them there, so that none stays.
    tempfile.tempdir = str(work)
    try:
        with Heartbeat(context, work) as heartbeat:
            os.environ[Env.PROGRESS_FILE] = str(heartbeat.progress_file)
            _work(context, work, inputs)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _work(context: Context, work: Path, inputs: str) -> None:
    began, clock = now(), time.monotonic()
    folder = context.plan.project_dir
    if os.path.isdir(folder):
        os.chdir(folder)
    log.info("Stage %s: split %d of %d", context.stage, context.index + 1, context.splits)
    _import_raster_vision(work)
    # After the imports, which are a stage's longest time with nothing to lose.
    from rastervision.kubernetes.configure import configure
    from rastervision.kubernetes.outputs import clear, run_command

    started = marks.started(context)
    if context.rerun or not started or started["inputs"] != inputs:
        if started and started["inputs"] not in ("", inputs):
            if context.stage == "train" and not context.rerun:
                _refuse_to_lose_a_model(context)
            log.warning("The config or the code has changed: what the stage wrote is removed.")
        clear(context)
        marks.write_started(context, inputs)
    if context.stage == CONFIGURE:
        outputs, extra = configure(context, work)
        inputs = marks.configure_hash(context, extra["sources"])
    else:
        outputs, extra = run_command(context, work, inputs), {}
    marks.write_done(context, inputs, began, time.monotonic() - clock, outputs, extra)
    log.info("Stage %s is done: %.1f s", context.stage, time.monotonic() - clock)


def _refuse_to_lose_a_model(context: Context) -> None:
    """Raises InputError if the train folder holds a model of other inputs: hours of work."""
    config = storage.read_json(context.layout.config_uri) or {}
    folder = config.get("train_uri", "")
    if any(name.endswith(_MODELS) for name in storage.list_files(folder)):
        raise InputError(
            f"{folder} holds a model of another config, other chips or another version of the code",
            fix="start a new run, or give --rerun train to train anew and lose it",
        )


def _import_raster_vision(work: Path) -> None:
    """Import what every stage needs, and seed what Raster Vision draws at random."""
    import random

    import numpy as np
    import torch
    from rastervision.pipeline import rv_config_

    # Raster Vision has a log handler of its own.
    logging.getLogger("rastervision").propagate = False
    # Keeps Raster Vision's cache of imagery for the stages that come after this one.
    rv_config_.set_tmp_dir_root(os.environ.get("TMPDIR") or str(work))
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if threads := os.environ.get(Env.THREADS):
        torch.set_num_threads(int(threads))


def _fail(context: Context | None, error: BaseException) -> ExitCode:
    """Log an error, write failed.json, and say which exit code it has."""
    # From here on a signal would only interrupt the writing.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = _known(context, error)
    if known is None:
        log.error("Stage failed", exc_info=error)
        code, message = ExitCode.FAILED, f"{one_line(error)} (the log has the traceback)"
    else:
        code, message = known.exit_code, str(known)
        for line in message.splitlines():
            log.error("%s", line)
    if context:
        value = {"exitCode": int(code), "message": message, "at": now()}
        uri = context.layout.failed(context.stage, context.split)
        try:
            storage.write_json(uri, value)
        except (Rvk8sError, OSError) as second:
            log.error("%s is not written: %s", uri, second)
    return code


def _known(context: Context | None, error: BaseException) -> Rvk8sError | None:
    # A signal in the middle of torch.save ends as torch's complaint about half a file.
    signalled = next((one for one in chain(error) if isinstance(one, _Signalled)), None)
    if signalled and signalled.number == signal.SIGTERM:
        return Preempted("ended by SIGTERM; a restart goes on from here")
    if signalled or isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
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
def _signals() -> Iterator[None]:
    """SIGTERM and SIGINT are raised as _Signalled; the engine's death is a SIGTERM."""

    def handle(number: int, frame: FrameType | None) -> None:
        # Once: a second one must not interrupt the writing of failed.json.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Signalled(number)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
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
    for name in _THREAD_VARIABLES:
        if threads := os.environ.get(Env.THREADS):
            os.environ[name] = threads
    if os.environ.get(Env.GPUS) == "0":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Threads that spin while they wait steal the cores of the other splits, and of other pods: on
    # two shared cores a training step took 2.5 to 4 times as long (docs/benchmarks.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    if not sys.stderr.isatty():
        # Progress bars would fill the log; progress.json has the numbers.
        os.environ.setdefault("TQDM_DISABLE", "1")


if __name__ == "__main__":
    main()
