"""Why a process that reads chips ahead (data.num_workers) has ended, from what torch says of it.

torch raises "exited unexpectedly" from the error that has the reason, where it knows one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rvk8s.errors import OutOfMemory, Rvk8sError

#: What torch, NCCL and the system say where /dev/shm is full: a page that cannot be had there is a
#: bus error.
_SHM = re.compile(
    r"out of shared memory|shared memory ?(\(shm\)|segment)|/dev/shm/|</?torch_\d|Bus error",
    re.IGNORECASE,
)
#: How torch begins: its own lines about a worker that is gone.
_WORKER = re.compile(r"DataLoader worker \(pid")
_KILLED = re.compile(r"is killed by signal: ([^.]+)")
_FILES = re.compile(r"Too many open files|items of ancdata", re.IGNORECASE)
#: Errors that name a file there which is not there, or not ours, say nothing about room.
_OF_ONE_FILE = (FileNotFoundError, PermissionError, FileExistsError)
_WHO = "a process that reads chips ahead (data.num_workers)"


def explain_worker(links: Sequence[BaseException]) -> Rvk8sError | None:
    """The error for a worker that is gone, or could not hand over a batch.

    Args:
        links: the exception and those that it was raised from.
    """
    errors = [one for one in links if isinstance(one, RuntimeError | OSError)]
    texts = [str(one) for one in errors if not isinstance(one, _OF_ONE_FILE)]
    if any(_SHM.search(text) for text in texts):
        fix = "give the pool more shm (shmPerGpu where it has GPUs), or set data.num_workers to 0"
        return OutOfMemory(f"out of shared memory (/dev/shm), which batches pass through; {fix}")
    if any(_FILES.search(text) for text in texts):
        fix = "raise the limit (ulimit -n), or lower data.num_workers"
        return Rvk8sError(f"too many open files; {fix}")
    gone = [text for text in texts if _WORKER.search(text)]
    if not gone:
        return None
    signals = [found[1] for text in gone if (found := _KILLED.search(text))]
    if "Killed" in signals:
        fix = "give the pool more memory, or lower data.num_workers or solver.batch_sz"
        return OutOfMemory(f"{_WHO} was killed, as by the kernel when memory is used up; {fix}")
    how = f"was ended by a signal ({signals[0]})" if signals else "has ended"
    fix = "its last lines in the log may say why; data.num_workers 0 does without"
    return Rvk8sError(f"{_WHO} {how}; {fix}")
