"""How stages end, and what the driver makes of it, against a real API server; pods are played."""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.controlplane import ControlPlane
from cluster.driverrun import Fate, Object, Play, make_account, stop

from rvk8s import storage, yaml_loader
from rvk8s.contract import now

RANKS = {"stages": {"train": {"nodes": 2, "ranks": 2}}}


def ended(container: str, code: int, reason: str = "Error", **status: Any) -> Fate:
    """A failed pod's status as the kubelet writes it."""
    over = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
    over |= {"message": status.pop("text", "")}
    state = {"name": container, "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "phase": "Failed",
        "containerStatuses": [{**state, "state": {"terminated": over}}],
        **status,
    }


def waiting(reason: str, message: str) -> Fate:
    """The status of a pod whose container does not start."""
    state = {"name": "stage", "image": "registry.example.com/rvk8s:1", "imageID": ""}
    state |= {"ready": False, "restartCount": 0}
    state["state"] = {"waiting": {"reason": reason, "message": message}}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
    return {"conditions": [scheduled], "containerStatuses": [state]}


def disrupted(container: str) -> Fate:
    lost = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    lost |= {"message": "Eviction API: evicting", "lastTransitionTime": now()}
    return ended(container, 143, conditions=[lost])


def unschedulable(message: str) -> Fate:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {"conditions": [{**condition, "message": message, "lastTransitionTime": now()}]}


