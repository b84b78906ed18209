"""rvk8s.parallel: calls at once, and calls that are left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from rvk8s.parallel import THREADS, Abandoned, abandonable, in_threads


def test_all_are_done_some_at_once() -> None:
    together = threading.Barrier(THREADS, timeout=10)

    def work(number: int) -> int:
        together.wait()
        time.sleep(0.01 / (number + 1))
        return number * number

    numbers = range(3 * THREADS)
    assert in_threads(work, numbers) == [number * number for number in numbers]
    assert in_threads(lambda name: name * 2, ["a"]) == ["aa"]
    assert in_threads(str, []) == []


def test_the_first_error_is_raised_and_no_more_is_started() -> None:
    started: list[str] = []

    def work(name: str) -> None:
        started.append(name)
        if name == "0":
            raise ValueError(name)
        time.sleep(0.05)

    with pytest.raises(ValueError, match="0"):
        in_threads(work, [str(number) for number in range(1000)])
    assert len(started) < 3 * THREADS


def test_a_call_that_ends_gives_its_result_or_error() -> None:
    assert abandonable(lambda: 5) == 5
    assert abandonable(lambda: 5, lambda: True) == 5
    with pytest.raises(ZeroDivisionError):
        abandonable(lambda: 1 // 0)


def test_a_call_that_hangs_is_left_behind() -> None:
    over = threading.Event()
    began = time.monotonic()
    try:
        with pytest.raises(Abandoned):
            abandonable(over.wait, lambda: time.monotonic() - began > 0.2, grace=0.2)
        assert 0.4 <= time.monotonic() - began < 5
    finally:
        over.set()


def test_neither_keeps_a_process_from_ending() -> None:
    code = (
        "import threading, time; from rvk8s.parallel import *\n"
        "threading.Thread(target=in_threads, daemon=True,\n"
        "    args=(lambda name: time.sleep(60), ['a', 'b'])).start()\n"
        "try: abandonable(lambda: time.sleep(60), lambda: True, grace=0.1)\n"
        "except Abandoned: print('left')\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert answer.stdout == "left\n"
