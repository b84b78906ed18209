"""Runs on a real API server: gone on with, cancelled, deleted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster.apiproxy import api_proxy
from cluster.clientrun import Client, client, end_run, objects, set_status, submit
from cluster.controlplane import ControlPlane
from s3server import S3Server

from rvk8s import storage
from rvk8s.contract import DRIVER, STAGES, State, now
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord

__all__ = ["client"]


def test_going_on_with_a_run(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    run = submit(client)
    assert f"{run} is running; wait, or `rvk8s cancel {run}` first" in client.error(
        "submit", "one", "--run-id", run
    )
    before = apiserver.kubectl("get", "job", run, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    end_run(apiserver, namespace, run, code=2)
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Failed"]
    error = client.error("submit", "one-deep", "--run-id", run)
    assert f"{run} is a run of one, not of one-deep" in error
    for words, what in (
        (["-a", "depth", "3"], 'depth not given (now "3")'),
        (["--splits", "3"], "chip split 2 times (now 3), predict split 1 times (now 3)"),
    ):
        error = client.error("submit", "one", "--run-id", run, *words)
        said = f"error: --run-id: {run} was begun with {what}; go on with `rvk8s submit one "
        assert error.startswith(said)
        assert f"--run-id {run}`, or add --rerun train to do it anew" in error
    uid = ("-n", namespace, "-o", "jsonpath={.metadata.uid}")
    source = apiserver.kubectl("get", "configmap", f"{run}-source", *uid)
    (client.folder / "lib" / "helper.py").write_text('NAME = "changed"\n')
    shown = client.ok("submit", "one", "--run-id", run, "--dry-run=server", "-o", "yaml")
    assert "changed" in shown
    assert apiserver.kubectl("get", "configmap", f"{run}-source", *uid) == source
    client.ok("submit", "one", "--run-id", run, "--rerun", "train", "--splits", "3")
    files = apiserver.kubectl("get", "configmap", f"{run}-source", "-n", namespace, "-o", "yaml")
    assert 'NAME = "changed"' in files
    assert "immutable: true" in files
    assert len([name for name in objects(apiserver, namespace) if "configmap" in name]) == 2
    after = apiserver.kubectl("get", "job", run, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    assert after not in ("", before)
    text = apiserver.kubectl(
        "get", "configmap", f"{run}-stages", "-n", namespace, "-o", r"jsonpath={.data.plan\.json}"
    )
    plan = json.loads(text)
    assert plan["rerun"] == ["train", "predict", "eval", "bundle"]
    assert {stage["splits"] for stage in plan["stages"]} == {1, 3}
    assert owners(apiserver, namespace, run) == [after] * 3, "they would go with the old Job"
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Pending"]


def owners(apiserver: ControlPlane, namespace: str, run: str) -> list[str]:
    """The uids of what owns the run's ConfigMaps and NetworkPolicy."""
    query = ("get", "configmaps,networkpolicies", "-n", namespace, "-l", f"rvk8s.io/run={run}")
    return apiserver.kubectl(*query, "-o", "jsonpath={..ownerReferences[*].uid}").split()