@pytest.mark.parametrize(
    ("fate", "code", "words"),
    [
        (2, 2, "refused its input"),
        (12, 12, "ran out of memory"),
        (1, 1, "failed"),
        (ended("stage", 137, "OOMKilled"), 12, "killed for want of memory (its limit is 8Gi)"),
        (
            ended(
                "stage", 128, "StartError", text='exec: "rvk8s-stage": executable file not found'
            ),
            2,
            "must have rvk8s-stage",
        ),
        (
            {
                "phase": "Failed",
                "reason": "Evicted",
                "message": "Pod ephemeral local storage usage exceeds the total limit of 1Gi.",
            },
            28,
            "give the pool more ephemeralStorage",
        ),
    ],
)
def test_final_ends(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, fate: Fate, code: int, words: str
) -> None:
    """Of split 1 of 2; the other split runs on and is ended."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        return 0 if stage != "chip" else fate if index == 1 else None

    values = {"stages": {"chip": {"splits": 2}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        assert play.finish(play.drive(), 40) == code, play.said()
        record, chip = play.record(), play.stage("chip")
        assert (record["state"], record["exitCode"]) == ("Failed", code)
        assert (chip["exitCode"], chip["failedSplit"]) == (code, 1)
        assert words in record["message"]
        assert record["message"].startswith("stage chip: ")
        assert play.stage("train")["state"] == "Pending"
        assert play.left() == []


def test_the_stage_says_why(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with Play(apiserver, namespace, tmp_path, lambda stage, *_: 2) as play:
        said = {"exitCode": 2, "message": "epochs is -1; give at least 1"}
        storage.write_json(play.layout.failed("configure"), said)
        assert play.finish(play.drive()) == 2
        assert play.record()["message"] == "stage configure: epochs is -1; give at least 1"


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
@pytest.mark.parametrize("stage", ["chip", "train"])
def test_a_stage_that_storage_refuses_says_why(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, stage: str, launcher: str
) -> None:
    """It cannot write failed.json; that of its last failure lies there still."""
    text = "s3://bucket/runs/run-1: access denied (InvalidAccessKeyId); give other keys"

    def act(name: str, index: int, attempt: int) -> Fate:
        container = "pytorch" if name == "train" and launcher == "pytorchjob" else "stage"
        return ended(container, 2, text=f"{text}\n") if name == stage else 0

    values = {**RANKS, "launcher": launcher}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        said = {"exitCode": 2, "message": "epochs is -1", "at": "2026-01-01T00:00:10Z"}
        storage.write_json(play.layout.failed(stage), said)
        assert play.finish(play.drive()) == 2, play.said()
        assert play.record()["message"] == f"stage {stage}: {text}"


@pytest.mark.slow
def test_a_split_is_tried_again_by_its_job(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The Job controller waits 10 s before it starts an index again."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        if stage == "chip" and index == 1 and attempt == 0:
            return 137
        # A lost node does not count: there are no retries.
        return disrupted("stage") if stage == "predict" and attempt == 0 else 0

    stages = {"chip": {"splits": 2, "retries": 1}, "predict": {"retries": 0}}
    with Play(apiserver, namespace, tmp_path, act, values={"stages": stages}) as play:
        assert play.finish(play.drive(), 80) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


@pytest.mark.parametrize("other_is_done", [True, False])
def test_a_split_that_its_job_gives_up_for_a_lost_node(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, other_is_done: bool
) -> None:
    """Its node refused it. The other one is done by then, or is ended and starts again, too."""
    refused = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no devices"}

    def act(stage: str, index: int, attempt: int) -> Fate:
        if stage != "chip":
            return 0
        if (index, attempt) == (1, 0):
            time.sleep(1)
            return refused
        if index == 0 and not other_is_done:
            time.sleep(4 * attempt)  # it is done long after the one that was refused
            return 0 if attempt else None
        return 0

    values = {"stages": {"chip": {"splits": 2, "retries": 0}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        assert play.finish(play.drive(), 90) == 0, play.said()
        assert "UnexpectedAdmissionError no devices; trying again" in play.said()
        assert len(play.made["run-1-chip"]) == 2
        assert play.left() == []


@pytest.mark.slow
@pytest.mark.parametrize(("times", "code"), [(2, 0), (99, 28)])
def test_a_node_whose_disk_is_full(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, times: int, code: int
) -> None:
    """Others may have filled it; a split that meets it again and again fills it itself."""
    text = (
        "The node was low on resource: ephemeral-storage. Threshold quantity: 2Gi, available: 1Gi"
    )
    why = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    why |= {"message": text, "lastTransitionTime": now()}
    full = {"phase": "Failed", "reason": "Evicted", "message": text, "conditions": [why]}

    def act(stage: str, index: int, attempt: int) -> Fate:
        return full if stage == "chip" and attempt < times else 0

    with Play(apiserver, namespace, tmp_path, act) as play:
        assert play.finish(play.drive(), 60) == code, play.said()
        assert (play.stage("chip")["exitCode"] or 0) == code
        assert play.left() == []
        if code:
            assert "ephemeral-storage" in play.record()["message"]
            assert "give the pool more ephemeralStorage" in play.record()["message"]


def test_exhausted_retries_end_the_run(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    values = {"stages": {"chip": {"retries": 0}}}
    act = lambda stage, *_: 137 if stage == "chip" else 0  # noqa: E731
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        # 137 would start another driver, which could do no better.
        assert play.finish(play.drive()) == 1, play.said()
        record = play.record()
        assert (record["state"], record["exitCode"]) == ("Failed", 137)
        assert "was killed (SIGKILL)" in record["message"]


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_training_starts_again_as_a_whole(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, launcher: str
) -> None:
    """A worker is killed, then a node is lost, which is not counted."""
    container = "pytorch" if launcher == "pytorchjob" else "stage"

    def act(stage: str, index: int, attempt: int) -> Fate:
        if stage != "train" or attempt >= 2:
            return 0
        if index == 0:
            return None  # the others wait for the one that is gone
        return 137 if attempt == 0 else disrupted(container)

    values = deepcopy(RANKS) | {"launcher": launcher}
    values["stages"]["train"]["retries"] = 1
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        assert play.finish(play.drive(), 100) == 0, play.said()
        train = play.stage("train")
        assert (train["attempts"], train["disruptions"]) == (2, 1)
        assert len(play.made["run-1-train"]) == 3
        assert play.left() == []


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_half_of_the_nodes_are_given_back(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, launcher: str
) -> None:
    """Another training holds the rest, and waits for these: one has to let go."""
    text = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."

    def act(stage: str, index: int, attempt: int) -> Fate:
        if stage != "train" or attempt:
            return 0
        return None if index == 0 else unschedulable(text)

    values = {**RANKS, "launcher": launcher}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        driver = play.drive(RVK8S_PARTIAL_PATIENCE="4")
        play.until(lambda: play.running("train"))
        play.until(lambda: text.rstrip(".") in str(play.stage("train")["message"]))
        assert play.finish(driver) == 0, play.said()
        assert "gave 1 of its 2 nodes back after" in play.said()
        train = play.stage("train")
        assert (train["attempts"], train["disruptions"], train["givenBack"]) == (1, 0, 1)
        assert len(play.made["run-1-train"]) == 2


def test_the_worker_that_failed_first_says_why(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Node 1 ran out of memory, node 0 lost it: 138, which alone would be tried again."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        return 0 if stage != "train" else (138, 12)[index]

    with Play(apiserver, namespace, tmp_path, act, values=RANKS) as play:
        assert play.finish(play.drive(), 60) == 12, play.said()
        assert play.stage("train")["attempts"] == 1


def test_a_training_without_its_marker_has_failed(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A worker-only elastic PyTorchJob has succeeded when any worker has."""
    with Play(apiserver, namespace, tmp_path) as play:
        mark = play.mark
        play.mark = lambda stage, index=0: mark(stage, index) if stage != "train" else None  # type: ignore[method-assign]
        assert play.finish(play.drive()) == 1, play.said()
        assert "left no done-marker" in play.record()["message"]


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (waiting("ImagePullBackOff", "Back-off pulling image"), "rvk8s:1 cannot be pulled"),
        (waiting("CreateContainerConfigError", 'secret "s3" not found'), 'secret "s3" not found'),
    ],
)
def test_pods_that_cannot_start(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, fate: Fate, words: str
) -> None:
    with Play(apiserver, namespace, tmp_path, lambda *_: fate) as play:
        assert play.finish(play.drive(RVK8S_START_PATIENCE="3")) == 2, play.said()
        assert words in play.record()["message"]
        assert play.left() == []


