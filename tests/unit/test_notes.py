"""Notes and fixes that name what is so, and what helps."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from launching import make_plan

from rvk8s import storage
from rvk8s.certificates import fix_of
from rvk8s.cluster.kinds import refusal
from rvk8s.contract import DRIVER, State, now, writer_of
from rvk8s.explain import event_trouble
from rvk8s.runs import go_on, status
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.record import RunRecord

Object = dict[str, Any]


def item(name: str, kind: str, *conditions: str, **spec: Any) -> Object:
    true = [{"type": one, "status": "True"} for one in conditions]
    labels = {"rvk8s.io/run": "run-1"} | ({} if name == "run-1" else {"rvk8s.io/stage": name})
    metadata = {"name": name, "uid": name, "labels": labels, "creationTimestamp": now()}
    return {"kind": kind, "metadata": metadata, "spec": spec, "status": {"conditions": true}}


def pod(of: str, phase: str) -> Object:
    owner = {"uid": of}
    metadata = {"name": "p", "labels": {"rvk8s.io/stage": of}, "ownerReferences": [owner]}
    return {"metadata": metadata, "status": {"phase": phase}}


TRAINING = item("train", "PyTorchJob", "Running", pytorchReplicaSpecs={"Worker": {"replicas": 2}})
CHIP = item("chip", "Job", completions=2)


@pytest.mark.parametrize(
    ("stage", "phases", "left"),
    [
        (TRAINING, ["Succeeded", "Succeeded"], []),
        (TRAINING, ["Succeeded", "Running"], ["train"]),
        (TRAINING, [], ["train"]),
        (CHIP, ["Succeeded", "Succeeded", "Failed"], []),
        (CHIP, ["Succeeded"], ["chip"]),
        (CHIP, ["Succeeded", "Failed"], ["chip"]),
    ],
)
def test_what_has_done_its_work_does_not_go_on(
    stage: Object, phases: list[str], left: list[str]
) -> None:
    """Who would say so of the stage, as the training operator, may be away."""
    pods = tuple(pod(stage["metadata"]["name"], phase) for phase in phases)
    run = ClusterRun("run-1", item("run-1", "Job", "Failed"), (stage,), pods)
    assert run.left_behind == left


@pytest.mark.parametrize("left", [True, False])
def test_a_run_whose_driver_has_left_is_lost_at_once(left: bool, tmp_path: Path) -> None:
    """Somebody deleted its Job, and with it its stages; their heartbeats are young yet."""
    plan = make_plan(tmp_path)
    record = RunRecord.of_plan(plan, "kubernetes")
    record.state = record.stage("train").state = State.RUNNING
    record.started = record.stage("train").started = now()
    storage.write_json(plan.layout.run_json, record.to_dict())
    storage.write_json(plan.layout.heartbeat("train"), {"at": now()})
    storage.write_json(plan.layout.heartbeat(DRIVER), {"at": now(), "left": left})
    found = status.run_status(plan.root_uri, plan.run_id)
    assert found.state == ("Lost" if left else "Running")
    uri = plan.layout.heartbeat(DRIVER)
    os.utime(uri, (time.time() - 61, time.time() - 61))
    assert status.stored_state(plan.run_uri) == found.state


@pytest.mark.parametrize(
    ("message", "more"),
    [
        ("chips in s3://b/r are missing; run the chip stage again: --rerun chip", " --rerun chip"),
        ("is damaged; run the configure stage again: --rerun configure", " --rerun configure"),
        ("epochs is -1; give at least 1", ""),
        ("do that again: --rerun STAGE", ""),
    ],
)
def test_the_command_to_go_on_has_what_the_failure_asks_for(
    message: str, more: str, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, go_on="rvk8s run one --run-id run-1")
    record = RunRecord.of_plan(plan, "local")
    record.stage("train").state, record.stage("train").message = State.FAILED, message
    assert go_on.command(record) == f"rvk8s run one --run-id run-1{more}"


@pytest.mark.parametrize(
    ("uri", "stage"),
    [
        ("s3://b/runs/run-1/train/model-bundle.zip", "train"),
        ("s3://b/runs/run-1/chip/train-0-3/index.json", "chip"),
        ("/runs/run-1/.rvk8s/predict-12/done.json", "predict"),
        ("/runs/run-1/.rvk8s/eval/done.json", "eval"),
        ("/runs/run-1/pipeline-config.json", "configure"),
        ("/runs/run-1/run.json", None),
        ("s3://b/images/scene.tif", None),
    ],
)
def test_the_stage_that_writes_a_file_is_named(uri: str, stage: str | None) -> None:
    assert writer_of(uri) == stage


@pytest.mark.parametrize("name", ["stages", "source"])
def test_a_run_s_own_config_map_is_made_by_submit(name: str) -> None:
    text = f'MountVolume.SetUp failed for volume "x" : configmap "one-1-{name}" not found'
    event = {"type": "Warning", "reason": "FailedMount", "message": text, "lastTimestamp": now()}
    trouble = event_trouble([event])
    assert trouble is not None
    assert "--run-id one-1`" in trouble.text
    other = {**event, "message": text.replace(f"one-1-{name}", "certificates")}
    trouble = event_trouble([other])
    assert trouble is not None
    assert "make what is missing" in trouble.text


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("certificate verify failed: certificate is not yet valid", "clock"),
        ("certificate verify failed: certificate has expired", "clock"),
        ("certificate verify failed: unable to get local issuer certificate", "kubeconfig"),
    ],
)
def test_a_clock_that_is_wrong_is_named(said: str, word: str) -> None:
    assert word in fix_of(said, "look at the kubeconfig")


def test_a_namespace_that_is_being_deleted_is_named() -> None:
    class Answer:
        status, headers = 403, {}  # type: ignore[var-annotated]
        data = (
            b'{"message": "configmaps \\"x\\" is forbidden: unable to create new content in '
            b'namespace team because it is being terminated"}'
        )

    error = refusal(Answer(), "POST /api/v1/namespaces/team/configmaps", "https://server")
    assert str(error).startswith("the namespace team is being deleted; ")
