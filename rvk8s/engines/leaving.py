"""How the driver hears that something happened, and that it shall end."""

from __future__ import annotations

import queue
import signal
from contextlib import suppress
from types import FrameType

from rvk8s.errors import HandedOver


class News:
    """Wakes who waits for it; may be told by any thread, and by a signal's handler.

    A handler runs in the thread that waits, between any two of its steps. With threading.Event it
    could want the very lock that this thread holds; SimpleQueue.put is made for that.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(self) -> None:
        self._queue.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep so many seconds, less where something was told since the last call's end."""
        with suppress(queue.Empty):
            self._queue.get(timeout=seconds)
            while True:
                self._queue.get_nowait()


class Leaving:
    """SIGTERM and SIGINT: this driver ends, the stages run on."""

    def __init__(self) -> None:
        self.news = News()
        self._error: HandedOver | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def asked(self) -> HandedOver | None:
        return self._error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._error = HandedOver(f"{name}: the stages run on, the next driver goes on")
        self.news.tell()
