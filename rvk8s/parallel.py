"""Many calls at once, and calls that may be left behind.

The threads here are daemons: where a server hangs, an exception in the waiting thread, such as one
that a signal raises, is not held up by them, nor is the end of the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

#: Calls at once; s3_objects keeps as many connections.
THREADS = 8
#: Seconds between two looks of abandonable().
_LOOK = 0.05


def in_threads(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """The results of work() for every item, some at once, in the order of the items.

    After an error no further one is started; the first error is raised when those that run have
    ended.
    """
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    todo = deque(enumerate(items))
    found: dict[int, _R] = {}
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            try:
                number, item = todo.popleft()
            except IndexError:
                return
            try:
                found[number] = work(item)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                errors.append(error)

    threads = [
        threading.Thread(target=run, name=f"parallel-{number}", daemon=True)
        for number in range(min(THREADS, len(items)))
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
    return [found[number] for number in range(len(items))]


class Abandoned(Exception):
    """A call was left behind."""


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """The result of work(), as of abandonable(), unless it takes more seconds.

    Raises:
        Abandoned: it was not done by then.
    """
    return abandonable(work, lambda: True, grace=seconds)


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

    thread = threading.Thread(target=run, name="abandonable", daemon=True)
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
