"""Logs of a run in storage: following ends when the run does; the attempt before the last."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from launching import make_plan
from said import says

from rvk8s import storage
from rvk8s.cli import rvk8s
from rvk8s.cluster.kinds import Forbidden
from rvk8s.contract import State, attempt_line, now
from rvk8s.errors import ClusterUnavailable, InputError
from rvk8s.runs import logs, pod_logs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places
from rvk8s.runs.pod_logs import Printer, Wanted
from rvk8s.runs.record import RunRecord


def test_following_a_run_that_was_killed_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has written its end into run.json; its heartbeat has stopped."""
    plan = make_plan(tmp_path)
    record = RunRecord.of_plan(plan, "test")
    record.state = State.RUNNING
    train = record.stage("train")
    train.state, train.started = State.RUNNING, "2026-01-01T00:00:00Z"
    storage.write_json(plan.layout.run_json, record.to_dict())
    storage.write_json(plan.layout.heartbeat("train"), {"at": now()})
    storage.write_bytes(plan.layout.log("train"), b"first\n")

    def waited(seconds: float) -> None:
        storage.write_bytes(plan.layout.log("train"), b"first\nsecond\n")
        os.utime(plan.layout.heartbeat("train"), (0, 0))

    # Not time.sleep itself: threads of other tests may still call that.
    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=waited))
    logs.print_logs(str(tmp_path), "run-1", follow=True)
    assert capsys.readouterr().out == "==> train <==\nfirst\nsecond\n"


