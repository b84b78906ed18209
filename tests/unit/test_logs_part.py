"""Part of logs: their last lines, those of the last minutes, their times."""

from __future__ import annotations

import queue
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
from rvk8s.contract import State, attempt_line
from rvk8s.errors import ClusterUnavailable, InputError
from rvk8s.plan import Plan
from rvk8s.runs import logs, pod_logs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places
from rvk8s.runs.pod_logs import Part, Printer, Wanted
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import RunStatus

DRIVER = {
    "kind": "Job",
    "metadata": {"name": "run-1", "labels": {"rvk8s.io/run": "run-1"}, "uid": "d"},
}


@pytest.mark.parametrize(
    ("text", "tail", "end"),
    [
        (b"1\n2\n3\n", 2, b"2\n3\n"),
        (b"1\n2\n3", 2, b"2\n3"),
        (b"1\n2\n", 2, b"1\n2\n"),
        (b"1\n2\n", 9, b"1\n2\n"),
        (b"1\r2\n3\n", 2, b"1\r2\n3\n"),
        (b"1\n\n\n", 2, b"\n\n"),
        (b"1\n2\n", 0, b""),
        (b"1\n2", 0, b""),
        (b"", 2, b""),
        (b"1\n2\n", None, b"1\n2\n"),
    ],
)
def test_the_last_lines(text: bytes, tail: int | None, end: bytes) -> None:
    assert Part(tail).end_of(text) == end


def test_a_text_of_which_all_is_wanted_is_not_walked_through() -> None:
    class Text(bytes):
        def rfind(self, *_: object) -> int:
            raise AssertionError

    text = Text(b"1\n2\n")
    assert Part().end_of(text) is text


def stored(root: Path, state: State = State.SUCCEEDED) -> Plan:
    """A run in storage with logs of configure and chip, three lines each."""
    plan = make_plan(root)
    record = RunRecord.of_plan(plan, "test")
    record.state = state
    storage.write_json(plan.layout.run_json, record.to_dict())
    for stage in ("configure", "chip"):
        text = "".join(f"{stage} {number}\n" for number in range(3))
        storage.write_bytes(plan.layout.log(stage), text.encode())
    return plan


def tried(plan: Plan, times: int) -> None:
    """The training of a run has a log of some attempts, two lines each."""
    heads = [attempt_line(f"train {number}") for number in range(times)]
    text = "".join(f"{head}\nline {n} a\nline {n} b\n" for n, head in enumerate(heads))
    storage.write_bytes(plan.layout.log("train"), text.encode())


def test_the_last_lines_of_each_stored_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path)
    places = Places(root_uri=str(tmp_path))
    logs.print_run_logs(places, "run-1", part=Part(1))
    assert capsys.readouterr().out == "==> configure <==\nconfigure 2\n==> chip <==\nchip 2\n"
    logs.print_run_logs(places, "run-1", part=Part(0))
    assert capsys.readouterr().out == ""
    result = CliRunner().invoke(rvk8s, ["logs", "run-1", "--root-uri", str(tmp_path), "--tail=1"])
    assert result.output == "==> configure <==\nconfigure 2\n==> chip <==\nchip 2\n"
    result = CliRunner().invoke(rvk8s, ["logs", "run-1", "--root-uri", str(tmp_path), "--tail=-1"])
    assert len(result.output.splitlines()) == 8


def test_what_comes_while_it_follows_is_printed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = stored(tmp_path, State.RUNNING)

    def waited(seconds: float) -> None:
        storage.write_bytes(plan.layout.log("chip"), b"chip 0\nchip 1\nchip 2\nchip 3\nchip 4\n")
        storage.write_bytes(plan.layout.log("train"), b"train 0\ntrain 1\n")
        record = RunRecord.of_plan(plan, "test")
        record.state = State.SUCCEEDED
        storage.write_json(plan.layout.run_json, record.to_dict())

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=waited))
    logs.print_logs(str(tmp_path), "run-1", follow=True, tail=1)
    shown = [line for line in capsys.readouterr().out.splitlines() if "=" not in line]
    assert shown == ["configure 2", "chip 2", "chip 3", "chip 4", "train 0", "train 1"]


