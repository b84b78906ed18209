"""What the driver waits for while a part of a stage works: quotas, other splits, a node that hangs.

Against a real API server with its controllers; pods are played (driverrun.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.apiserver import bind_to_new_node
from cluster.controlplane import ControlPlane
from cluster.driverrun import Fate, Play, make_account
from cluster.test_driver_ends import disrupted, waiting

from rvk8s import storage
from rvk8s.cluster import Object
from rvk8s.contract import now
from rvk8s.runs import cluster_runs, places

pytestmark = pytest.mark.slow
RANKS = {"stages": {"train": {"nodes": 2, "ranks": 2}}}


def message(play: Play, stage: str) -> str:
    """What run.json says of a stage."""
    begun = storage.read_json(play.layout.run_json) is not None
    return str(play.stage(stage)["message"]) if begun else ""


def name_of(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def running(play: Play, stage: str) -> list[Object]:
    """The pods of a stage of which the player has said that they run."""
    pods = play.stage_pods(stage)
    return [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]


def test_a_quota_for_fewer_pods_than_splits(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Those that have a place work; the rest comes when they are done."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        play.seconds = 14.0 if stage == "chip" else 0.1
        return 0

    values = {"stages": {"chip": {"splits": 3}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        apiserver.kubectl("-n", namespace, "create", "quota", "q", "--hard=pods=2")
        driver = play.drive(RVK8S_START_PATIENCE="2")
        play.until(lambda: "the namespace's quota is used up" in message(play, "chip"), 40)
        time.sleep(5)  # longer than it is patient where nothing works
        assert driver.poll() is None, play.said()
        assert play.finish(driver, 90) == 0, play.said()
        assert len(play.made["run-1-chip"]) == 1


def test_a_split_that_cannot_start_does_not_end_the_others(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    def act(stage: str, index: int, attempt: int) -> Fate:
        play.seconds = 10.0 if stage == "chip" else 0.1
        return waiting("ImagePullBackOff", "Back-off") if (stage, index) == ("chip", 1) else 0

    values = {"stages": {"chip": {"splits": 2}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        driver = play.drive(RVK8S_START_PATIENCE="2")
        play.until(lambda: "rvk8s:1 cannot be pulled" in message(play, "chip"))
        assert play.finish(driver, 40) == 2, play.said()
        assert ("chip", "ended") in play.times, "the other one came to its end"
        assert play.stage("chip")["failedSplit"] == 1
        assert "cannot be pulled" in play.record()["message"]


def test_a_quota_of_jobs_is_waited_for_and_said(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Those that have ended count, too: the driver's, that of configure."""
    apiserver.kubectl("-n", namespace, "create", "quota", "q", "--hard=count/jobs.batch=2")
    with Play(apiserver, namespace, tmp_path) as play:
        driver = play.drive()
        play.until(lambda: "exceeded quota: q" in message(play, "analyze"), 40)
        apiserver.kubectl("-n", namespace, "delete", "quota", "q")
        assert play.finish(driver, 60) == 0, play.said()
        assert play.stage("analyze")["message"] is None


def test_a_pod_that_replaces_another_and_has_no_quota(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    def act(stage: str, index: int, attempt: int) -> Fate:
        return None if (stage, attempt) == ("chip", 0) else 0

    with Play(apiserver, namespace, tmp_path, act) as play:
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        (pod,) = play.stage_pods("chip")
        other = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "other"}}
        play.cluster.create({**other, "spec": pod["spec"]})
        apiserver.kubectl("-n", namespace, "create", "quota", "q", "--hard=pods=1")
        used = ("get", "quota", "q", "-o", "jsonpath={.status.used.pods}")
        play.until(lambda: apiserver.kubectl("-n", namespace, *used) == "2")
        play.set_status("Pod", pod, disrupted("stage"))
        play.until(lambda: "the namespace's quota is used up" in message(play, "chip"), 60)
        play.delete("Pod", "other")
        assert play.finish(driver, 120) == 0, play.said()


