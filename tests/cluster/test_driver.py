"""The driver against a real API server and Job controller; its pods are played (driverrun.py)."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path

import pytest
from cluster.apiserver import bind_to_new_node
from cluster.controlplane import ControlPlane
from cluster.driverrun import Play, stop

from rvk8s.contract import STAGES


def test_a_whole_run(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    values = {"stages": {"chip": {"splits": 3}, "train": {"nodes": 2, "ranks": 2}}}
    with Play(apiserver, namespace, tmp_path, values=values) as play:
        driver = play.drive()
        assert play.finish(driver) == 0, play.said()
        record = play.record()
        assert record["state"] == "Succeeded"
        assert {one["state"] for one in record["stages"]} == {"Succeeded"}
        assert record["engine"] == "kubernetes"
        assert play.stage("chip")["images"] == ["registry.example.com/rvk8s@sha256:0"]
        job = play.cluster.get("Job", "run-1")
        assert job is not None
        assert record["driver"] == job["metadata"]["uid"]
        assert {name: len(uids) for name, uids in play.made.items()} == {
            f"run-1-{one['name']}": 1 for one in record["stages"]
        }
        for item in play.jobs.objects().values():
            if item["metadata"]["name"] != "run-1":
                assert item["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        watched = [*play.jobs.objects().values(), *play.pods.objects().values()]
        assert len(watched) > len(STAGES)
        assert not [one for one in watched if "managedFields" in one["metadata"]], "memory"
        print(re.findall(r".*API requests.*", play.said()))
        lease = play.cluster.get("Lease", "run-1")
        assert lease is not None
        assert "holderIdentity" not in lease["spec"], "it was given back"


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_killed_at_every_transition(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, launcher: str
) -> None:
    """SIGKILL whenever a stage was made, began or ended: no object is made twice."""
    values = {
        "launcher": launcher,
        "stages": {"chip": {"splits": 2}, "train": {"nodes": 2, "ranks": 2}},
    }
    with Play(apiserver, namespace, tmp_path, values=values, seconds=0.3) as play:
        moments = [(stage, what) for stage in STAGES for what in ("made", "pod", "ended")]
        for stage, what in moments:
            driver = play.drive()
            play.until(lambda key=(stage, what): key in play.times)
            stop(driver)
        assert play.finish(play.drive()) == 0, play.said()
        record = play.record()
        assert record["state"] == "Succeeded"
        assert {one["state"] for one in record["stages"]} == {"Succeeded"}
        assert {one["attempts"] for one in record["stages"]} == {1}
        assert {len(uids) for uids in play.made.values()} == {1}, play.said()
        assert play.starts > 3 * len(STAGES)
        # Whoever looks at a run that is over gives its exit code.
        assert play.finish(play.drive()) == 0
        assert {len(uids) for uids in play.made.values()} == {1}


def test_sigterm_leaves_the_stages_running(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def act(stage: str, index: int, attempt: int) -> int:
        if stage == "train":
            go_on.wait(60)
        return 0

    with Play(apiserver, namespace, tmp_path, act) as play:
        driver = play.drive()
        play.until(lambda: play.stage_pods("train"))
        began = time.monotonic()
        assert stop(driver, signal.SIGTERM) == 143
        assert time.monotonic() - began < 5
        assert play.record()["state"] == "Running"
        # The lease was given back: another driver need not wait for its end.
        second, began = play.drive("driver-2"), time.monotonic()
        play.until(lambda: "Found PyTorchJob" in play.said())
        assert time.monotonic() - began < 10
        go_on.set()
        assert play.finish(second) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


def test_cancel(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    with Play(apiserver, namespace, tmp_path, lambda stage, *_: _stop_at("chip", stage)) as play:
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        play.cancel()
        assert play.finish(driver, 30) == 130
        record = play.record()
        assert (record["state"], record["exitCode"]) == ("Cancelled", 130)
        assert play.stage("chip")["state"] == "Cancelled"
        assert play.stage("configure")["state"] == "Succeeded"
        assert play.left() == []
        assert play.finish(play.drive(), 30) == 130, "the next driver of the Job says the same"


def test_cancelled_while_no_driver_was_there(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with Play(apiserver, namespace, tmp_path, lambda stage, *_: _stop_at("chip", stage)) as play:
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        stop(driver)
        play.cancel()
        assert play.finish(play.drive(), 30) == 130
        assert play.record()["state"] == "Cancelled"
        assert play.left() == []


def test_cancelled_while_pods_of_a_deleted_job_go_on(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A driver was killed after it had deleted the Job of a stage: the next one waits for its pods,
    which write until they have ended."""
    with Play(apiserver, namespace, tmp_path, lambda stage, *_: _stop_at("chip", stage)) as play:
        driver = play.drive()
        play.until(lambda: play.running("chip"))
        stop(driver)
        pod = play.stage_pods("chip")[0]["metadata"]["name"]
        bind_to_new_node(apiserver, namespace, pod, f"{namespace}-slow")
        apiserver.kubectl("delete", "-n", namespace, "job", "run-1-chip", "--wait=false")
        play.cancel()
        second = play.drive()
        play.until(lambda: play.record()["state"] == "Cancelled")
        time.sleep(2)
        assert second.poll() is None, play.said()
        force = ("--grace-period=0", "--force")
        apiserver.kubectl("delete", "-n", namespace, "pod", pod, *force)
        assert play.finish(second, 30) == 130


@pytest.mark.slow
def test_a_second_driver_waits_and_takes_over(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with Play(apiserver, namespace, tmp_path, lambda stage, *_: _stop_at("train", stage)) as play:
        first = play.drive()
        play.until(lambda: play.running("train"))
        second = play.drive("driver-2")
        play.until(lambda: "driver-1, has the run; waiting" in play.said())
        first.send_signal(signal.SIGSTOP)  # frozen: it does not renew
        play.until(lambda: "Found PyTorchJob" in play.said(), 60)
        first.send_signal(signal.SIGCONT)
        assert play.finish(first, 40) == 143
        assert "held by driver-2" in play.said()
        play.cancel()
        assert play.finish(second, 30) == 130


def test_a_lease_that_somebody_deletes_is_made_again(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    go_on = threading.Event()

    def act(stage: str, index: int, attempt: int) -> int:
        if stage == "train":
            go_on.wait(60)
        return 0

    with Play(apiserver, namespace, tmp_path, act) as play:
        driver = play.drive()
        play.until(lambda: play.stage_pods("train"))
        assert play.delete("Lease", "run-1")
        play.until(lambda: play.cluster.get("Lease", "run-1"), 40)
        go_on.set()
        assert play.finish(driver) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


def test_a_driver_whose_job_was_deleted_makes_nothing(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """`rvk8s delete` came while its pod began."""
    with Play(apiserver, namespace, tmp_path) as play:
        assert play.delete("Job", "run-1")
        play.until(lambda: play.cluster.get("Job", "run-1") is None)
        assert play.finish(play.drive()) == 2, play.said()
        assert "there is no Job run-1: the run was deleted" in play.said()
        assert play.cluster.list_all("Job") == []
        assert play.cluster.list_all("Lease") == []


def _stop_at(where: str, stage: str) -> int | None:
    return None if stage == where else 0
