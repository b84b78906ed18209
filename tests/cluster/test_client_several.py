"""Several runs, namespaces and kubeconfigs on a real API server."""

from __future__ import annotations

import json

from cluster.clientrun import Client, become_submitter, client, objects, submit
from cluster.controlplane import ControlPlane

__all__ = ["client"]


def test_a_kubeconfig_by_its_name(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    """It wins over KUBECONFIG, and --dry-run=none is no dry run, as with kubectl."""
    client.environ["KUBECONFIG"] = str(client.folder / "none")
    place = ("--kubeconfig", str(apiserver.kubeconfig))
    run = submit(client, "--dry-run=none", *place)
    assert run in client.ok("list", *place)
    assert "kubeconfig: there is no file" in client.error("list")
    assert "Pending" in client.ok("status", run, *place)
    assert client.ok("diff", run, *place) == ""
    assert "nothing is written yet" in client.error("logs", run, *place)
    client.error("wait", run, "--for=ended", "--timeout=1s", *place, code=124)
    assert client.ok("cancel", run, *place) == f"{run} cancelled\n"
    _, out, err = client("submit", "one", "--run-id", run, "--dry-run", "none", *place)
    assert f"job.batch/{run} configured\n" in out
    assert f"rvk8s status {run} -w -n {namespace} --kubeconfig {apiserver.kubeconfig}" in err
    client.ok("delete", run, *place)
    assert objects(apiserver, namespace) == []


def test_the_runs_of_all_namespaces(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """Two of them have a run of the same id, as schedules of one name make them."""
    other, run = f"{namespace}-b", "one-20261124-101112-dcba"
    apiserver.kubectl("create", "namespace", other)
    for name in (namespace, other):
        manifests = client.ok("render", "one", "--run-id", run, "-n", name)
        apiserver.kubectl("apply", "-n", name, "-f", "-", stdin=manifests)
    apiserver.kubectl("patch", "job", run, "-n", other, "-p", '{"spec": {"suspend": true}}')
    mark = '{"metadata": {"annotations": {"rvk8s.io/cancel": "2026-11-24T10:00:00Z"}}}'
    apiserver.kubectl("patch", "job", run, "-n", other, "-p", mark)
    expected = [[namespace, run, "Pending"], [other, run, "Cancelled"]]
    head, *rows = [line.split()[:3] for line in client.ok("list", "-A").splitlines()]
    assert head == ["NAMESPACE", "RUN", "STATE"]
    assert sorted(row for row in rows if namespace in row[0]) == expected
    listed = json.loads(client.ok("list", "-A", "-n", namespace, "-o", "json"))
    found = [[one["namespace"], one["runId"], one["state"]] for one in listed]
    assert sorted(row for row in found if namespace in row[0]) == expected
    assert client.ok("list", "-A", "-o", "name").splitlines().count(run) == 2
    assert client.ok("list").splitlines()[0].split()[0] == "RUN"
    assert client.ok("list", "-o", "name") == f"{run}\n"
    become_submitter(client, apiserver, namespace)
    assert "at the cluster scope; ask the administrator" in client.error("list", "-A")
    apiserver.kubectl("delete", "namespace", other, "--wait=false")


def test_runs_by_their_labels(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    one, deep = (
        client.ok("submit", name, "-o", "name").strip().removeprefix("job.batch/")
        for name in ("one", "one-deep")
    )
    apiserver.kubectl("label", "job", one, "-n", namespace, "team=a")
    for selector, runs in (
        ("rvk8s.io/experiment=one", {one}),
        ("rvk8s.io/experiment in (one,one-deep),team!=a", {deep}),
        ("team", {one}),
        ("team=b", set()),
    ):
        assert set(client.ok("list", "-l", selector, "-o", "name").split()) == runs
    assert "expected: ',' or 'end of string'" in client.error("list", "-l", "team=a=b")


def test_several_runs_at_once(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    """All of them, or none where one is not there."""
    ids = [submit(client) for _ in range(3)]
    there = objects(apiserver, namespace)
    missing = f"no run two in namespace {namespace}"
    for command in ("cancel", "delete"):
        error = client.error(command, "-y", ids[0], "two", ids[1], "three")
        assert [line.split(";")[0] for line in error.splitlines()] == [
            f"error: {missing}",
            f"error: no run three in namespace {namespace}",
        ]
        assert "; `rvk8s list` shows the runs" in error
    assert client.ok("cancel", ids[0], f"job.batch/{ids[0]}") == f"{ids[0]} cancelled\n"
    error = client.error("cancel", *ids)
    assert error == f"error: {ids[0]} has ended: Cancelled; there is nothing to cancel\n"
    assert objects(apiserver, namespace) == there
    states = {line.split()[0]: line.split()[1] for line in client.ok("list").splitlines()[1:]}
    assert states == {ids[0]: "Cancelled", ids[1]: "Pending", ids[2]: "Pending"}
    error = client.error("cancel", ids[1][:-1], ids[2])
    assert error.startswith(f"Stop {ids[1]}, {ids[2]}? ")
    out = client.ok("cancel", ids[1][:-1], ids[2], "-y")
    assert out == f"{ids[1]} cancelled\n{ids[2]} cancelled\n"
    out = client.ok("delete", *ids)
    assert [line for line in out.splitlines() if line.startswith("job")] == [
        f"job.batch/{run} deleted" for run in ids
    ]
    assert objects(apiserver, namespace) == []


def test_a_run_whose_driver_s_job_is_gone(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client)
    apiserver.kubectl("delete", "job", run, "-n", namespace, "--cascade=orphan")
    assert f"configmap/{run}-stages deleted" in client.ok("delete", run)
    assert objects(apiserver, namespace) == []
    assert f"no run {run} in namespace" in client.error("delete", run)