def test_what_a_run_needs_goes_with_its_job(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """As where driver.ttlSecondsAfterFinished is set, and Kubernetes deletes the Job."""
    run = submit(client)
    kept = submit(client)
    assert len(objects(apiserver, namespace)) == 8
    apiserver.kubectl("delete", "job", run, "-n", namespace)
    end = time.monotonic() + 30
    while any(run in name for name in objects(apiserver, namespace)):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert len([name for name in objects(apiserver, namespace) if kept in name]) == 4


@pytest.mark.slow
def test_an_id_that_no_run_has_is_not_gone_on_with(
    client: Client, apiserver: ControlPlane, namespace: str, s3: S3Server
) -> None:
    client.environ |= s3.environ
    root = f"{s3.bucket('known')}/runs"
    file = client.folder / "rvk8s.yaml"
    file.write_text(file.read_text().replace("s3://bucket/runs", root))
    kept = "one-20261123-101010-aaaa"
    stored(root, kept)
    run = submit(client)
    end_run(apiserver, namespace, run, code=2)
    before = objects(apiserver, namespace)
    for name in (f"{run}x", run[:-2], kept[:-2], "typo"):
        for dry in ((), ("--dry-run=server",)):
            error = client.error("submit", "one", "--run-id", name, *dry)
            said = f"error: --run-id: no run {name} in namespace {namespace} or {root}; "
            assert error.startswith(f"{said}`rvk8s list` shows the runs")
            assert len(error.splitlines()) == 1
    error = client.error("submit", "one-deep", "--run-id", kept)
    assert f"{kept} is a run of one, not of one-deep" in error
    error = client.error("submit", "one", "--run-id", kept, "--test")
    assert f"--run-id: {kept} was begun with test not given (now true); " in error
    assert objects(apiserver, namespace) == before
    client.ok("delete", run)
    client.ok("submit", "one", "--run-id", kept)  # its objects were deleted, its folder is there
    assert f"job.batch/{kept}" in objects(apiserver, namespace)


def test_a_run_that_another_namespace_has_is_not_gone_on_with(
    client: Client, apiserver: ControlPlane, namespace: str, s3: S3Server
) -> None:
    client.environ |= s3.environ
    root, kept = f"{s3.bucket('elsewhere')}/runs", "one-20261123-101010-aaaa"
    file = client.folder / "rvk8s.yaml"
    file.write_text(file.read_text().replace("s3://bucket/runs", root))
    layout = stored(root, kept, State.RUNNING).layout
    beat = {"at": now(), "host": "driver-x", "namespace": "prod"}
    storage.write_json(layout.heartbeat(DRIVER), beat)
    for dry in ((), ("--dry-run=server",)):
        error = client.error("submit", "one", "--run-id", kept, *dry)
        assert f"--run-id: {kept} is running: driver-x in namespace prod had it " in error
        assert len(error.splitlines()) == 1
    assert objects(apiserver, namespace) == []
    storage.write_json(layout.heartbeat(DRIVER), {**beat, "left": True})
    client.ok("submit", "one", "--run-id", kept)
    assert f"job.batch/{kept}" in objects(apiserver, namespace)


def test_storage_out_of_reach_keeps_nobody_from_going_on(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    code, _, err = client("submit", "one", "--run-id", "one-20261123-101010-aaaa")
    assert code == 0, err
    uri = "s3://bucket/runs/one-20261123-101010-aaaa/run.json"
    assert f"{uri} cannot be read from here" in err.splitlines()[0]
    assert "it is taken to be there" in err.splitlines()[0]
    assert "job.batch/one-20261123-101010-aaaa" in objects(apiserver, namespace)


def test_submit_makes_no_schedule(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    file = client.folder / "rvk8s.yaml"
    cron = '  schedule: {cron: "0 3 * * *"}\n'
    file.write_text(file.read_text().replace("values:\n", f"values:\n{cron}"))
    for option in ("--follow", "--wait", "--dry-run", "--dry-run=server", "-oname"):
        error = client.error("submit", "one", option)
        assert error.startswith("error: values.schedule.cron: is of a schedule, and submit starts")
        assert "helm install NAME helm/rvk8s -f run.yaml --set run.id=NAME" in error
        assert len(error.splitlines()) == 1
    assert objects(apiserver, namespace) == []
    assert "kind: CronJob" in client.ok("render", "one")
    assert "cron: '0 3 * * *'" in client.ok("plan", "one", "-o", "values")


def test_where_no_namespace_is_named_the_kubeconfig_s_is_asked(
    client: Client, apiserver: ControlPlane, namespace: str, s3: S3Server
) -> None:
    root = f"{s3.bucket('unnamed')}/runs"
    file = client.folder / "rvk8s.yaml"
    file.write_text(file.read_text().replace("s3://bucket/runs", root).split("namespace:")[0])
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        run = submit(client)  # its driver has written nothing yet, and storage is out of reach
        assert [line.split()[:2] for line in client.ok("list").splitlines()[1:]] == [
            [run, "Pending"]
        ]
        assert "Pending" in client.ok("status", run)
        client.environ |= s3.environ
        assert client.ok("list", "--root-uri", f"{root}-others") == ""
        stored(root, "one-20261123-101010-aaaa")
        assert [line.split()[0] for line in client.ok("list").splitlines()[1:]] == [
            run,
            "one-20261123-101010-aaaa",
        ]
        only = ["one-20261123-101010-aaaa", "Failed"]
        for what, note in ((403, ""), ("drop", "does not answer"), ("hang", "no answer within")):
            proxy.rule = lambda method, path, what=what: what
            _, out, err = client("list", timeout=10)
            assert [line.split()[:2] for line in out.splitlines()[1:]] == [only]
            assert (note in err) if note else err == ""
            assert "Failed" in client.ok("status", only[0])


def stored(root: str, run_id: str, state: State = State.FAILED) -> Plan:
    """A run as the storage has it: it failed, or goes on under another driver."""
    stages = tuple(Stage(name, splits=2 if name == "chip" else 1) for name in STAGES)
    plan = Plan(run_id, "one", "one.py", "/p", {}, root, stages, created="2026-11-23T10:10:10Z")
    record = RunRecord.of_plan(plan, "kubernetes")
    record.state, record.driver = state, "job-of-another-namespace"
    storage.write_json(plan.layout.run_json, record.to_dict())
    return plan


def test_cancelling_where_no_driver_runs(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    labels = f"rvk8s.io/run={run},app.kubernetes.io/component=stage,app.kubernetes.io/name=rvk8s"
    labels += ",rvk8s.io/stage=train"
    apiserver.kubectl(
        "create", "service", "clusterip", "stage", "--clusterip=None", "-n", namespace
    )
    apiserver.kubectl("label", "service", "stage", "-n", namespace, *labels.split(","))
    assert client.ok("cancel", run) == f"{run} cancelled\n"
    assert "service/stage" not in objects(apiserver, namespace)
    suspended = apiserver.kubectl(
        "get", "job", run, "-n", namespace, "-o", "jsonpath={.spec.suspend}"
    )
    assert suspended == "true"
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Cancelled"]
    assert "there is nothing to cancel" in client.error("cancel", run)
    client.ok("submit", "one", "--run-id", run)
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Pending"]


def test_cancelling_what_a_dead_driver_left(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """Its Job has failed, for it was killed too often; nothing ends the stages then."""
    run = submit(client)
    labels = f"rvk8s.io/run={run},app.kubernetes.io/component=stage,app.kubernetes.io/name=rvk8s"
    labels += ",rvk8s.io/stage=chip"
    apiserver.kubectl("create", "job", "stage", "--image=stage", "-n", namespace)
    apiserver.kubectl("label", "job", "stage", "-n", namespace, *labels.split(","))
    end_run(apiserver, namespace, run, code=1)
    said = " ".join(client.ok("status", run).split())
    assert f"chip: goes on without a driver; `rvk8s cancel {run}` stops it" in said
    assert client.ok("cancel", run) == f"{run} cancelled\n"
    assert "job.batch/stage" not in objects(apiserver, namespace)
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Cancelled"]
    assert "there is nothing to cancel" in client.error("cancel", run)


def test_a_training_that_cannot_be_looked_for_is_not_said_to_be_stopped(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """A user without rights to PyTorchJobs: that is not a cluster without them."""
    run = submit(client)
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.rule = lambda method, path: 403 if "pytorchjobs" in path else None
        assert "by the proxy" in client.error("cancel", run)
        assert "by the proxy" in client.error("delete", run)
        assert f"{run} is Pending" in client.error(
            "wait", run, "--for=ended", "--timeout=1s", code=124
        )
        assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Pending"]


def test_cancelling_a_driver_that_runs(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    pod = apiserver.kubectl("get", "pods", "-n", namespace, "-o", "name").split()[0]
    set_status(apiserver, namespace, pod, {"phase": "Running"})
    cancelling = client.start("cancel", run)
    path = r"jsonpath={.metadata.annotations.rvk8s\.io/cancel}"
    for _ in range(100):
        if apiserver.kubectl("get", "job", run, "-n", namespace, "-o", path):
            break
    end_run(apiserver, namespace, run, code=130)
    out, err = cancelling.communicate(timeout=60)
    assert (cancelling.returncode, out, err) == (0, f"{run} cancelled\n", "")
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Cancelled"]


def test_the_beginning_of_an_id_is_asked_about(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    for command, question in (("cancel", f"Stop {run}?"), ("delete", f"the objects of {run}?")):
        error = client.error(command, run[:-2])
        assert question in error
        assert "nothing was done: stdin has no answer; give --yes" in error
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Pending"]
    assert client.ok("cancel", run[:-2], "--yes") == f"{run} cancelled\n"
    client.ok("delete", run[:-2], "--yes")
    assert objects(apiserver, namespace) == []


def test_results_are_deleted_only_when_that_is_meant(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    assert "nothing was done: stdin has no answer" in client.error("delete", run, "--results")
    assert f"job.batch/{run}" in objects(apiserver, namespace)


def test_pods_that_still_write_are_waited_for(
    client: Client, apiserver: ControlPlane, namespace: str, s3: S3Server
) -> None:
    """Told to end, they have a minute for a last checkpoint."""
    client.environ |= s3.environ
    root = f"{s3.bucket('ending')}/runs"
    file = client.folder / "rvk8s.yaml"
    file.write_text(file.read_text().replace("s3://bucket/runs", root))
    run = submit(client)
    checkpoint = f"{root}/{run}/train/checkpoint"
    storage.write_bytes(checkpoint, b"half")
    end_run(apiserver, namespace, run, code=2)
    with writing_pod(apiserver, namespace, run):
        going_on = client.start("submit", "one", "--run-id", run)
        threading.Event().wait(4)
        assert objects_of(apiserver, namespace, "job") == []
        assert going_on.poll() is None
    _, err = going_on.communicate(timeout=30)
    assert going_on.returncode == 0, err
    with writing_pod(apiserver, namespace, run):
        deleting = client.start("delete", run, "--results", "--yes")
        threading.Event().wait(4)
        assert objects_of(apiserver, namespace, "job") == []
        assert deleting.poll() is None
        assert storage.read_bytes(checkpoint) == b"half"
    out, err = deleting.communicate(timeout=30)
    assert deleting.returncode == 0, err
    assert f"{root}/{run} deleted" in out
    assert storage.list_dirs(root) == []


@contextmanager
def writing_pod(apiserver: ControlPlane, namespace: str, run: str) -> Iterator[None]:
    """The run's driver has a pod that does not go before the block ends."""
    find = ("get", "pods", "-n", namespace, "-l", f"job-name={run}", "-o", "name")
    while not (found := apiserver.kubectl(*find).split()):
        threading.Event().wait(0.1)
    patch = ("patch", found[0], "-n", namespace, "--type=merge", "-p")
    apiserver.kubectl(*patch, '{"metadata": {"finalizers": ["rvk8s.io/test"]}}')
    try:
        yield
    finally:
        apiserver.kubectl(*patch, '{"metadata": {"finalizers": null}}')


def objects_of(apiserver: ControlPlane, namespace: str, kind: str) -> list[str]:
    return apiserver.kubectl("get", kind, "-n", namespace, "-o", "name").split()
