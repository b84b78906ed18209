"""Cancelled runs whose driver a queue holds back: it suspends the driver's Job, as Kueue does."""

from __future__ import annotations

import time

from cluster.clientrun import Client, client, late_schedule, objects, submit
from cluster.controlplane import ControlPlane

__all__ = ["client"]


def hold_back(apiserver: ControlPlane, namespace: str, run: str) -> None:
    """Play the queue."""
    patch = '{"spec": {"suspend": true}}'
    apiserver.kubectl("patch", "job", run, "-n", namespace, "--type=merge", "-p", patch)


def test_a_driver_that_was_put_out(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    run = submit(client)
    labels = f"rvk8s.io/run={run},app.kubernetes.io/component=stage,app.kubernetes.io/name=rvk8s"
    apiserver.kubectl("create", "job", "stage", "--image=stage", "-n", namespace)
    apiserver.kubectl(
        "label", "job", "stage", "-n", namespace, *f"{labels},rvk8s.io/stage=train".split(",")
    )
    hold_back(apiserver, namespace, run)
    assert client.ok("cancel", run) == f"{run} cancelled\n"
    assert "job.batch/stage" not in objects(apiserver, namespace)
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Cancelled"]
    assert "there is nothing to cancel" in client.error("cancel", run)


def test_a_schedule_s_driver(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    """The schedule would wait for ever for a Job that does not end."""
    name = late_schedule(client, apiserver, namespace)
    end = time.monotonic() + 60
    while not (jobs := apiserver.kubectl("get", "jobs", "-n", namespace, "-o", "name").split()):
        assert time.monotonic() < end
        time.sleep(0.2)
    no_more = ("patch", name, "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    apiserver.kubectl(*no_more)
    run = jobs[0].removeprefix("job.batch/")
    hold_back(apiserver, namespace, run)
    assert client.ok("cancel", run) == f"{run} cancelled\n"
    end = time.monotonic() + 60
    while apiserver.kubectl("get", name, "-n", namespace, "-o", "jsonpath={.status.active}"):
        assert time.monotonic() < end, "the schedule still waits for it"
        time.sleep(0.2)
    assert f"no run {run}" in client.error("cancel", run)
