"""CPU threads of a stage's processes: as many as the user exported, else a part of the cores."""

from __future__ import annotations

import os
import re

from rvk8s.contract import Env

_OMP = "OMP_NUM_THREADS"
_OTHERS = ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: OpenMP takes a list, too: a number for each level of nesting.
_FORM = re.compile(r"\s*([1-9][0-9]{0,3})\s*(,.*)?")
#: Says, in the processes of a training, that the number is that of a process and no sum.
_EXPORTED: list[int] = []


def prepare() -> None:
    """Set what libraries read when they are imported; what the user exported stays."""
    _EXPORTED.clear()
    found = _FORM.fullmatch(os.environ.get(_OMP, ""))
    if found:
        _EXPORTED.append(int(found[1]))
        os.environ[Env.THREADS] = found[1]
    if threads := os.environ.get(Env.THREADS):
        if not found:
            os.environ[_OMP] = threads
        for name in _OTHERS:
            os.environ.setdefault(name, threads)


def share(processes: int) -> None:
    """Set what the processes that train on this machine inherit: each its part of the cores."""
    given = os.environ.get(Env.THREADS, "")
    cores = int(given) if given.isdecimal() else len(os.sched_getaffinity(0))
    threads = _EXPORTED[0] if _EXPORTED else max(1, cores // processes)
    os.environ[Env.THREADS] = os.environ[_OMP] = str(threads)