@pytest.mark.parametrize("gone", [3000, 5000])
def test_following_a_log_that_is_shortened_misses_no_line(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver cuts off what is old; the second time, more than was printed."""
    plan = make_plan(tmp_path)
    record = RunRecord.of_plan(plan, "test")
    record.state = State.RUNNING
    storage.write_json(plan.layout.run_json, record.to_dict())
    lines = [f"line {number}\n" for number in range(10_000)]
    head = f"{attempt_line('train')}\n"
    storage.write_bytes(plan.layout.log("train"), "".join([head, *lines[:4000]]).encode())

    def waited(seconds: float) -> None:
        cut = f"... {gone} lines are left out\n"
        storage.write_bytes(plan.layout.log("train"), "".join([head, cut, *lines[gone:]]).encode())
        record.state = State.SUCCEEDED
        storage.write_json(plan.layout.run_json, record.to_dict())

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=waited))
    logs.print_logs(str(tmp_path), "run-1", follow=True)
    again = [f"... {gone} lines are left out\n"] if gone > 4000 else []
    rest = lines[max(gone, 4000) :]
    expected = "".join(["==> train <==\n", head, *lines[:4000], *again, *rest])
    assert capsys.readouterr().out == expected


def test_previous_is_the_attempt_before_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())
    heads = [attempt_line(f"train {number}") for number in range(3)]
    text = "".join(f"{head}\n--- not a head\nline {i}\n" for i, head in enumerate(heads))
    storage.write_bytes(plan.layout.log("train"), text.encode())
    storage.write_bytes(plan.layout.log("chip"), f"{attempt_line('chip')}\nonce\n".encode())
    places = Places(root_uri=str(tmp_path))
    logs.print_run_logs(places, "run-1", previous=True)
    expected = f"==> train <==\n{heads[1]}\n--- not a head\nline 1\n"
    assert capsys.readouterr().out == expected
    with pytest.raises(InputError, match=r"nothing .*more than once.*stage chip"):
        logs.print_run_logs(places, "run-1", stage="chip", previous=True)
    result = CliRunner().invoke(rvk8s, ["logs", "run-1", "-f", "-p"])
    assert (result.exit_code, "exclude each other" in result.output) == (2, True)


def test_previous_says_where_it_could_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())
    places = Places(root_uri=str(tmp_path))
    monkeypatch.setattr(places, "notes", lambda: ["s3://b cannot be read from here"])
    with pytest.raises(InputError, match="nothing was tried"):
        logs.print_run_logs(places, "run-1", previous=True)
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nodes", "ranks", "rank", "node", "note"),
    [
        (2, 4, 0, 0, "ranks 0 to 1"),
        (2, 4, 3, 1, "ranks 2 to 3"),
        (12, 12, 1, 1, ""),
        (12, 12, 2, 10, ""),  # torch numbers nodes by their names: 0, 1, 10, 11, 2, ...
        (12, 12, 4, 2, ""),
    ],
)
def test_a_rank_s_log_is_that_of_its_node(
    nodes: int,
    ranks: int,
    rank: int,
    node: int,
    note: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _trained(tmp_path, nodes, ranks)
    logs.print_run_logs(Places(root_uri=str(tmp_path)), "run-1", rank=rank)
    out, err = capsys.readouterr()
    title = f"train, node {node}" if node else "train"
    assert out == f"==> {title} <==\nof node {node}\n"
    assert err.startswith(note)
    assert bool(err) is bool(note)


def test_a_rank_that_there_is_not(tmp_path: Path) -> None:
    _trained(tmp_path, 2, 4)
    places = Places(root_uri=str(tmp_path))
    with pytest.raises(InputError, match=r"^--rank: .*4 ranks; .*from 0$"):
        logs.print_run_logs(places, "run-1", rank=4)
    with pytest.raises(InputError, match=r"^--rank: chip .*no ranks"):
        logs.print_run_logs(places, "run-1", stage="chip", rank=0)


def test_nodes_are_shown_by_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _trained(tmp_path, 12, 12)
    logs.print_run_logs(Places(root_uri=str(tmp_path)), "run-1", stage="train")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("of")]
    assert shown == [f"of node {node}" for node in range(12)]


def test_a_rank_s_pod_is_that_of_its_node(capsys: pytest.CaptureFixture[str]) -> None:
    pods = [worker(number) for number in (10, 0, 2)]
    pod_logs.print_now(OfWorkers(), pods, Wanted(node=10), Printer())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "==> train, node 10 <==\nof train-10\n"
    pod_logs.print_now(OfWorkers(), pods, Wanted(), Printer())  # type: ignore[arg-type]
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("of")]
    assert shown == ["of train-0", "of train-2", "of train-10"]


class OfWorkers:
    """Answers for the logs of a training's pods."""

    def log_lines(self, pod: str, container: str, **_: object) -> Iterator[bytes]:
        yield f"of {pod}".encode()


def worker(number: int) -> dict[str, Any]:
    """A pod of the training."""
    found = pod(f"train-{number}", {"running": {}})
    labels = {"rvk8s.io/stage": "train", "training.kubeflow.org/replica-index": str(number)}
    return {**found, "metadata": {**found["metadata"], "labels": labels}}


def _trained(root: Path, nodes: int, ranks: int) -> None:
    """A run of which each node of the training has left a log, and chip one."""
    plan = make_plan(root, stages={"train": {"nodes": nodes, "ranks": ranks}})
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())
    storage.write_bytes(plan.layout.log("chip"), b"chips\n")
    for node in range(nodes):
        storage.write_bytes(plan.layout.log("train", None, node), f"of node {node}\n".encode())


class OfPods:
    """Answers for the logs of pods; a container that has not begun has none."""

    def log_lines(self, pod: str, container: str, **_: object) -> Iterator[bytes]:
        assert (pod, container) == ("a", "stage"), "not the container that the cluster put in"
        yield b"one"


def pod(name: str, ours: dict[str, Any]) -> dict[str, Any]:
    """A pod with a container that the cluster put in."""
    states = [{"name": "istio-proxy", "state": {"running": {}}}, {"name": "stage", "state": ours}]
    labels = {"rvk8s.io/stage": "chip"}
    created = {"creationTimestamp": f"2026-11-25 {name}", "uid": f"uid of {name}"}
    return {
        "metadata": {"name": name, "labels": labels, **created},
        "spec": {"containers": [{"name": "istio-proxy"}, {"name": "stage"}]},
        "status": {"phase": "Running", "containerStatuses": states},
    }


