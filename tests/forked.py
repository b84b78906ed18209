"""`rvk8s` and its driver as forks of a process that has imported what they import.

Started as a program, a command takes a second of a slow core, nearly all of it imports, and these
tests start many hundred. A fork is else what the program is: a process with arguments, a folder, an
environment and standard streams of its own, which is waited for and killed like one. What a start
takes, and whether the program is found, is for tests that start the real one.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection, reduction
from pathlib import Path
from typing import IO, Any

import rvk8s

CLIENT, DRIVER = "rvk8s.cli", "rvk8s.engines.driver"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [module.name for module in pkgutil.walk_packages(rvk8s.__path__, "rvk8s.")]
    # Not Helm: it brings threads, and they do not survive a fork.
    + ["kubernetes.client.api_client", "kubernetes.config.kube_config", "boto3.s3.transfer"]
)
#: Threads must not look at once whether a process has ended: its code can be read only once.
_lock = threading.Lock()
_readers = ThreadPoolExecutor(64, thread_name_prefix="communicate")
#: Seconds from a process's end to that of its output, which a child of its own may keep open.
_LAST_WORDS = 10.0


class Forked:
    """A program that runs, with what tests use of subprocess.Popen.

    Args:
        module: CLIENT or DRIVER.
        log: an open file for all that it says; else there are the pipes stdout and stderr.
        python: the program that it starts its stages with; None: this process's own.
    """

    def __init__(
        self,
        module: str,
        args: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: IO[bytes] | None = None,
        python: Path | None = None,
    ):
        self.args = [module, *args]
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        if log is None:
            (from_out, out), (from_err, err) = os.pipe(), os.pipe()
            self.stdout = os.fdopen(from_out, encoding="utf-8")
            self.stderr = os.fdopen(from_err, encoding="utf-8")
        else:
            out = err = log.fileno()
        self._process = _context.Process(
            target=_become,
            args=(self.args, str(cwd), dict(env), _Open(out), _Open(err), python),
            daemon=True,
        )
        with _lock:
            self._process.start()
        if log is None:
            os.close(out)
            os.close(err)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        if not connection.wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; the rest of stdout and stderr."""
        assert self.stdout
        assert self.stderr
        said = [_readers.submit(_rest, stream) for stream in (self.stdout, self.stderr)]
        self.wait(timeout)
        out, err = (one.result(_LAST_WORDS) for one in said)
        return out, err

    def finish(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end, or kill it.

        Raises:
            subprocess.TimeoutExpired: it was killed.
        """
        try:
            out, err = self.communicate(timeout)
        finally:
            self.kill()
        return subprocess.CompletedProcess(self.args, self.wait(), out, err)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it may end now, and nobody keeps it as a zombie
                os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self._process.kill()


def _rest(stream: IO[str]) -> str:
    with stream:
        return stream.read()


def run_client(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float, forked: bool
) -> subprocess.CompletedProcess[str]:
    """`rvk8s ARGS` to its end: as a fork, or as a program that starts anew.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    if forked:
        return Forked(CLIENT, args, cwd=cwd, env=env).finish(timeout)
    program = [str(Path(sys.executable).parent / "rvk8s"), *args]
    pipe = subprocess.PIPE
    return subprocess.run(
        program, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True, timeout=timeout, check=False
    )


class _Open:
    """A file descriptor, which is another number in the process that it is sent to."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(sent: Any) -> int:
    number: int = sent.detach()
    return number


def _become(
    args: list[str],
    folder: str,
    environ: dict[str, str],
    out: int,
    err: int,
    python: Path | None,
) -> None:
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    for number, standard in ((out, 1), (err, 2)):
        os.dup2(number, standard)
    for number in {out, err}:
        os.close(number)
    # Those of the parent remember whether what they had could be sought in.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    tempfile.tempdir = None  # of the parent's TMPDIR
    sys.argv = args
    if python:
        sys.executable = str(python)
    try:
        importlib.import_module(args[0]).main()
    finally:
        atexit._run_exitfuncs()  # as a program does, and a child of multiprocessing does not
