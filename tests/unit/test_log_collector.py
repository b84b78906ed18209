"""Logs of pods -> files of the run's folder. What pods write is scripted here; that it comes from
real ones is tested on a cluster (tests/cluster/test_runs.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rvk8s import storage
from rvk8s.contract import RunLayout
from rvk8s.engines import log_collector, log_file
from rvk8s.engines.log_collector import PodLogs
from rvk8s.errors import ClusterUnavailable, Interrupted, StorageUnavailable


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "INTERVAL", 0.05)
    monkeypatch.setattr(log_collector, "_PAUSE", 0.02)


def _env(name: str, value: int) -> dict[str, str]:
    return {"name": name, "value": str(value)}


class Pods:
    """A cluster whose pods write lines with a stamp each."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, list[bytes]] = {}
        self.ended: dict[str, threading.Event] = {}
        self.breaks_after: int | None = None

    def add(self, name: str, stage: str, index: int = 0, splits: int = 1, uid: str = "") -> None:
        state = {"name": "stage", "state": {"running": {}}}
        self.pods[name] = {
            "metadata": {
                "name": name,
                "uid": uid or name,
                "labels": {"rvk8s.io/stage": stage},
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
            },
            "spec": {
                "containers": [
                    {"name": "istio-proxy", "env": []},  # a cluster may put its own first
                    {"name": "stage", "env": [_env("RVK8S_SPLITS", splits)]},
                ]
            },
            "status": {"phase": "Running", "containerStatuses": [state]},
        }
        self.lines[name], self.ended[name] = [], threading.Event()

    def write(self, name: str, *texts: str) -> None:
        for text in texts:
            stamp = f"2026-11-24T13:15:{len(self.lines[name]):02}.000000000Z"
            self.lines[name].append(f"{stamp} {text}".encode())

    def end(self, name: str) -> None:
        self.pods[name]["status"]["phase"] = "Succeeded"
        self.ended[name].set()

    def log_lines(
        self, pod: str, container: str, *, since: str | None = None, **_: object
    ) -> Iterator[bytes]:
        sent = 0
        # The API takes whole seconds: lines of that second come again.
        for line in self._follow(pod):
            if since is None or line.split()[0].decode()[:19] >= since[:19]:
                yield line
                sent += 1
                if self.breaks_after == sent:
                    self.breaks_after = None
                    raise ClusterUnavailable("the connection ended")

    def _follow(self, pod: str) -> Iterator[bytes]:
        done = 0
        while True:
            over = self.ended[pod].is_set()
            while done < len(self.lines[pod]):
                yield self.lines[pod][done]
                done += 1
            if over:
                return
            time.sleep(0.01)


def collect(pods: Pods, root: Path) -> PodLogs:
    return PodLogs(pods, RunLayout(str(root)), lambda: pods.pods)  # type: ignore[arg-type]


def text(root: Path, stage: str, split: int | None = None, node: int = 0) -> str:
    try:
        return storage.read_bytes(RunLayout(str(root)).log(stage, split, node)).decode()
    except FileNotFoundError:
        return ""


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(found: str) -> list[str]:
    return [line for line in found.splitlines() if not line.startswith("--- ")]


def test_logs_arrive_while_pods_run(tmp_path: Path) -> None:
    pods = Pods()
    pods.add("a", "chip", 0, splits=2)
    pods.add("b", "chip", 1, splits=2)
    pods.add("n", "train", 1)
    with collect(pods, tmp_path) as logs:
        logs.look()
        pods.write("a", "one")
        pods.write("b", "two")
        pods.write("n", "three")
        until(lambda: lines(text(tmp_path, "chip", 0)) == ["one"])
        until(lambda: lines(text(tmp_path, "chip", 1)) == ["two"])
        until(lambda: lines(text(tmp_path, "train", node=1)) == ["three"])
        pods.write("a", "last words")
        pods.end("a")
        logs.settle(5)
        assert lines(text(tmp_path, "chip", 0)) == ["one", "last words"]


