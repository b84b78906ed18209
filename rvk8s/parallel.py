"""Many small transfers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

#: Transfers at once; s3_objects keeps as many connections.
THREADS = 8


def in_threads(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Call work for every name, some at once; the first error is raised when all have ended."""
    names = list(names)
    if len(names) < 2:
        for name in names:
            work(name)
        return
    with ThreadPoolExecutor(max_workers=min(THREADS, len(names))) as pool:
        for future in [pool.submit(work, name) for name in names]:
            future.result()