def test_a_container_that_the_cluster_put_in_is_not_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    pods = [pod("a", {"running": {}}), pod("b", waiting)]
    pod_logs.print_now(OfPods(), pods, Wanted(), Printer())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "==> chip, split 0 <==\none\n"


class LostNode:
    """The API server of a run that has failed; a pod of it was on a node that is lost.

    Args:
        now: what it says of that pod.
    """

    def __init__(self, now: dict[str, Any] | None = None, hangs: bool = False):
        self.now, self.hangs, self.asked = now, hangs, 0

    def log_lines(self, pod: str, container: str, **_: object) -> Iterator[bytes]:
        if pod == "a":
            self.asked += 1
            threading.Event().wait(None if self.hangs else 0)
            raise ClusterUnavailable("no route to host")
        yield b"one"

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.now

    def watch_once(
        self, kind: str, labels: str, version: str | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if version is None:
            failed = {"conditions": [{"type": "Failed", "status": "True"}]}
            labelled = {"name": "run-1", "labels": {"rvk8s.io/run": "run-1"}}
            driver = {"kind": "Job", "metadata": labelled, "status": failed}
            yield "LISTED", {"items": [driver if kind == "Job" else self.now], "version": "1"}
        time.sleep(0.05)


def test_a_lost_node_hides_no_other_log(capsys: pytest.CaptureFixture[str]) -> None:
    pods = [pod("a", {"running": {}}), pod("b", {"running": {}})]
    pod_logs.print_now(LostNode(), pods, Wanted(), Printer())  # type: ignore[arg-type]
    assert capsys.readouterr().out == "==> chip, split 0 <==\n(no route to host)\none\n"


@pytest.mark.parametrize("phase", [None, "Failed"])
def test_a_pod_that_has_ended_is_not_read_for_ever(
    phase: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_logs, "_PAUSE", 0.0)
    lost = pod("a", {"running": {}})
    now = {**lost, "status": {"phase": phase}} if phase else None
    cluster, lines = LostNode(now), queue.Queue[tuple[str, bytes]]()
    reader = threading.Thread(target=pod_logs._read, args=(cluster, lost, lines), daemon=True)
    reader.start()
    reader.join(5)
    assert not reader.is_alive()
    assert cluster.asked == (4 if phase else 1), "its last lines may come when the server is back"
    assert list(lines.queue) == [("chip, split 0", b"(no route to host)")] * (phase is not None)


def test_lines_of_one_moment_and_of_a_clock_that_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def log_lines(*_: object, **__: object) -> Iterator[bytes]:
        for number, second in enumerate(("02.5", "02.5", "03.0", "01.0", "01.5")):
            yield f"2026-11-30T10:00:{second}Z {number}".encode()

    found = pod("a", {"running": {}})
    cluster = LostNode({**found, "status": {"phase": "Failed"}})
    monkeypatch.setattr(cluster, "log_lines", log_lines)
    lines = queue.Queue[tuple[str, bytes]]()
    pod_logs._read(cluster, found, lines)  # type: ignore[arg-type]
    assert [line for _, line in lines.queue] == [b"0", b"1", b"2", b"3", b"4"]


def test_following_ends_where_a_lost_node_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pod_logs, "_QUIET", 0.5)
    cluster = LostNode(pod("a", {"running": {}}), hangs=True)
    driver = {"metadata": {"name": "run-1", "labels": {"rvk8s.io/run": "run-1"}}}
    args = (cluster, ClusterRun("run-1", driver), Wanted(), Printer())
    following = threading.Thread(target=pod_logs.follow, args=args, daemon=True)
    following.start()
    following.join(5)
    assert not following.is_alive()
    assert says(capsys.readouterr().err, "…nothing…chip, split 0…")


def test_who_may_read_no_logs_is_told_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Iterator[bytes]:
        raise Forbidden("not allowed")

    monkeypatch.setattr(LostNode, "log_lines", refuse)
    pods = [pod("a", {"running": {}}), pod("b", {"running": {}})]
    with pytest.raises(Forbidden):
        pod_logs.print_now(LostNode(), pods, Wanted(), Printer())  # type: ignore[arg-type]
