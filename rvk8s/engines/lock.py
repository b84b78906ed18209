"""One `rvk8s run` at a time for a run: two would write the same files."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rvk8s import storage
from rvk8s.errors import InputError
from rvk8s.plan import Plan
from rvk8s.storage import local_files


@contextmanager
def run_lock(plan: Plan) -> Iterator[None]:
    """Hold the lock of a run; the kernel gives it back however this process ends.

    Raises:
        InputError: another process of this machine has it; names the process.
    """
    path = _path(plan)
    local_files.make_dir(path.parent)
    with local_files.errors(path), path.open("a+") as file:
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
        yield


def _path(plan: Plan) -> Path:
    if not storage.is_s3(plan.run_uri):
        return Path(plan.layout.at(".rvk8s", "lock"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(plan.run_uri.encode()).hexdigest()[:16]
    return cache / "rvk8s" / "locks" / f"{plan.run_id}-{name}"
