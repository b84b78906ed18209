"""The states of runs and stages, read off what Kubernetes says; and with what storage says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rvk8s.cluster.conditions import run_state, state_of
from rvk8s.contract import STAGES, State
from rvk8s.plan import Plan, Stage
from rvk8s.progress import Progress
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import merged
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import LOST, RunStatus, StageStatus


def job(*true: str, kind: str = "Job", cancelled: bool = False, **status: Any) -> dict[str, Any]:
    conditions = [{"type": name, "status": "True", "message": f"of {name}"} for name in true]
    annotations = {"rvk8s.io/root-uri": "s3://b/r"}
    annotations |= {"rvk8s.io/cancel": "2026-11-24T10:00:00Z"} if cancelled else {}
    return {
        "kind": kind,
        "metadata": {
            "name": "one-1",
            "labels": {"rvk8s.io/run": "one-1", "rvk8s.io/experiment": "one"},
            "annotations": annotations,
            "creationTimestamp": "2026-11-24T10:00:00Z",
        },
        "spec": {"suspend": status.pop("suspend", False)},
        "status": {"conditions": conditions, **status},
    }


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (job(), State.PENDING),
        (job(active=1), State.PENDING),
        (job(active=1, ready=1), State.RUNNING),
        (job(suspend=True), State.PENDING),
        (job("Suspended"), State.PENDING),
        (job("SuccessCriteriaMet", active=1, ready=1), State.SUCCEEDED),
        (job("SuccessCriteriaMet", "Complete"), State.SUCCEEDED),
        (job("FailureTarget", active=1, ready=1), State.FAILED),
        (job("FailureTarget", "Failed"), State.FAILED),
        (job("Created", kind="PyTorchJob"), State.PENDING),
        (job("Created", "Running", kind="PyTorchJob"), State.RUNNING),
        (job("Created", "Restarting", kind="PyTorchJob"), State.RUNNING),
        (job("Created", "Suspended", kind="PyTorchJob"), State.PENDING),
        (job("Created", "Succeeded", kind="PyTorchJob"), State.SUCCEEDED),
        (job("Created", "Failed", kind="PyTorchJob"), State.FAILED),
    ],
)
def test_states(item: dict[str, Any], state: State) -> None:
    found, why = state_of(item)
    assert found == state
    assert why
    if state == State.FAILED:
        assert why.startswith("of Fail")


def test_a_cancelled_run_is_not_a_failed_one() -> None:
    assert run_state(job("Failed", cancelled=True))[0] == State.CANCELLED
    assert run_state(job(cancelled=True, suspend=True))[0] == State.CANCELLED
    assert run_state(job(cancelled=True, active=1, ready=1))[0] == State.RUNNING
    assert run_state(job("Complete", cancelled=True))[0] == State.SUCCEEDED


def stored(state: str, ended: str | None = None, **stages: State) -> RunStatus:
    """What storage says of the run."""
    plan = Plan("one-1", "one", "m.py", "/p", {}, "s3://b/r", tuple(Stage(n) for n in STAGES))
    record = RunRecord.of_plan(plan, "kubernetes")
    record.state = State.RUNNING if state == LOST else State(state)
    record.ended = ended
    for name, of in stages.items():
        record.stage(name).state = of
    shown = tuple(StageStatus(stage, str(stage.state), Progress()) for stage in record.stages)
    return RunStatus("s3://b/r/one-1", record, state, shown)


def test_storage_and_cluster_together() -> None:
    running = ClusterRun("one-1", job(active=1, ready=1))
    # What has happened is in storage.
    assert merged(running, stored("Running", train=State.RUNNING)).state == "Running"
    assert merged(running, stored("Succeeded", "2026-11-24T11:00:00Z")).state == "Succeeded"
    # It goes on: what run.json says is of before.
    again = merged(running, stored("Failed", "2026-11-24T09:00:00Z", train=State.FAILED))
    assert again.state == "Running"
    assert again.record.stage("train").state == State.FAILED
    # The driver was killed and is started again; its heartbeat is old.
    lost = stored(LOST, train=State.RUNNING)
    lost = replace(lost, stages=tuple(replace(s, state=LOST) for s in lost.stages))
    back = merged(ClusterRun("one-1", job(active=1)), lost)
    assert back.state == "Running"
    assert LOST not in {stage.state for stage in back.stages}
    # The driver ended without being able to say so.
    dead = merged(ClusterRun("one-1", job("Failed")), stored("Running", train=State.RUNNING))
    assert (dead.state, dead.record.message) == ("Failed", "of Failed")
    # No storage.
    alone = merged(running, None)
    assert alone.state == "Running"
    assert alone.uri == "s3://b/r/one-1"


def test_when_a_schedule_s_run_was_made_is_what_the_cluster_says() -> None:
    """Its plan does not say it before its driver has begun; another one's does."""
    stages = tuple(Stage(name) for name in STAGES)
    for created, shown in (("", "2026-11-24T10:00:00Z"), ("2026-11-23T09:00:00Z",) * 2):
        plan = Plan("one-1", "one", "m.py", "/p", {}, "s3://b/r", stages, created=created)
        assert ClusterRun("one-1", job(), plan=plan).record().plan.created == shown
    assert ClusterRun("one-1", job()).record().plan.created == "2026-11-24T10:00:00Z"


def test_without_storage_stages_are_read_off_their_objects() -> None:
    train = job("Created", "Failed", kind="PyTorchJob", startTime="2026-11-24T10:00:10Z")
    train["metadata"]["labels"]["rvk8s.io/stage"] = "train"
    train["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-24T10:01:10Z"
    chip = job("Complete", startTime="2026-11-24T10:00:00Z", completionTime="2026-11-24T10:00:09Z")
    chip["metadata"]["labels"]["rvk8s.io/stage"] = "chip"
    terminated = {"exitCode": 12, "finishedAt": "2026-11-24T10:01:09Z"}
    pod = {
        "metadata": {
            "labels": {"rvk8s.io/stage": "train"},
            "creationTimestamp": "2026-11-24T10:00:00Z",
        },
        "status": {
            "phase": "Failed",
            "containerStatuses": [{"name": "pytorch", "state": {"terminated": terminated}}],
        },
    }
    record = ClusterRun("one-1", job("Failed"), (chip, train), (pod,)).record()
    assert record.state == State.FAILED
    assert record.message == "stage train: ran out of memory"
    assert record.stage("chip").state == State.SUCCEEDED
    assert record.stage("chip").seconds == 9
    assert record.stage("train").state == State.FAILED
    assert record.stage("train").seconds == 60
    assert record.stage("predict").state == State.PENDING
