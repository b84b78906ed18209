"""Runs of a schedule against a real API server: found, cancelled and deleted like any other run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster.clientrun import Client, client, end_run, late_schedule
from cluster.controlplane import ControlPlane
from cluster.driverrun import Fate, Play, stop
from forked import CLIENT, Forked
from s3server import S3Server

from rvk8s import storage

__all__ = ["client"]

_SOURCE = {"lib/one.py": "# rvk8s-run-id stands here as it is\n"}
_VALUES: Mapping[str, Any] = {
    "experiment": {"name": "one", "module": "lib.one", "source": _SOURCE},
    "stages": {"chip": {"splits": 2}},
}


def start(play: Play, *args: str) -> Forked:
    """The command line tool, with runs in the namespace."""
    return Forked(CLIENT, [*args, "-n", play.namespace], cwd=play.folder, env=os.environ)


def rvk8s(play: Play, *args: str) -> str:
    """What it says."""
    done = start(play, *args).finish(60)
    assert done.returncode == 0, done
    return done.stdout


def schedule(
    plane: ControlPlane, namespace: str, folder: Path, root: str, run_id: str, act: Any
) -> Play:
    folder.mkdir(exist_ok=True)
    return Play(
        plane,
        namespace,
        folder,
        act,
        root=root,
        run_id=run_id,
        values=_VALUES,
        schedule="nightly",
    )


def stage_names(play: Play) -> set[str]:
    found = play.plane.kubectl(
        "-n",
        play.namespace,
        "get",
        "jobs,pytorchjobs,configmaps,leases",
        "-l",
        f"rvk8s.io/run={play.run_id}",
        "-o",
        "name",
    )
    return set(found.split())


@pytest.mark.slow
def test_two_runs_of_a_schedule(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, s3: S3Server
) -> None:
    """One ends, one is cancelled and deleted; neither takes anything of the other or of both."""
    root = s3.bucket("scheduled") + "/runs"

    def stays(stage: str, index: int, attempt: int) -> Fate:
        return None if stage == "chip" else 0

    with (
        schedule(apiserver, namespace, tmp_path / "1", root, "nightly-1", lambda *_: 0) as one,
        schedule(apiserver, namespace, tmp_path / "2", root, "nightly-2", stays) as two,
    ):
        second = two.drive()
        two.until(lambda: two.running("chip"))
        assert one.finish(one.drive()) == 0, one.said()
        end_run(apiserver, namespace, "nightly-1")
        assert one.record()["state"] == "Succeeded"
        assert one.record()["plan"]["runId"] == "nightly-1"
        assert one.record()["plan"]["created"].startswith("20")
        assert two.record()["state"] == "Running"
        listed = rvk8s(two, "list")
        assert "nightly-1" in listed
        assert "nightly-2" in listed
        assert "nightly-2-chip" in str(two.jobs.objects())
        assert "chip" in rvk8s(two, "status", "nightly-2")
        assert "rvk8s-run-id" not in rvk8s(two, "status", "nightly-2", "-o", "json")
        play_pod(two)  # else the client would end it itself
        cancel = start(two, "cancel", "nightly-2")
        assert two.finish(second, 30) == 130, two.said()
        end_run(apiserver, namespace, "nightly-2", 130)
        assert cancel.finish(30).returncode == 0
        assert two.record()["state"] == "Cancelled"
        assert "cancelled" in rvk8s(two, "logs", "nightly-2", "driver")
        before = stage_names(one)
        assert {"configmap/nightly-1-stages", "job.batch/nightly-1-chip"} <= before
        rvk8s(two, "delete", "nightly-2")
        two.until(lambda: not stage_names(two))
        assert stage_names(one) == before
        left = apiserver.kubectl("-n", namespace, "get", "configmaps,cronjobs", "-o", "name")
        assert {
            "configmap/nightly-stages",
            "configmap/nightly-source",
            "configmap/nightly-1-stages",
            "cronjob.batch/nightly",
        } <= set(left.split())
        assert "configmap/nightly-2-stages" not in left
        assert "Made ConfigMap" in rvk8s(one, "logs", "nightly-1", "driver")


def test_an_upgrade_leaves_a_running_run_as_it_is(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, s3: S3Server
) -> None:
    """The next driver and all later stages have the image and the source of the beginning."""
    root = s3.bucket("upgraded") + "/runs"
    with left_in_chip(apiserver, namespace, tmp_path, root) as (play, go_on):
        changed = {"experiment": {"name": "one", "module": "lib.two", "source": {"lib/two.py": ""}}}
        image = {"image": {"stage": "registry.example.com/rvk8s:2"}}
        play.upgrade({**_VALUES, **changed, **image})
        driver = play.drive()
        play.until(lambda: "this run goes on as it began" in play.said())
        go_on.set()
        assert play.finish(driver) == 0, play.said()
        log = storage.read_bytes(play.layout.log("driver")).decode()
        assert "the stages run on" in log, "the first driver's words"
        assert log.index("the stages run on") < log.index("goes on as it began")
        assert log.endswith("Run nightly-1: Succeeded \n")
        assert play.record()["plan"]["module"] == "lib.one"
        assert len(play.made["nightly-1-chip"]) == 1
        pods = play.stage_pods("predict")
        assert pods[0]["spec"]["containers"][0]["image"] == "registry.example.com/rvk8s:1"
        (source,) = [one for one in pods[0]["spec"]["volumes"] if one["name"] == "source"]
        copy = play.cluster.get("ConfigMap", source["configMap"]["name"])
        assert copy is not None
        assert copy["metadata"]["ownerReferences"][0]["name"] == "nightly-1"
        mounts = pods[0]["spec"]["containers"][0]["volumeMounts"]
        keys = [one["subPath"] for one in mounts if one["name"] == "source"]
        assert [copy["data"][key] for key in keys] == list(_SOURCE.values())


def test_a_run_that_is_cancelled_before_its_driver_runs_holds_the_schedule_up_no_more(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """A CronJob starts no run while one has not ended, and one that is suspended never does."""
    name = late_schedule(client, apiserver, namespace)

    def seen(*query: str) -> str:
        return apiserver.kubectl("get", *query, "-n", namespace)

    def until(what: Callable[[], bool]) -> None:
        end = time.monotonic() + 90
        while not what():
            assert time.monotonic() < end, seen("jobs,pods,cronjobs", "-o", "yaml")
            time.sleep(0.2)

    until(lambda: "job-name=" in seen("pods", "--show-labels"))
    active = (name, "-o", "jsonpath={.status.active}")
    assert seen(*active)
    apiserver.kubectl(
        "patch", name, "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}'
    )
    (line,) = client.ok("list").splitlines()[1:]
    run = line.split()[0]
    said = client.error("submit", "one", "--run-id", run)
    assert said == f"error: --run-id: {run} is running; wait, or `rvk8s cancel {run}` first\n"
    assert client.ok("cancel", run) == f"{run} cancelled\n"
    until(lambda: not seen(*active))
    assert "Cancelled" in client.ok("status", run)
    (line,) = client.ok("list").splitlines()[1:]
    assert line.split()[:2] == [run, "Cancelled"]
    assert "there is nothing to cancel" in client.error("cancel", run)
    client.ok("submit", "one", "--run-id", run)
    (line,) = client.ok("list").splitlines()[1:]
    assert line.split()[:2] == [run, "Pending"]


def test_the_next_driver_needs_no_source_of_the_schedule(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, s3: S3Server
) -> None:
    """An upgrade took it away; what the run began with is in a ConfigMap of its own."""
    root = s3.bucket("taken") + "/runs"
    with left_in_chip(apiserver, namespace, tmp_path, root) as (play, go_on):
        take_away(play, "*-one.py")
        driver = play.drive()
        play.until(lambda: "this run goes on as it began" in play.said())
        go_on.set()
        assert play.finish(driver) == 0, play.said()


@pytest.mark.parametrize("files", ["plan.json", "*"])
def test_a_first_driver_without_a_plan_says_so(
    files: str, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with schedule(apiserver, namespace, tmp_path, str(tmp_path / "root"), "one", None) as play:
        take_away(play, files)
        assert play.finish(play.drive()) == 2, play.said()
        errors = [line for line in play.said().splitlines() if " ERROR " in line]
        assert len(errors) == 1
        assert "plan.json: is missing; " in errors[0]
        assert "Traceback" not in play.said()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a" * 46, "46 letters, and is the id of its run; give at most 45"),
        ("20261130-again", "20261130-again: the name of this Job cannot be a run's id; give lower"),
    ],
)
def test_a_name_that_cannot_be_a_run_s(
    name: str, error: str, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with schedule(apiserver, namespace, tmp_path, str(tmp_path / "root"), name, None) as play:
        assert play.finish(play.drive()) == 2, play.said()
        assert error in play.said()


def play_pod(play: Play) -> None:
    """Say that the driver's pod runs, as its process does."""
    jobs = f"batch.kubernetes.io/job-name={play.run_id}"
    play.until(lambda: play.cluster.list_all("Pod", jobs))
    play.set_status("Pod", play.cluster.list_all("Pod", jobs)[0], {"phase": "Running"})


@contextmanager
def left_in_chip(
    apiserver: ControlPlane, namespace: str, folder: Path, root: str
) -> Iterator[tuple[Play, threading.Event]]:
    """The run nightly-1 of a schedule, whose first driver has left while it chips.

    Chipping ends when the event is set.
    """
    go_on = threading.Event()

    def act(stage: str, index: int, attempt: int) -> Fate:
        if stage == "chip":
            go_on.wait(60)
        return 0

    with schedule(apiserver, namespace, folder, root, "nightly-1", act) as play:
        first = play.drive()
        play.until(lambda: play.stage_pods("chip"))
        assert stop(first, signal.SIGTERM) == 143
        yield play, go_on


def take_away(play: Play, names: str) -> None:
    """Files that the driver's pod would have mounted."""
    paths = list(play.stages.glob(names))
    assert paths
    for path in paths:
        path.unlink()