def hang(plane: ControlPlane, play: Play, pod: Object, node: str) -> None:
    """Put a pod on a node without a kubelet, and tell it to end as the taint manager does."""
    name = name_of(pod)
    bind_to_new_node(plane, play.namespace, name, node)
    why: Mapping[str, Any] = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": now(),
    }
    found = play.cluster.get("Pod", name)
    assert found is not None
    conditions = [*found["status"].get("conditions", ()), why]
    play.set_status("Pod", pod, {"phase": "Running", "conditions": conditions})
    delete = ("delete", "pod", name, "--grace-period=1", "--wait=false")
    plane.kubectl("-n", play.namespace, *delete)


def notes(play: Play) -> list[str]:
    """What `rvk8s status` says beside the table."""
    run = cluster_runs.find(play.cluster, play.run_id)
    assert run is not None
    return places.troubles(play.cluster, run)


def out_of_service(plane: ControlPlane, node: str) -> None:
    taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    plane.kubectl("taint", "node", node, taint)


def test_a_split_on_a_node_that_hangs(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """It waits, says for what, and goes on once somebody has said that the machine is off."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        return None if (stage, index, attempt) == ("chip", 1, 0) else 0

    node = f"{namespace}-split"
    values = {"stages": {"chip": {"splits": 2}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        driver = play.drive(RVK8S_START_PATIENCE="1")
        play.until(lambda: [pod for pod in running(play, "chip") if "-chip-1-" in name_of(pod)])
        (pod,) = [pod for pod in running(play, "chip") if "-chip-1-" in name_of(pod)]
        hang(apiserver, play, pod, node)
        play.until(lambda: f"node {node} does not answer" in message(play, "chip"), 60)
        assert any(note.startswith(f"chip: node {node} does not answer") for note in notes(play))
        assert f"kubectl delete node {node}" in play.said()
        time.sleep(3)
        assert driver.poll() is None, play.said()
        out_of_service(apiserver, node)
        assert play.finish(driver, 120) == 0, play.said()


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_a_training_on_a_node_that_hangs(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, launcher: str
) -> None:
    """It counts as a lost node, and no other attempt begins beside the pod that may still run."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        return None if stage == "train" and attempt == 0 else 0

    node = f"{namespace}-{launcher}"
    values = {**RANKS, "launcher": launcher}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        driver = play.drive(RVK8S_START_PATIENCE="1")
        play.until(lambda: len(running(play, "train")) == 2)
        hang(apiserver, play, max(running(play, "train"), key=name_of), node)
        play.until(lambda: f"node {node} does not answer" in play.said(), 120)
        assert any(note.startswith(f"train: node {node} does not answer") for note in notes(play))
        assert len(play.made["run-1-train"]) == 1, play.said()
        apiserver.kubectl("delete", "node", node)
        assert play.finish(driver, 150) == 0, play.said()
        train = play.stage("train")
        assert (train["attempts"], train["disruptions"]) == (1, 1)
        assert len(play.made["run-1-train"]) == 2


def test_a_node_that_hangs_for_ever(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    node = f"{namespace}-ever"
    act = lambda stage, *_: None if stage == "train" else 0  # noqa: E731
    with Play(apiserver, namespace, tmp_path, act) as play:
        driver = play.drive(RVK8S_PENDING_DEADLINE="4")
        play.until(lambda: play.running("train"))
        hang(apiserver, play, play.stage_pods("train")[0], node)
        assert play.finish(driver, 120) == 124, play.said()
        record = play.record()
        assert (record["state"], record["exitCode"]) == ("Failed", 124)
        assert f"node {node} does not answer" in record["message"]
        apiserver.kubectl("delete", "node", node)


def test_a_driver_on_a_node_that_hangs(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    node = f"{namespace}-driver"
    make_account(apiserver, namespace, "rvk8s-driver")
    with Play(apiserver, namespace, tmp_path) as play:
        play.cluster.patch("Job", "run-1", {"spec": {"suspend": False}})

        def pods() -> list[Object]:
            return play.cluster.list_all("Pod", "batch.kubernetes.io/job-name=run-1")

        play.until(pods)
        (pod,) = pods()
        hang(apiserver, play, pod, node)
        play.until(lambda: any(f"driver: node {node} does not" in note for note in notes(play)), 60)
        assert [one["metadata"]["uid"] for one in pods()] == [pod["metadata"]["uid"]]
        out_of_service(apiserver, node)
        uid = pod["metadata"]["uid"]
        play.until(lambda: any(one["metadata"]["uid"] != uid for one in pods()), 60)
