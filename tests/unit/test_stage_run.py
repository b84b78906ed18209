"""A stage as a Job or PyTorchJob whose pods are played; on a cluster see tests/cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from launching import FakeLauncher, make_plan, states_of

from rvk8s import retries, storage
from rvk8s.contract import STAGES, Annotation
from rvk8s.drive import Driver
from rvk8s.engines import stage_run
from rvk8s.engines.patience import Patience
from rvk8s.engines.stage_run import StageRun
from rvk8s.launcher import Manners
from rvk8s.plan import Stage

Object = dict[str, Any]
RUNS: Object = {
    "phase": "Running",
    "containerStatuses": [{"name": "stage", "state": {"running": {}}}],
}
LOST: Object = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no devices"}


class Objects(dict[str, Object]):
    """The launcher's Watcher of a kind."""

    def objects(self, timeout: float = 60.0) -> dict[str, Object]:
        return dict(self)


class Host:
    """A cluster, and what the stages of a run have in common there."""

    def __init__(self) -> None:
        self.patience = Patience(stop=1.0)
        self.pods, self.mains = Objects(), Objects()
        self.cluster = self.logs = self
        self.events: list[Object] = []
        self.reasons: dict[tuple[str, int], str | None] = {}
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def watcher(self, kind: str) -> Objects:
        return self.mains

    def says(self, stage: str, split: int, message: str | None) -> None:
        self.reasons[stage, split] = message

    def look(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def get(self, kind: str, name: str) -> Object | None:
        return self.mains.get(name)

    def list_all(self, kind: str, *_: object, **__: object) -> list[Object]:
        return self.events if kind == "Event" else []

    def delete(self, kind: str, name: str, uid: str) -> None:
        del self.mains[name]
        self.pods.clear()

    def start(self, stage: Stage, uid: str = "u", kind: str = "Job") -> StageRun:
        main = {"kind": kind, "metadata": {"name": stage.name, "uid": uid, "labels": {}}}
        self.mains[stage.name] = {**main, "spec": {}, "status": {}}
        splits = range(stage.splits)
        return StageRun(self, stage, splits, self.mains[stage.name])  # type: ignore[arg-type]

    def pod(
        self, main: str, index: int, status: Mapping[str, Any], age: float | None = None
    ) -> None:
        """Put a pod there, or change one; `age` is since when it has its node, in seconds."""
        owner = self.mains[main]["metadata"]["uid"]
        name = f"{main}-{index}"
        conditions = [] if age is None else [scheduled(age)]
        self.pods[name] = {
            "metadata": {
                "name": name,
                "uid": f"{owner}-{index}",
                "labels": {"rvk8s.io/stage": main},
                "annotations": {"batch.kubernetes.io/job-completion-index": str(index)},
                "ownerReferences": [{"uid": owner}],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "stage"}]},
            "status": {"conditions": conditions, **status},
        }


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(stage_run, "monotonic", found.monotonic)
    return found


def scheduled(age: float, status: str = "True") -> Object:
    then = datetime.now(timezone.utc) - timedelta(seconds=age)
    time = then.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "PodScheduled", "status": status, "lastTransitionTime": time}


