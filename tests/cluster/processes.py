"""Processes of the test cluster: started in the background, waited for, found again, ended; and
locks between those that test on it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class NotReady(Exception):
    """Something did not come up in time; the message ends with the last lines of its log."""


def start(
    folder: Path,
    name: str,
    command: Sequence[str | Path],
    environ: Mapping[str, str] | None = None,
) -> int:
    """Start a process in a session of its own: it outlives whoever started it.

    Args:
        folder: gets `NAME.log` and `NAME.pid`.
        environ: variables beside the current ones.

    Returns:
        Its pid.
    """
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
    # The start time tells the process from a later one with the same number.
    (folder / f"{name}.pid").write_text(f"{process.pid} {_started(process.pid)}")
    # Whoever started it takes its exit status, or it would stay in the table of processes.
    threading.Thread(target=process.wait, daemon=True).start()
    return process.pid


def pid(folder: Path, name: str) -> int | None:
    """The pid of a process that still runs, or None."""
    try:
        number, started = (folder / f"{name}.pid").read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(number) if _started(int(number)) == started else None


def stop(folder: Path, name: str, seconds: float = 10, sig: int = signal.SIGTERM) -> None:
    """End a process: by a signal, after some seconds by SIGKILL; nothing where it does not run."""
    number = pid(folder, name)
    if number is not None:
        os.kill(number, sig)
        deadline = time.monotonic() + seconds
        while pid(folder, name) is not None:
            if time.monotonic() > deadline:
                os.kill(number, signal.SIGKILL)
                deadline += 5
            time.sleep(0.02)
    (folder / f"{name}.pid").unlink(missing_ok=True)


def wait(
    what: str,
    ready: Callable[[], bool],
    seconds: float,
    folder: Path | None = None,
    name: str = "",
) -> None:
    """Wait until `ready()`.

    Args:
        folder, name: a process that must go on running meanwhile; its log explains a failure.

    Raises:
        NotReady: in time it was not ready, or the process ended.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        gone = folder is not None and pid(folder, name) is None
        if gone or time.monotonic() > deadline:
            why = "its process ended" if gone else f"not ready after {seconds:.0f} s"
            raise NotReady(f"{what}: {why}\n{log_end(folder, name) if folder else ''}")
        time.sleep(0.05)


def log_end(folder: Path, name: str, lines: int = 15) -> str:
    """The last lines of a process's log."""
    log = folder / f"{name}.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports on which nothing listens now, all different."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind((host, 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@contextmanager
def locked(file: Path, shared: bool = False) -> Iterator[BinaryIO]:
    """A lock that one process holds, or several that share it; one that dies gives it up.

    Yields:
        The open file, for is_last.
    """
    with file.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield held


def is_last(held: BinaryIO) -> bool:
    """Whether nobody else shares a lock; this process may not rely on its share afterwards."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started(number: int) -> str:
    """When a process was started, in clock ticks since boot; "" where there is none."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
