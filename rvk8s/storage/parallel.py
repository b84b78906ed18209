"""Many small transfers at once, and calls that may be left behind.

The threads here are daemons: where storage hangs, an exception in the waiting thread, such as one
that a signal raises, is not held up by them, nor is the end of the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")

#: Transfers at once; s3_objects keeps as many connections.
THREADS = 8
#: Seconds between two looks of abandonable().
_LOOK = 0.05


def in_threads(work: Callable[[_T], None], names: Iterable[_T]) -> None:
    """Call work for every name, some at once.

    After an error no further one is started; the first error is raised when those that run have
    ended.
    """
    names = list(names)
    if len(names) < 2:
        for name in names:
            work(name)
        return
    todo, lock = iter(names), threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                name = next(todo, None)
            if name is None:
                return
            try:
                work(name)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                errors.append(error)

    threads = [
        threading.Thread(target=run, name=f"transfer-{number}", daemon=True)
        for number in range(min(THREADS, len(names)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        errors.append(error)  # the others start nothing more
        raise
    if errors:
        raise errors[0]


class Abandoned(Exception):
    """A call of abandonable() was left behind."""


def abandonable(
    work: Callable[[], _T], give_up: Callable[[], bool] = lambda: False, *, grace: float = 1.0
) -> _T:
    """The result of work(), unless it takes longer than someone will wait for it.

    Args:
        work: is called in a thread of its own, which ends in its own time.
        give_up: asked several times a second.
        grace: seconds that work still gets once give_up() is true.

    Raises:
        Abandoned: it was not done by then.
    """
    found: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(_LOOK)
    end: float | None = None
    while thread.is_alive():
        if end is None and give_up():
            end = time.monotonic() + grace
        if end is not None and time.monotonic() >= end:
            raise Abandoned
        thread.join(_LOOK)
    if errors:
        raise errors[0]
    return found[0]