def test_a_restart_is_appended_and_a_deleted_pod_kept(tmp_path: Path) -> None:
    pods = Pods()
    pods.add("a", "chip")
    with collect(pods, tmp_path) as logs:
        logs.look()
        pods.write("a", "first")
        pods.end("a")
        logs.settle(5)
        del pods.pods["a"]
        pods.add("b", "chip")
        pods.write("b", "second")
        pods.end("b")
        logs.look()
        logs.settle(5)
    found = text(tmp_path, "chip")
    assert lines(found) == ["first", "second"]
    assert [line.split(", ")[-1] for line in found.splitlines() if line.startswith("---")] == [
        "pod a a",
        "pod b b",
    ]


def test_a_pod_under_the_name_of_one_that_is_gone_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a PyTorchJob have the same names in each attempt."""
    monkeypatch.setattr(log_collector, "_PAUSE", 0.3)
    pods = Pods()
    pods.add("worker-0", "train", uid="first")
    pods.write("worker-0", "one")
    pods.breaks_after = 1
    with collect(pods, tmp_path) as logs:
        logs.look()
        until(lambda: lines(text(tmp_path, "train")) == ["one"])  # its node hangs, and is deleted
        pods.add("worker-0", "train", uid="second")
        pods.write("worker-0", "two", "three")
        logs.look()
        until(lambda: "three" in lines(text(tmp_path, "train")))
        time.sleep(0.7)
        pods.end("worker-0")
        logs.settle(5)
    assert lines(text(tmp_path, "train")) == ["one", "two", "three"]


def test_a_broken_connection_repeats_and_loses_nothing(tmp_path: Path) -> None:
    pods = Pods()
    pods.add("a", "chip")
    pods.write("a", "one", "two", "three")
    pods.breaks_after = 2
    with collect(pods, tmp_path) as logs:
        logs.look()
        until(lambda: lines(text(tmp_path, "chip")) == ["one", "two", "three"])
        pods.end("a")
        logs.settle(5)
    assert lines(text(tmp_path, "chip")) == ["one", "two", "three"]


def test_the_next_driver_goes_on_with_a_log(tmp_path: Path) -> None:
    pods = Pods()
    pods.add("a", "chip")
    pods.write("a", "one", "two")
    with collect(pods, tmp_path) as logs:
        logs.look()
        until(lambda: lines(text(tmp_path, "chip")) == ["one", "two"])
    pods.write("a", "three")
    pods.end("a")
    with collect(pods, tmp_path) as logs:
        logs.look()
        logs.settle(5)
    assert lines(text(tmp_path, "chip")) == ["one", "two", "three"]
    assert text(tmp_path, "chip").count("---") == 1


def test_what_the_node_has_dropped_stays(tmp_path: Path) -> None:
    """A node keeps only a log's end; the next driver sees another first line."""
    pods = Pods()
    pods.add("a", "chip")
    pods.write("a", "one", "two")
    with collect(pods, tmp_path) as logs:
        logs.look()
        until(lambda: lines(text(tmp_path, "chip")) == ["one", "two"])
    pods.lines["a"] = []
    pods.write("a", "three")
    pods.end("a")
    with collect(pods, tmp_path) as logs:
        logs.look()
        logs.settle(5)
    assert lines(text(tmp_path, "chip")) == ["one", "two", "three"]


def test_what_the_node_says_itself_is_no_line(tmp_path: Path) -> None:
    """It ends a stream with words that have no time; asked again, it sends the rest."""
    pods = Pods()
    pods.add("a", "chip")
    pods.write("a", "one", "two")
    pods.lines["a"].insert(1, b"failed to create fsnotify watcher: too many open files")
    with collect(pods, tmp_path) as logs:
        logs.look()
        pods.end("a")
        logs.settle(5)
    assert lines(text(tmp_path, "chip")) == ["one", "two"]


def test_storage_away_delays_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods()
    pods.add("a", "chip")
    pods.write("a", "one")
    write, away = storage.write_bytes, threading.Event()
    away.set()

    def flaky(uri: str, data: bytes) -> None:
        if away.is_set():
            raise StorageUnavailable("away")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", flaky)
    with collect(pods, tmp_path) as logs:
        logs.look()
        pods.end("a")
        logs.settle(0.3)
        assert text(tmp_path, "chip") == ""
        away.clear()
        logs.settle(5)
        assert lines(text(tmp_path, "chip")) == ["one"]


