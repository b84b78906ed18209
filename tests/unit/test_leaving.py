"""A driver is told to end by a signal, at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

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


def test_a_signal_in_the_middle_of_waiting_hangs_nothing() -> None:
    """Where threading.Event does: its lock is held when the handler, in this thread, wants it."""
    news, heard = News(), 0

    def handle(*_: object) -> None:
        nonlocal heard
        heard += 1
        news.tell()

    # By another process, which needs no turn of this one's threads, and whose end is seen to.
    send = "import os, time\nwhile True: os.kill(os.getppid(), 10); time.sleep(0.0005)"
    before = signal.signal(signal.SIGUSR1, handle)
    sender = subprocess.Popen([sys.executable, "-c", send])
    try:
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            news.wait(0.0005)
    finally:
        sender.kill()
        sender.wait()
        signal.signal(signal.SIGUSR1, before)
    assert heard > 100


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
