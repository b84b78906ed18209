"""A log is kept whatever a stage writes: its head and its end, and the beginnings of long lines."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from rvk8s.engines import driver_log, log_file


def stored(file: log_file.LogFile) -> list[str]:
    file.store()
    return Path(file.uri).read_text().splitlines()


def test_a_log_that_gets_too_long_keeps_both_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "LIMIT", 1000)
    file = log_file.LogFile(str(tmp_path / "log.txt"), tmp_path / "scratch")
    first = file.begin("chip 0, pod a a", threading.Event())
    for number in range(20):
        first.add(b"first %d" % number)
    section = file.begin("chip 0, pod b b", threading.Event())
    for number in range(200):
        section.add(b"line %d" % number)
    title, *kept = stored(file)
    assert title.endswith("chip 0, pod a a")
    at = next(i for i, line in enumerate(kept) if line.endswith("chip 0, pod b b"))
    head, tail = kept[:at], kept[at + 1 :]
    assert head[:-1] == [f"first {number}" for number in range(len(head) - 1)]
    assert head[-1] == f"... {20 - len(head) + 1} lines are left out"
    last = 200 - len(tail) + 1
    assert tail == [f"... {last} lines are left out", *(f"line {n}" for n in range(last, 200))]
    assert 400 < (tmp_path / "log.txt").stat().st_size <= 1300


@pytest.mark.parametrize(
    "line",
    [b"x" * (1 << 22), b"x\r" * (1 << 20), "ü".encode() * (1 << 20), b"y" * 20_000],
    ids=["4 MiB", "progress bars", "UTF-8", "20 kB"],
)
def test_a_long_line_is_cut(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not push out what stands before and after it, either."""
    monkeypatch.setattr(log_file, "LIMIT", 1 << 20)
    file = log_file.LogFile(str(tmp_path / "log.txt"), tmp_path / "scratch")
    section = file.begin("chip 0, pod a a", threading.Event())
    for number in range(100):
        section.add(b"before %d" % number)
        section.add(line)
        section.add(b"after %d" % number)
    file.store()
    _, first, cut, *rest = (tmp_path / "log.txt").read_bytes().split(b"\n")
    assert first == b"before 0"
    assert cut.startswith(line[:10_000])
    assert cut.endswith(b"bytes are left out")
    assert rest[-2] == b"after 99"
    assert rest[-4] == b"before 99"


def test_a_shortened_log_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that takes over reads the pod's log from its start: nothing is written twice."""
    monkeypatch.setattr(log_file, "LIMIT", 1000)
    uri, title = str(tmp_path / "log.txt"), "chip 0, pod a a"
    lines = [b"line %d" % number for number in range(200)]
    first = log_file.LogFile(uri, tmp_path / "first")
    section = first.begin(title, threading.Event())
    for line in lines[:150]:
        section.add(line)
    before = stored(first)
    second = log_file.LogFile(uri, tmp_path / "second")
    section = second.begin(title, threading.Event())
    for line in lines[:150]:
        section.add(line)
    assert stored(second) == before
    for line in lines[150:]:
        section.add(line)
    assert stored(second)[-1] == "line 199"
    assert stored(second).count("line 149") == 1


def test_a_driver_s_log_keeps_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may warn for days that storage is away."""
    monkeypatch.setattr(driver_log, "_LIMIT", 2000)
    uri = str(tmp_path / "log.txt")
    Path(uri).write_text("an earlier driver\n")
    lines = driver_log.DriverLog("%(message)s")
    for number in range(1000):
        lines.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    lines.start(uri)
    lines.finish(5)
    first, *kept = Path(uri).read_text().splitlines()
    assert (first, kept[0], kept[-1]) == ("an earlier driver", "line 0", "line 999")
    assert [line for line in kept if line.endswith("lines are left out")]
    assert Path(uri).stat().st_size < 2200