def test_settling_ends_in_time_where_storage_does_not_say_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log whose earlier part cannot be read holds up neither the driver nor other logs."""
    pods, read, away = Pods(), storage.read_bytes, threading.Event()
    away.set()

    def flaky(uri: str) -> bytes:
        if away.is_set() and "train" in uri:
            raise StorageUnavailable("away")
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", flaky)
    monkeypatch.setattr(log_file, "_PAUSE", 0.05)
    monkeypatch.setattr(log_file, "INTERVAL", 30.0)
    for name, stage in (("a", "train"), ("b", "chip")):
        pods.add(name, stage)
        pods.write(name, "one")
        pods.end(name)
    storage.write_bytes(RunLayout(str(tmp_path)).log("train"), b"what an earlier driver stored\n")
    with collect(pods, tmp_path) as logs:
        logs.look()
        threading.Timer(5.0, away.clear).start()
        began = time.monotonic()
        logs.settle(0.5)
        assert 0.4 < time.monotonic() - began < 2
        assert lines(text(tmp_path, "chip")) == ["one"]
        away.clear()
        logs.settle(5)
    assert lines(text(tmp_path, "train")) == ["what an earlier driver stored", "one"]


def test_settling_ends_in_time_where_storage_takes_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods, write, back = Pods(), storage.write_bytes, threading.Event()

    def slow(uri: str, data: bytes) -> None:
        assert back.wait(20)
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", slow)
    pods.add("a", "chip")
    pods.write("a", "one")
    pods.end("a")
    with collect(pods, tmp_path) as logs:
        logs.look()
        began = time.monotonic()
        logs.settle(0.3)
        logs.settle(0.0)
        assert time.monotonic() - began < 2
        back.set()
        logs.settle(5)
        assert lines(text(tmp_path, "chip")) == ["one"]


def test_settling_ends_with_what_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling, or the driver's end, is not waited for as long as logs are."""

    def away(uri: str, data: bytes) -> None:
        raise StorageUnavailable("away")

    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) > 3:
            raise Interrupted("cancelled")

    monkeypatch.setattr(storage, "write_bytes", away)
    pods = Pods()
    for name in ("a", "b"):
        pods.add(name, "chip")
        pods.write(name, "one")
    pods.end("a")
    with collect(pods, tmp_path) as logs:
        logs.look()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            logs.settle(60, check)
        assert time.monotonic() - began < 10
        pods.end("b")


def test_what_storage_has_is_not_lost_where_the_driver_ends_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(uri: str) -> bytes:
        raise StorageUnavailable("away")

    uri = str(tmp_path / "log.txt")
    storage.write_bytes(uri, b"what an earlier driver stored\n")
    monkeypatch.setattr(storage, "read_bytes", away)
    stopped = threading.Event()
    stopped.set()
    file = log_file.LogFile(uri, tmp_path / "scratch")
    file.begin("chip 0, pod a a", stopped).add(b"one")
    file.store()
    assert not file.behind
    assert Path(uri).read_bytes() == b"what an earlier driver stored\n"


def test_what_a_pod_waits_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that is away for it; until it writes something else, or has ended."""
    monkeypatch.setattr(log_collector, "NOTED_AFTER", 0.2)
    pods = Pods()
    pods.add("a", "chip")
    said = "2026-12-01 10:00:00,000 WARNING s3://b/r: S3 did not answer; trying again in 8 s"
    with collect(pods, tmp_path) as logs:
        logs.look()
        pods.write("a", "begins", said)
        until(lambda: logs.waits() is not None)
        assert logs.waits() == "a pod waits: s3://b/r: S3 did not answer; trying again in 8 s"
        pods.write("a", "goes on")
        until(lambda: logs.waits() is None)
        pods.write("a", said)
        until(lambda: logs.waits() is not None)
        pods.end("a")
        assert logs.waits() is None
