"""Splits on one machine: how many work at once, what each is told, and that all of them end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tinyrun import make_plan

from rvk8s.contract import Env
from rvk8s.engines import processes
from rvk8s.engines.processes import ProcessLauncher, ProcessSplits
from rvk8s.plan import Stage

#: Stands where rvk8s-stage would: says that it has begun and what it may use, leaves a process
#: behind, and ends with the code that a file tells it.
PROGRAM = """#!/bin/sh
cd {folder}
trap '' $IGNORED
sleep 600 &
echo $$ $! $RVK8S_THREADS $4 $RVK8S_SPLITS > begun.$RVK8S_SPLIT_INDEX.partial
mv begun.$RVK8S_SPLIT_INDEX.partial begun.$RVK8S_SPLIT_INDEX
while [ ! -s end.$RVK8S_SPLIT_INDEX ]; do sleep 0.05; done
exit $(cat end.$RVK8S_SPLIT_INDEX)
"""


class Machine:
    """A machine with as many cores as it says, where predict is PROGRAM."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        program = folder / "program"
        program.write_text(PROGRAM.format(folder=folder))
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        self.splits: ProcessSplits | None = None

    def start(self, cores: int, count: int) -> ProcessSplits:
        self.monkeypatch.setenv(Env.THREADS, str(cores))
        launcher = ProcessLauncher(make_plan(self.folder / "root", self.folder), self.folder)
        self.splits = launcher.start(Stage("predict", splits=count), list(range(count)))
        self.splits.poll()
        return self.splits

    def begun(self) -> dict[int, list[str]]:
        """Split -> its process, the one that it left, threads, stage, and splits in all."""
        found = self.folder.glob("begun.?")
        return {int(path.suffix[1:]): path.read_text().split() for path in found}

    def end(self, split: int, code: int) -> None:
        (self.folder / f"end.{split}").write_text(f"{code}\n")

    def alive(self) -> list[int]:
        """All processes of all splits, those that they left included."""
        pids = [int(word) for words in self.begun().values() for word in words[:2]]
        return [pid for pid in pids if _alive(pid)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    yield made
    if made.splits:
        made.splits.stop()


def test_as_many_at_once_as_there_are_cores(machine: Machine) -> None:
    splits = machine.start(cores=2, count=4)
    wait_for(lambda: len(machine.begun()) == 2)
    for _ in range(10):
        assert splits.poll() == {}
        time.sleep(0.02)
    assert sorted(machine.begun()) == [0, 1], "the others wait"
    machine.end(1, 7)
    wait_for(lambda: splits.poll() and len(machine.begun()) == 3)
    assert sorted(machine.begun()) == [0, 1, 2]
    assert splits.poll() == {1: 7}
    wait_for(lambda: len(machine.alive()) == 4)  # what a split leaves ends with it
    for split, code in ((0, 0), (2, 3), (3, 0)):
        machine.end(split, code)
    wait_for(lambda: len(splits.poll()) == 4)
    assert splits.poll() == {0: 0, 1: 7, 2: 3, 3: 0}
    assert [words[2:] for words in machine.begun().values()] == [["1", "predict", "4"]] * 4
    wait_for(lambda: not machine.alive())


@pytest.mark.parametrize(("cores", "count", "threads"), [(5, 2, "2"), (3, 1, "3"), (1, 2, "1")])
def test_cores_are_shared(machine: Machine, cores: int, count: int, threads: str) -> None:
    splits = machine.start(cores, count)
    for split in range(count):
        machine.end(split, 0)
    wait_for(lambda: len(splits.poll()) == count)
    assert [words[2] for words in machine.begun().values()] == [threads] * count


@pytest.mark.parametrize("ignored", ["", "TERM"])
def test_stop_ends_them_all(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    """Also those that ignore SIGTERM; what waits never begins."""
    assert processes.GRACE < 9, "all are gone within ten seconds"
    monkeypatch.setattr(processes, "GRACE", 0.5)
    monkeypatch.setenv("IGNORED", ignored)
    splits = machine.start(cores=2, count=3)
    wait_for(lambda: len(machine.begun()) == 2)
    assert len(machine.alive()) == 4
    splits.stop()
    wait_for(lambda: not machine.alive(), seconds=2)
    code = 128 + (9 if ignored else 15)
    assert splits.poll() == {0: code, 1: code}
    assert sorted(machine.begun()) == [0, 1]


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return False
