"""The client against a real API server: submit, list, status, cancel, delete, diff."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from cluster.apiproxy import api_proxy
from cluster.clientrun import Client, become_submitter, client, objects, submit
from cluster.controlplane import ControlPlane

from rvk8s import yaml_loader

__all__ = ["client"]


def test_a_run_is_submitted_shown_and_deleted(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    run = submit(client, "--gpus", "4")
    assert re.fullmatch(r"one-\d{8}-\d{6}-[0-9a-f]{4}", run)
    assert objects(apiserver, namespace) == [
        f"configmap/{run}-source",
        f"configmap/{run}-stages",
        f"job.batch/{run}",
        f"networkpolicy.networking.k8s.io/{run}",
    ]
    config = yaml_loader.load(
        apiserver.kubectl("get", "configmap", f"{run}-stages", "-n", namespace, "-o", "yaml")
    )
    plan = json.loads(config["data"]["plan.json"])
    train = next(stage for stage in plan["stages"] if stage["name"] == "train")
    assert (train["nodes"], train["gpus"], train["ranks"]) == (2, 4, 4)
    listed = client.ok("list").splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [[run, "Pending"]]
    code, out, _ = client("status", run[:-2])
    assert code == 0
    assert "cannot be read from here" in " ".join(out.split())
    assert [line.split()[0] for line in out.splitlines() if "Pending" in line][1:] == [
        *("configure", "analyze", "chip", "train", "predict", "eval", "bundle")
    ]
    assert "nothing is written yet" in client.error("logs", run)
    assert client.ok("delete", run).splitlines()[0] == f"job.batch/{run} deleted"
    assert objects(apiserver, namespace) == []
    assert f"no run {run} in namespace" in client.error("delete", run)
    assert f"no run {run} in namespace" in client.error("status", run)


def test_what_a_dry_run_shows_is_what_is_sent(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    same = ("--run-id", "one-20261124-101112-abcd", "--gpus", "2")
    shown = client.ok("submit", "one", "--dry-run", *same)
    assert client.ok("submit", *same, "--dry-run", "one") == shown
    assert client.ok("render", "one", *same) == shown
    names = client.ok("submit", "one", "--dry-run=server", "-o", "name", *same)
    assert names == "job.batch/one-20261124-101112-abcd\n"
    assert objects(apiserver, namespace) == []
    client.ok("submit", "one", *same)
    for manifest in yaml_loader.load_all(shown):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        there = json.loads(apiserver.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        if kind == "ConfigMap":
            assert there["data"] == manifest["data"]
        assert there["metadata"]["labels"] == manifest["metadata"]["labels"]
    assert client.ok("diff", "one", "--gpus", "2") == ""
    # The command that goes on has -n then, and nothing else is otherwise.
    assert client.ok("diff", "one", "--gpus", "2", "-n", namespace) == ""
    code, out, _ = client("diff", "one", "--gpus", "4")
    assert code == 1
    assert '-          "gpus": 2' in out
    assert '+          "gpus": 4' in out


def test_two_submits_at_once_are_two_runs(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    both = [client.start("submit", "one", "-o", "name") for _ in range(2)]
    names = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(names) == 2
    jobs = {name for name in objects(apiserver, namespace) if name.startswith("job")}
    assert jobs == names


def test_many_experiments_at_once(client: Client) -> None:
    names = client.ok("submit", "-m", "one*", "-o", "name").split()
    assert [name.split("-2")[0] for name in names] == ["job.batch/one", "job.batch/one-deep"]
    assert len(client.ok("list").splitlines()) == 3


@pytest.mark.parametrize(
    ("missing", "args", "words"),
    [
        ("namespace", ["-n", "nowhere"], "there is no namespace nowhere; create it"),
        ("account", [], "no service account rvk8s-stage in namespace"),
        ("secret", ["--values", "secret.yaml"], "no Secret keys in namespace"),
        ("key", ["--values", "secret.yaml"], "Secret keys has no AWS_SECRET_ACCESS_KEY"),
        ("shape", ["--gpus", "5"], "values.stages.train.gpus (--gpus): 5 GPUs do not fill"),
        ("context", ["--context", "none"], "kubeconfig: "),
        ("values", ["--values", "none.yaml"], "none.yaml: there is no such file"),
        ("quota", [], "exceeded quota"),
        (
            "kueue",
            ["--values", "queue.yaml"],
            "install Kueue 0.15 or newer, or set no values.queue",
        ),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_created(
    missing: str,
    args: list[str],
    words: str,
    client: Client,
    apiserver: ControlPlane,
    namespace: str,
) -> None:
    (client.folder / "secret.yaml").write_text("storage: {secretName: keys}\n")
    (client.folder / "queue.yaml").write_text("queue: none\n")
    if missing == "account":
        apiserver.kubectl("delete", "serviceaccount", "rvk8s-stage", "-n", namespace)
    elif missing == "key":
        pair = "--from-literal=AWS_ACCESS_KEY_ID=x"
        apiserver.kubectl("create", "secret", "generic", "keys", "-n", namespace, pair)
    elif missing == "quota":
        quota = ("create", "quota", "none", "--hard=count/jobs.batch=0", "-n", namespace)
        apiserver.kubectl(*quota)
    error = client.error("submit", "one", *args)
    assert words in error
    assert len(error.splitlines()) == 1
    assert objects(apiserver, namespace) == []


def test_a_cluster_without_the_operator_is_said(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """As the user sees it: the API answers 404 for the kind."""
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.rule = lambda method, path: 404 if "pytorchjobs" in path else None
        error = client.error("submit", "one")
        assert "the Kubeflow training operator, or give --launcher job" in error
        assert objects(apiserver, namespace) == []
        run = submit(client, "--launcher", "job")
        assert run in client.ok("list")
        assert "Pending" in client.ok("status", run)
        client.ok("cancel", run)


def test_without_permission_nothing_is_created(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """A user who may read and write ConfigMaps, but not Jobs."""
    token = apiserver.kubectl("create", "token", "default", "-n", namespace).strip()
    role = ("role", "some", "--verb=*", "--resource=configmaps,networkpolicies.networking.k8s.io")
    apiserver.kubectl("create", *role, "-n", namespace)
    binding = ("rolebinding", "some", "--role=some", f"--serviceaccount={namespace}:default")
    apiserver.kubectl("create", *binding, "-n", namespace)
    config = yaml_loader.load(apiserver.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = client.folder / "user.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    client.environ["KUBECONFIG"] = str(path)
    error = client.error("submit", "one")
    assert "not allowed: jobs.batch" in error
    assert "helm/rvk8s-platform" in error
    assert objects(apiserver, namespace) == []
    client.environ["KUBECONFIG"] = str(apiserver.kubeconfig)
    config["users"][0]["user"] = {"token": "wrong"}
    path.write_text(yaml.safe_dump(config))
    client.environ["KUBECONFIG"] = str(path)
    assert "does not accept these credentials" in client.error("list")


def test_the_role_of_submitters_is_enough(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """A user with nothing but the role that helm/rvk8s-platform makes does everything."""
    become_submitter(client, apiserver, namespace)
    run = submit(client)
    assert run in client.ok("list")
    assert run in client.ok("status", run)
    assert client.ok("diff", run) == ""
    assert "nothing is written yet" in client.error("logs", run)
    client.error("wait", run, "--for=ended", "--timeout=1s", code=124)
    client.ok("cancel", run)
    client.ok("submit", "one", "--run-id", run)
    client.ok("delete", run)
    assert objects(apiserver, namespace) == []


@pytest.mark.parametrize("what", [403, "lose"])
def test_a_submit_that_breaks_off_leaves_nothing(
    what: int | str, client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """The Job is refused in the end, or is made and the answer is lost until patience is over."""
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.break_once("PATCH", r"/jobs/.*force=true$", what, times=99)
        code, out, err = client("submit", "one", timeout=90)
        assert code == (2 if what == 403 else 138), err
        assert len(err.splitlines()) == 1
        assert any("DELETE" in request for request in proxy.requests)
    assert out == ""
    assert objects(apiserver, namespace) == []


@pytest.mark.parametrize("what", [429, 500, "drop"])
def test_passing_faults_are_survived(
    what: int | str, client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.break_once("PATCH", r"/jobs/.*force=true$", what, times=2)
        run = submit(client)
        proxy.break_once("GET", "/jobs", what, times=2)
        assert run in client.ok("list")
    assert f"job.batch/{run}" in objects(apiserver, namespace)


def test_a_server_that_never_answers_is_said(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.rule = lambda method, path: "hang"
        error = client.error("list", code=138)
        assert f"{proxy.url} does not answer" in error


def test_a_page_to_log_in_is_no_answer(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    with api_proxy(apiserver.kubeconfig, client.folder, namespace) as proxy:
        client.environ["KUBECONFIG"] = str(proxy.kubeconfig)
        proxy.rule = lambda method, path: b"<html>Log in</html>"
        error = client.error("list")
        assert f"{proxy.url}: the answer is no object, perhaps a page; log in again" in error


def test_what_nobody_may_do_is_no_matter_of_roles(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """The namespace is being deleted, and has something that does not go."""
    patch = ("patch", "configmap", "kept", "-n", namespace, "--type=merge", "-p")
    apiserver.kubectl("create", "configmap", "kept", "-n", namespace)
    apiserver.kubectl(*patch, '{"metadata": {"finalizers": ["rvk8s.io/test"]}}')
    apiserver.kubectl("delete", "namespace", namespace, "--wait=false")
    error = client.error("submit", "one")
    apiserver.kubectl(*patch, '{"metadata": {"finalizers": null}}')
    (line, *_) = [line for line in error.splitlines() if "is being deleted" in line]
    assert f"the namespace {namespace} is being deleted; wait" in line