def test_a_queue_is_waited_in(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """run.json says why it waits, and the deadline does not run."""
    text = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
    fates: dict[str, Fate] = {"configure": unschedulable(text)}

    def act(stage: str, index: int, attempt: int) -> Fate:
        return fates.get(stage, 0)

    values = {"stages": {"configure": {"deadlineSeconds": 1}}}
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        driver = play.drive(RVK8S_PENDING_DEADLINE="6")
        play.until(lambda: storage.read_json(play.layout.run_json) is not None)
        play.until(lambda: text.rstrip(".") in str(play.stage("configure")["message"]))
        assert play.finish(driver) == 124, play.said()
        assert "no node has room" in play.record()["message"]
        assert play.left() == []


def test_a_deadline_outlives_the_driver(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    values = {"stages": {"train": {"deadlineSeconds": 6}}}
    act = lambda stage, *_: None if stage == "train" else 0  # noqa: E731
    with Play(apiserver, namespace, tmp_path, act, values=values) as play:
        first = play.drive()
        play.until(lambda: play.running("train"))
        first.kill()
        first.wait()
        assert play.finish(play.drive(), 30) == 124, play.said()
        assert "longer than its deadline" in play.record()["message"]
        assert play.stage("train")["seconds"] < 20
        assert play.left() == []


def test_a_quota_that_is_used_up(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    apiserver.kubectl("-n", namespace, "create", "quota", "q", "--hard=pods=0")
    with Play(apiserver, namespace, tmp_path) as play:
        assert play.finish(play.drive(RVK8S_START_PATIENCE="8"), 60) == 2, play.said()
        assert "exceeded quota: q" in play.record()["message"]
        assert "have the quota raised" in play.record()["message"]


def test_names_that_are_taken(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    make_account(apiserver, namespace)
    with Play(apiserver, namespace, tmp_path) as play:
        play.cluster.create(_other_job("run-1-configure"))
        assert play.finish(play.drive()) == 2, play.said()
        assert "there is a Job run-1-configure already, of another run" in play.said()


def test_a_stage_that_was_changed_while_no_driver_was_there(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Its ConfigMap was applied anew: the pod that runs is not what the run asks for now."""
    act = lambda stage, *_: None if stage == "chip" else 0  # noqa: E731
    with Play(apiserver, namespace, tmp_path, act) as play:
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        stop(driver)
        file = play.stages / "chip.yaml"
        job = yaml_loader.load(file.read_text())
        job["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "X", "value": "1"})
        file.write_text(yaml.safe_dump(job))
        assert play.finish(play.drive(), 40) == 2, play.said()
        assert "there is a Job run-1-chip already" in play.record()["message"]
        assert "another specification" in play.record()["message"]
        assert len(play.made["run-1-chip"]) == 1


def test_what_an_earlier_submit_left_is_made_anew(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Same run, another driver's Job: its stages go, and are made by the new one."""
    with Play(apiserver, namespace, tmp_path) as play:
        # It still exists, else the garbage collector would delete its stages first.
        other = play.cluster.create(_other_job("run-0"))
        labels = {"rvk8s.io/run": "run-1", "rvk8s.io/stage": "configure"}
        old = play.cluster.create(_other_job("run-1-configure", labels, other))
        play.until(lambda: old["metadata"]["uid"] in play.made.get("run-1-configure", ()))
        assert play.finish(play.drive()) == 0, play.said()
        assert len(play.made["run-1-configure"]) == 2


def _other_job(
    name: str, labels: Mapping[str, str] | None = None, owner: Object | None = None
) -> Object:
    container = {"name": "c", "image": "i"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata: Object = {"name": name, "labels": dict(labels or {})}
    if owner:
        uid = owner["metadata"]["uid"]
        metadata["ownerReferences"] = [
            {"apiVersion": "batch/v1", "kind": "Job", "name": owner["metadata"]["name"], "uid": uid}
        ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"suspend": True, "template": template},
    }