@pytest.mark.parametrize(
    ("part", "option"),
    [(Part(since=60.0), "--since"), (Part(timestamps=True), "--timestamps")],
)
@pytest.mark.parametrize("previous", [False, True])
def test_stored_logs_have_no_times(
    part: Part, option: str, previous: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried(stored(tmp_path), 2)
    places = Places(root_uri=str(tmp_path))
    with pytest.raises(InputError, match=rf"^{option}: logs .*without .*times"):
        logs.print_run_logs(places, "run-1", part=part, previous=previous)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("part", [Part(since=60.0), Part(timestamps=True)])
def test_what_was_tried_once_has_no_attempt_before_it(part: Part, tmp_path: Path) -> None:
    tried(stored(tmp_path), 1)
    places = Places(root_uri=str(tmp_path))
    with pytest.raises(InputError, match=r"^nothing .*more than once; .*--prev"):
        logs.print_run_logs(places, "run-1", part=part, previous=True)


@pytest.mark.parametrize("text", ["5x", "1h 5m", "h", "-5s"])
def test_a_time_that_is_none(text: str) -> None:
    result = CliRunner().invoke(rvk8s, ["logs", "run-1", f"--since={text}"])
    assert result.exit_code == 2
    assert says(result.output, f"…--since…'{text}'…time…10m…")


def test_the_attempt_before_the_last_one_s_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried(stored(tmp_path), 2)
    places = Places(root_uri=str(tmp_path))
    logs.print_run_logs(places, "run-1", previous=True, part=Part(1))
    assert capsys.readouterr().out == "==> train <==\nline 0 b\n"


class Pods:
    """A cluster that says what it was asked for of the logs of pods."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def log_lines(self, pod: str, container: str, **asked: object) -> Iterator[bytes]:
        self.asked.append((pod, {key: value for key, value in asked.items() if value}))
        yield b"2026-11-30T10:00:00.5Z of " + pod.encode()


def pod(
    name: str, stage: str, phase: str = "Running", number: int = 0, *, started: bool = True
) -> dict[str, Any]:
    state = {"name": "stage", "state": {"running": {}} if started else {"waiting": {}}}
    key = "training.kubeflow.org/replica-index"
    key = key if stage == "train" else "batch.kubernetes.io/job-completion-index"
    labels = {"rvk8s.io/stage": stage, key: str(number)}
    meta = {"name": name, "uid": name, "labels": labels}
    return {
        "metadata": {**meta, "creationTimestamp": f"2026-11-30 {name}"},
        "spec": {"containers": [{"name": "stage"}]},
        "status": {"phase": phase, "containerStatuses": [state]},
    }


def printed(
    root: Path,
    pods: list[dict[str, Any]],
    part: Part,
    wanted: Wanted | None = None,
    splits: int = 0,
) -> tuple[bool, Pods]:
    """What print_run_logs() does of a run with some pods and with logs in storage.

    Args:
        splits: of predict, so many have a log, and two nodes of the training, which goes on.
    """
    cluster = Pods()
    plan = stored(root)
    for number in range(splits):
        storage.write_bytes(plan.layout.log("predict", number), f"predict {number}\n".encode())
    for node in range(2 if splits else 0):
        storage.write_bytes(plan.layout.log("train", None, node), f"train {node}\n".encode())
    record = RunRecord.of_plan(plan, "kubernetes")
    record.stage("configure").state = record.stage("chip").state = State.SUCCEEDED
    found = RunStatus(plan.run_uri, record, str(State.SUCCEEDED))
    places = Places(root_uri=str(root), cluster=cluster)  # type: ignore[arg-type]
    run = ClusterRun("run-1", DRIVER, pods=tuple(pods))
    said = logs._print_stored_or_live(places, found, run, wanted or Wanted(), Printer(), part)
    return said, cluster


def test_times_are_those_of_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = Part(5, 90.0, True)
    said, cluster = printed(tmp_path, [pod("a", "chip")], part)
    out, err = capsys.readouterr()
    assert said
    assert out == "==> chip, split 0 <==\n2026-11-30T10:00:00.5Z of a\n"
    assert says(err, "left out, …without times: configure\n")
    assert cluster.asked == [("a", {"timestamps": True, "tail": 5, "seconds": 90.0})]
    with pytest.raises(InputError, match=r"^--since: logs .*without .*times"):
        printed(tmp_path, [], part)


@pytest.mark.parametrize(
    ("wanted", "pods", "left"),
    [
        (Wanted("predict"), [0, 2], "predict, split 1; predict, split 3"),
        (Wanted("predict"), [0, 1, 2, 3], ""),
        (Wanted("predict", 2), [2], ""),
        (Wanted("train"), [0], "train, node 1"),
        (Wanted("train"), [1], "train"),
        (Wanted("train", node=1), [1], ""),
    ],
)
def test_each_log_that_is_left_out_for_its_times_is_named(
    wanted: Wanted, pods: list[int], left: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [pod(f"p{n}", str(wanted.stage), number=n) for n in pods]
    said, cluster = printed(tmp_path, there, Part(timestamps=True), wanted, splits=4)
    assert said
    assert [name for name, _ in cluster.asked] == [f"p{n}" for n in pods]
    assert says(capsys.readouterr().err, f"left out, …without times: {left}\n" if left else "")


@pytest.mark.parametrize("started", [False, True])
def test_pods_that_are_not_asked_for_hide_no_log_that_is_left_out(
    started: bool, tmp_path: Path
) -> None:
    number = 0 if started else 1  # of the one that is asked for, with nothing written
    pods = [pod("a", "predict", number=number, started=started)]
    with pytest.raises(InputError, match=r"^--since: logs .*without .*times"):
        printed(tmp_path, pods, Part(since=60.0), Wanted("predict", 1), splits=4)


def test_a_log_whose_pod_is_gone_is_shown_while_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(tmp_path, [pod("a", "train", number=1)], Part(), Wanted("train"), splits=4)[0]
    live = "==> train, node 1 <==\n2026-11-30T10:00:00.5Z of a\n"
    assert capsys.readouterr().out == f"{live}==> train <==\ntrain 0\n"


def test_where_no_times_are_asked_for_storage_has_all_attempts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, cluster = printed(tmp_path, [pod("a", "chip")], Part(1))
    assert said
    assert capsys.readouterr() == ("==> configure <==\nconfigure 2\n==> chip <==\nchip 2\n", "")
    assert cluster.asked == []


def test_nothing_since_then_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pods, "log_lines", lambda *_, **__: iter(()))
    assert printed(tmp_path, [pod("a", "chip")], Part(since=1.0))[0]
    assert not printed(tmp_path, [pod("a", "train")], Part(timestamps=True))[0]


def test_the_attempt_before_the_last_is_a_pod_where_storage_has_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path)
    record = RunRecord.of_plan(plan, "kubernetes")
    found, cluster = RunStatus(plan.run_uri, record, str(State.RUNNING)), Pods()
    places = Places(root_uri=str(tmp_path), cluster=cluster)  # type: ignore[arg-type]
    run = ClusterRun(
        "run-1", DRIVER, pods=(pod("c", "train"), pod("a", "train"), pod("b", "train"))
    )
    logs._print_previous(places, found, run, Wanted("train"), Printer(), Part(3, timestamps=True))
    assert cluster.asked == [("b", {"timestamps": True, "tail": 3})]
    assert capsys.readouterr().out == "==> train, node 0 <==\n2026-11-30T10:00:00.5Z of b\n"
    with pytest.raises(InputError, match=r"nothing .*more than once.*stage chip"):
        logs._print_previous(places, found, run, Wanted("chip"), Printer(), Part())


class Going(Pods):
    """A run with a pod; another one comes, then it ends."""

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return pod(name, "chip", "Succeeded")

    def watch_once(
        self, kind: str, labels: str, version: str | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        if version is None:
            driver = DRIVER
            first = driver if kind == "Job" else pod("a", "chip")
            yield "LISTED", {"items": [first], "version": "1"}
        elif version == "1":
            while not self.asked:
                time.sleep(0.05)
            meta = {"resourceVersion": "2"}
            if kind == "Pod":
                second = pod("b", "chip")
                yield "ADDED", {**second, "metadata": {**second["metadata"], **meta}}
                return
            while len(self.asked) < 2:
                time.sleep(0.05)
            ended = {"conditions": [{"type": "Complete", "status": "True"}]}
            yield (
                "MODIFIED",
                {"kind": "Job", "metadata": {**DRIVER["metadata"], **meta}, "status": ended},
            )
        time.sleep(0.05)


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_pod_that_comes_while_it_follows_is_printed_whole(
    timestamps: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, part = Going(), Part(7, 60.0, timestamps)
    run = ClusterRun("run-1", DRIVER)
    pod_logs.follow(cluster, run, Wanted(), Printer(), part)  # type: ignore[arg-type]
    always = {"follow": True, "timestamps": True}
    assert cluster.asked == [
        ("a", {**always, "tail": 7, "seconds": 60.0}),
        ("b", always),
    ]
    stamp = "2026-11-30T10:00:00.5Z " if timestamps else ""
    assert capsys.readouterr().out == f"==> chip, split 0 <==\n{stamp}of a\n{stamp}of b\n"


class Silent(Pods):
    """A pod whose first line comes with the third request, ten seconds after the first.

    Args:
        refused: how many requests the server does not answer.
    """

    def __init__(self, refused: int):
        super().__init__()
        self.refused, self.now = refused, 1000.0

    def log_lines(self, pod: str, container: str, **asked: object) -> Iterator[bytes]:
        tail, seconds = asked.get("tail"), asked.get("seconds")
        self.asked.append(("since" if asked.get("since") else "", {"tail": tail, "for": seconds}))
        if len(self.asked) <= self.refused:
            raise ClusterUnavailable("no route to host")
        if len(self.asked) >= 3:
            yield b"2026-11-30T10:00:00.5Z a line"

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return pod(name, "chip", "Running" if len(self.asked) < 4 else "Succeeded")

    def sleep(self, seconds: float) -> None:
        self.now += 5.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("part", "refused", "later"),
    [
        (Part(0), 0, [(None, 6.0), (None, 11.0)]),
        (Part(0), 2, [(None, 6.0), (None, 11.0)]),
        (Part(0, 2.0), 1, [(None, 6.0), (None, 11.0)]),
        (Part(None, 2.0), 0, [(None, 7.0), (None, 12.0)]),
        (Part(None, 2.0), 2, [(None, 7.0), (None, 12.0)]),
        (Part(7), 0, [(None, 6.0), (None, 11.0)]),
        (Part(7), 1, [(7, None), (None, 11.0)]),
        (Part(7, 2.0), 1, [(7, 7.0), (None, 11.0)]),
        (Part(), 1, [(None, None), (None, None)]),
    ],
)
def test_no_line_is_lost_where_none_has_come_when_it_is_asked_again(
    part: Part,
    refused: int,
    later: list[tuple[int | None, float | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, lines = Silent(refused), queue.Queue[tuple[str, bytes]]()
    monkeypatch.setattr(pod_logs, "time", cluster)
    pod_logs._read(cluster, pod("a", "chip"), lines, part)  # type: ignore[arg-type]
    first, *rest, last = cluster.asked
    assert first == ("", {"tail": part.tail, "for": part.since})
    assert rest == [("", {"tail": tail, "for": seconds}) for tail, seconds in later]
    assert last == ("since", {"tail": None, "for": None})
    assert list(lines.queue) == [("chip, split 0", b"a line")]