def waiting(reason: str, message: str) -> Object:
    """The status of a pod whose container does not start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "containerStatuses": [{"name": "stage", "image": "i", "state": state}],
    }


def unplaced() -> Object:
    text = {"reason": "Unschedulable", "message": "0/3 nodes are available"}
    return {"phase": "Pending", "conditions": [{**scheduled(0, "False"), **text}]}


@pytest.mark.parametrize("first_is_done", [False, True])
def test_a_split_that_lost_its_node_for_good_is_started_again_with_the_others(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_is_done: bool
) -> None:
    """Its Job gave it up and ended the other one; the next Job has both."""
    monkeypatch.setattr(retries, "_BACKOFF", 0.001)
    plan = make_plan(tmp_path, stages={"chip": {"splits": 2}})
    attempts = []

    class Launcher(FakeLauncher):
        def start(self, stage: Stage, splits: Any, attempt: int = 1) -> Any:
            if stage.name != "chip":
                return super().start(stage, splits, attempt)
            attempts.append(list(splits))
            run = host.start(stage, f"job{attempt}")
            status = host.mains["chip"]["status"]
            if attempt == 1:
                if first_is_done:
                    end(0)
                else:
                    host.pod("chip", 0, RUNS)
                host.pod("chip", 1, LOST)
                failed = {"type": "FailureTarget", "status": "True", "message": "Index 1 failed"}
                status |= {"failedIndexes": "1", "conditions": [failed]}
                return run
            order = iter([(0 if first_is_done else 1), None, (1 if first_is_done else 0)])
            poll = run.poll
            for index in range(2):
                host.pod("chip", index, RUNS)

            def one_ends() -> Mapping[int, int]:
                if (index := next(order, None)) is not None:
                    end(index)
                return poll()

            run.poll = one_ends  # type: ignore[method-assign]
            return run

    def end(index: int) -> None:
        host.pod("chip", index, {"phase": "Succeeded"})
        storage.write_json(plan.layout.done("chip", index), {"inputs": "i"})

    manners = Manners(
        session="job",
        disruptions=3,
        retries_splits=frozenset(STAGES) - {"train"},
        why=lambda stage, split: host.reasons.get((stage, split)),
    )
    launcher = Launcher(plan.layout, lambda *_: 0)
    record = Driver(plan, launcher, engine="fake", tick=0.001, manners=manners).drive()
    assert states_of(record)["chip"] == "Succeeded", record.message
    assert attempts == [[0, 1], [0, 1]]


def test_a_fault_that_passed_long_ago_is_not_counted_with_the_next_one(host: Host) -> None:
    run = host.start(Stage("train", nodes=2, gpus=8), kind="PyTorchJob")
    missing = waiting("CreateContainerConfigError", 'secret "s3" not found')
    host.pod("train", 0, missing)
    host.pod("train", 1, unplaced())
    assert run.poll() == {}
    host.seconds = 10
    host.pod("train", 0, RUNS)
    assert run.poll() == {}
    assert "no node has room" in str(run.message)
    host.seconds = 400
    host.pod("train", 1, missing)
    assert run.poll() == {}
    host.seconds = 800
    assert run.poll() == {0: 2}


@pytest.mark.parametrize(
    ("text", "seconds", "code"),
    [
        ('"i": not found', 310, 2),
        ('Back-off pulling image "i": ErrImagePull: lookup registry: i/o timeout', 1810, 2),
        ('Back-off pulling image "i"', 1810, 2),
        ("429 Too Many Requests", 86410, 124),
    ],
)
def test_how_long_an_image_is_waited_for(host: Host, text: str, seconds: int, code: int) -> None:
    run = host.start(Stage("predict"))
    host.pod("predict", 0, waiting("ImagePullBackOff", text), age=1)
    assert run.poll() == {}
    host.seconds = seconds - 20
    assert run.poll() == {}
    host.seconds = seconds
    assert run.poll() == {0: code}


def test_what_cannot_come_right_says_more_than_a_fault_that_may_pass(host: Host) -> None:
    run = host.start(Stage("train", nodes=2))
    host.pod("train", 0, waiting("ErrImagePull", "i/o timeout"))
    host.pod("train", 1, waiting("ErrImagePull", '"i": not found'))
    run.poll()
    host.seconds = 310
    assert run.poll() == {0: 2}
    assert "not found" in str(host.reasons["train", 0])


@pytest.mark.parametrize("name", ["predict", "train"])
def test_time_in_a_queue_that_put_a_stage_out_is_free(host: Host, name: str) -> None:
    run = host.start(Stage(name, splits=1 if name == "train" else 2, deadline_seconds=4 * 3600))
    main = host.mains[name]
    host.pod(name, 0, RUNS, age=3 * 3600)
    if name == "predict":
        host.pod(name, 1, {"phase": "Succeeded"}, age=3 * 3600)
    assert run.poll() == ({} if name == "train" else {1: 0})
    main["spec"]["suspend"] = True
    run.poll()
    del host.pods[f"{name}-0"]
    host.seconds = 5 * 3600
    for pod in host.pods.values():  # a day later
        pod["status"]["conditions"] = [scheduled(86400)]
    assert 0 not in run.poll()
    assert "waits for admission" in str(run.message)
    assert run.spent() == pytest.approx(3 * 3600, abs=5)
    main["spec"]["suspend"] = False
    main["metadata"]["uid"] = run.uid
    host.pod(name, 0, RUNS, age=1800)
    host.pods[f"{name}-0"]["metadata"]["uid"] = "again"
    assert 0 not in run.poll()
    assert run.spent() == pytest.approx(3.5 * 3600, abs=5)
    main["metadata"]["annotations"] = {Annotation.SPENT: "7200"}  # of attempts before
    assert run.spent() == pytest.approx(5.5 * 3600, abs=5)
    assert run.held == pytest.approx(3.5 * 3600, abs=5)
    del main["metadata"]["annotations"]
    host.pods[f"{name}-0"]["status"]["conditions"] = [scheduled(2 * 3600)]
    assert run.poll()[0] == 124


def test_a_driver_that_comes_while_a_stage_waits_counts_nothing(host: Host) -> None:
    run = host.start(Stage("predict", splits=2, deadline_seconds=3600))
    host.mains["predict"]["spec"]["suspend"] = True
    host.pod("predict", 0, {"phase": "Succeeded"}, age=5 * 3600)
    assert run.poll() == {0: 0}
    assert run.spent() == 0


@pytest.mark.parametrize(
    ("name", "kind", "maker"),
    [("train", "PyTorchJob", "--launcher job"), ("chip", "Job", "kube-controller-manager")],
)
def test_nobody_makes_the_pods(host: Host, name: str, kind: str, maker: str) -> None:
    run = host.start(Stage(name), kind=kind)
    host.seconds = 30
    assert run.poll() == {}
    assert run.message is None
    host.seconds = 70
    assert run.poll() == {}
    assert "nothing makes its pods" in str(run.message)
    assert maker in str(run.message)
    host.pod(name, 0, RUNS)
    assert run.poll() == {}
    assert run.message is None
    host.pods.clear()
    host.seconds += 200
    run.poll()
    assert run.message is None, "somebody made one"


@pytest.mark.parametrize("other", [RUNS, {"phase": "Succeeded"}])
def test_a_split_that_its_job_starts_again_is_said(host: Host, other: Object) -> None:
    """The Job waits 10 s, then 20, up to six minutes."""
    run = host.start(Stage("chip", splits=2, retries=3))
    over = {"name": "stage", "state": {"terminated": {"exitCode": 138, "reason": "Error"}}}
    host.pod("chip", 0, other, 10)
    host.pod("chip", 1, {"phase": "Failed", "containerStatuses": [over]}, 10)
    host.seconds += 15
    assert 1 not in run.poll()
    assert "split 1: met a passing fault" in str(run.message)
    host.pod("chip", 1, RUNS, 10)
    run.poll()
    assert run.message is None


def test_nobody_is_missed_who_has_a_reason_to_make_no_pods(host: Host) -> None:
    run = host.start(Stage("chip"))
    host.seconds = 100
    text = "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
    event = {"type": "Warning", "reason": "FailedCreate", "message": text}
    host.events = [{**event, "lastTimestamp": "2026-11-24T13:15:01Z"}]
    run.poll()
    assert "quota is used up" in str(run.message)
    host.events, host.mains["chip"]["spec"] = [], {"suspend": True}
    host.seconds = 300
    run.poll()
    assert "waits for admission" in str(run.message)
    host.mains["chip"]["spec"] = {}
    host.seconds = 350
    run.poll()
    assert run.message is None, "it was let in just now"


def test_nobody_makes_the_pods_for_a_day(host: Host) -> None:
    run = host.start(Stage("train"), kind="PyTorchJob")
    host.seconds = 70
    assert run.poll() == {}
    host.seconds += 86400
    assert run.poll() == {0: 124}
    assert "the training operator" in str(host.reasons["train", 0])
