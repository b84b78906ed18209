"""One `rvk8s run` at a time for a run: two would write the same files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rvk8s import storage
from rvk8s.errors import InputError
from rvk8s.plan import Plan
from rvk8s.storage import local_files

#: Of file systems that have no flock, as some network and FUSE mounts.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def run_lock(plan: Plan) -> Iterator[None]:
    """Hold the lock of a run; the kernel gives it back however this process ends.

    Raises:
        InputError: another process of this machine has it; names the process.
    """
    beside = not storage.is_s3(plan.run_uri)
    cached = _cached(plan.run_id, plan.run_uri)
    try:
        file = _locked(plan, Path(plan.layout.at(".rvk8s", "lock")) if beside else cached)
    except OSError as error:
        if not beside or error.errno not in _NO_LOCKS:
            raise
        file = _locked(plan, cached)
    with file:
        yield


def _locked(plan: Plan, path: Path) -> TextIO:
    """The lock's file; whoever closes it gives the lock back."""
    local_files.make_dir(path.parent)
    with ExitStack() as stack, local_files.errors(path):
        file = stack.enter_context(path.open("a+"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            fix = f"wait for it, or end it: kill {holder}"
            what = f"{plan.run_id} is being run by process {holder}"
            raise InputError(what, fix=fix) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        stack.pop_all()
    return file


def holder_of(run_id: str, run_uri: str) -> int | None:
    """The process that has a run; None where none has."""
    for path in _paths(run_id, run_uri):
        try:
            with path.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = path.read_text(encoding="utf-8").strip()
            return int(text) if text.isdecimal() else None
        except OSError:  # there is none, or no locks here
            continue
    return None


def is_of_this_machine(process: int, run_id: str, run_uri: str) -> bool:
    """Whether the process that has a run is one of this machine that we may look at.

    A lock on a network's file system, or one in a folder that a container shares, may be held by a
    process of elsewhere, whose number is another one's here.
    """
    if not os.path.isdir("/proc/self/fd"):  # not on Linux
        return True
    paths = [path for path in _paths(run_id, run_uri) if path.exists()]
    try:
        opened = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
    for file in opened:
        with suppress(OSError):  # it was closed meanwhile
            if any(os.path.samefile(file, path) for path in paths):
                return True
    return False


def _paths(run_id: str, run_uri: str) -> list[Path]:
    """Where the lock of a run may be."""
    cached = _cached(run_id, run_uri)
    return [cached] if storage.is_s3(run_uri) else [Path(run_uri, ".rvk8s", "lock"), cached]


def _cached(run_id: str, run_uri: str) -> Path:
    """A file of this user's for a run whose folder cannot hold a lock."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(run_uri.encode()).hexdigest()[:16]
    return cache / "rvk8s" / "locks" / f"{run_id}-{name}"
