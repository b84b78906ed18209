"""A driver is told to end by a signal, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rvk8s.engines import local
from rvk8s.engines.leaving import Leaving, News


def test_what_was_told_before_ends_the_next_wait() -> None:
    news = News()
    for _ in range(3):
        news.tell()
    began = time.monotonic()
    news.wait(5)
    assert time.monotonic() - began < 1
    began = time.monotonic()
    news.wait(0.2)
    assert time.monotonic() - began >= 0.2, "all of it was heard"
    threading.Timer(0.1, news.tell).start()
    news.wait(5)
    assert time.monotonic() - began < 2


@contextmanager
def flood(number: int) -> Iterator[None]:
    """Get signals without end, thousands a second."""
    # By another process, which needs no turn of this one's threads, and ends with it.
    send = (
        "import os, sys, time\n"
        "number, target = map(int, sys.argv[1:])\n"
        "while os.getppid() == target: os.kill(target, number); time.sleep(0.0005)"
    )
    sender = subprocess.Popen([sys.executable, "-c", send, str(int(number)), str(os.getpid())])
    try:
        yield
    finally:
        sender.kill()
        sender.wait()


def test_a_signal_in_the_middle_of_waiting_hangs_nothing() -> None:
    """Where threading.Event does: its lock is held when the handler, in this thread, wants it."""
    news, heard = News(), 0

    def handle(*_: object) -> None:
        nonlocal heard
        heard += 1
        news.tell()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with flood(signal.SIGUSR1):
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                news.wait(0.0005)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard > 100


def test_many_signals_do_not_hang_a_local_run() -> None:
    """The handler of one may be interrupted by the next: Ctrl-C twice, a closed terminal."""
    with local._signals() as came:
        assert not came()
        with flood(signal.SIGTERM):
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                time.sleep(0)
        assert came()


def test_a_driver_that_is_told_to_end() -> None:
    leaving = Leaving()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    leaving.install()
    try:
        assert leaving.asked() is None
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        leaving.news.wait(5)
        assert time.monotonic() - began < 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "SIGTERM: the stages run on" in str(leaving.asked())
