"""Stages run the bytes that the run began with, whatever a tag names by then; pods are played."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.controlplane import ControlPlane
from cluster.driverrun import ACCOUNT, Play, make_account, stop
from cluster.pods import RESTRICTED
from cluster.test_driver_ends import waiting

from rvk8s.contract import STAGES, now

TAG, REPOSITORY = "registry.example.com/rvk8s:1", "registry.example.com/rvk8s"


def digest(letter: str) -> str:
    return f"{REPOSITORY}@sha256:{letter * 64}"


def images(play: Play) -> dict[str, str]:
    """Stage -> the image of its Job or PyTorchJob."""
    found = {}
    for item in (*play.jobs.objects().values(), *play.trainings.objects().values()):
        spec = item["spec"].get("pytorchReplicaSpecs", {}).get("Worker") or item["spec"]
        stage = item["metadata"]["labels"].get("rvk8s.io/stage")
        if stage:
            found[stage] = spec["template"]["spec"]["containers"][0]["image"]
    return found


def test_a_tag_that_is_pushed_anew_changes_nothing(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The driver is killed in between: what it made is found again, and it goes on likewise."""
    with Play(apiserver, namespace, tmp_path, seconds=0.5) as play:
        play.image_id = lambda stage: digest("a" if stage == "configure" else "b")
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        stop(driver)
        driver = play.drive()
        play.until(lambda: play.running("train"))
        (first,) = play.stage_pods("configure")
        assert play.delete("Pod", first["metadata"]["name"]), "it is gone with its node"
        assert play.finish(driver) == 0, play.said()
        assert images(play) == {s: TAG if s == "configure" else digest("a") for s in STAGES}
        assert "Found Job run-1-chip, made before" in play.said()
        assert {len(uids) for uids in play.made.values()} == {1}
        assert f"run-1-train has {TAG} as the run began with it: {digest('a')}" in play.said()
        (job,) = [one for one in play.jobs.objects().values() if "-eval" in str(one["metadata"])]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        names = [variable["name"] for variable in container["env"]]
        assert "RVK8S_IMAGE_DIGEST" not in names, "stages that are done stay done"


def test_an_image_that_was_loaded_stays_as_it_is_named(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with Play(apiserver, namespace, tmp_path) as play:
        play.image_id = lambda stage: "sha256:" + "a" * 64
        assert play.finish(play.drive()) == 0, play.said()
        assert set(images(play).values()) == {TAG}


def test_a_run_that_is_submitted_anew_takes_the_tag_s_newest(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A pod of before is still there."""
    make_account(apiserver, namespace)
    play = Play(apiserver, namespace, tmp_path)
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "stage", "image": TAG, "securityContext": own}
    spec = {"serviceAccountName": ACCOUNT, "securityContext": RESTRICTED, "containers": [container]}
    metadata = {"name": "old", "labels": {"rvk8s.io/run": "run-1"}}
    old = play.cluster.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    )
    over = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
    status = {"name": "stage", "image": TAG, "imageID": digest("a"), "ready": False}
    status |= {"restartCount": 0, "state": {"terminated": over}}
    play.set_status("Pod", old, {"phase": "Succeeded", "containerStatuses": [status]})
    time.sleep(1.1)  # times are in whole seconds
    with play:
        play.image_id = lambda stage: digest("b")
        assert play.finish(play.drive()) == 0, play.said()
        assert images(play)["train"] == digest("b")
        assert play.cluster.get("Pod", "old")


def test_an_image_that_the_registry_has_no_more(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    gone = waiting("ImagePullBackOff", f"{digest('a')}: not found")
    assert isinstance(gone, dict)
    gone["containerStatuses"][0]["image"] = digest("a")
    act = lambda stage, *_: gone if stage == "train" else 0  # noqa: E731
    with Play(apiserver, namespace, tmp_path, act) as play:
        play.image_id = lambda stage: digest("a")
        assert play.finish(play.drive(RVK8S_START_PATIENCE="3")) == 2, play.said()
        said = play.record()["message"]
        assert f"the image {digest('a')} cannot be pulled ({digest('a')}: not found)" in said
        assert "a run keeps to what its tags were first; where that is gone submit it anew" in said
