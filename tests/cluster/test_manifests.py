"""A real API server takes what the charts and manifests/ say, without a warning; roles hold."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from chart import cases, rendering
from chart.test_roles import DRIVER
from cluster.controlplane import ControlPlane
from cluster.programs import CannotBuild, program

MANIFESTS = cases.ROOT / "manifests"


def kubectl(apiserver: ControlPlane, *args: str | Path, stdin: str | None = None) -> str:
    """What kubectl prints; it must succeed and warn of nothing."""
    command = [str(program("kubectl")), "--kubeconfig", str(apiserver.kubeconfig), *map(str, args)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def _helm(apiserver: ControlPlane, *args: str | Path) -> subprocess.CompletedProcess[str]:
    try:
        command = [str(program("helm")), *map(str, args)]
    except CannotBuild as error:
        pytest.skip(f"NOT TESTED: helm, because {error}")
    environ = {**os.environ, "KUBECONFIG": str(apiserver.kubeconfig)}
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def helm(apiserver: ControlPlane, *args: str | Path) -> str:
    done = _helm(apiserver, *args)
    assert done.returncode == 0, done.stderr
    assert "violate" not in done.stderr, done.stderr
    return done.stdout


def test_kubectl_apply_k_alone(apiserver: ControlPlane) -> None:
    try:
        first = kubectl(apiserver, "apply", "-k", MANIFESTS / "platform")
        assert "namespace/rvk8s created" in first
        assert "rolebinding.rbac.authorization.k8s.io/rvk8s-driver created" in first
        made = kubectl(apiserver, "apply", "-k", MANIFESTS / "run-example")
        assert "job.batch/potsdam-example created" in made
        again = kubectl(apiserver, "apply", "-k", MANIFESTS / "run-example")
        assert "created" not in again
        assert "configured" not in again
        query = ("get", "pods", "-n", "rvk8s", "-l", "rvk8s.io/run=potsdam-example")
        kubectl(
            apiserver, "wait", "-n", "rvk8s", "--for=create", "pod", *query[4:], "--timeout=30s"
        )
        (pod,) = json.loads(kubectl(apiserver, *query, "-o", "json"))["items"]
        assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "potsdam-example"
    finally:
        apiserver.kubectl("delete", "-k", str(MANIFESTS / "platform"), "--wait=false")


@pytest.mark.parametrize("case", cases.RUNS)
def test_everything_of_a_run_is_accepted(
    apiserver: ControlPlane, namespace: str, case: str
) -> None:
    """What is applied and what the driver makes, as the `restricted` standard's namespace."""
    applied = rendering.objects(cases.RUNS[case], "release", namespace=namespace)
    everything = rendering.everything(applied)
    stream = "".join(f"---\n{json.dumps(o)}\n" for o in everything)
    options = ("-n", namespace, "--dry-run=server", "--server-side", "-f", "-")
    out = kubectl(apiserver, "apply", *options, stdin=stream)
    assert len(out.splitlines()) == len(everything)


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_a_run_id_of_63_letters_is_accepted(
    apiserver: ControlPlane, namespace: str, launcher: str
) -> None:
    run_id = "potsdam-with-a-very-long-name-indeed-it-is-20261124-131501-7f3a"
    assert len(run_id) == 63
    shape = {"train": {"nodes": 12}, "chip": {"splits": 100}}
    values = cases.run(run={"id": run_id}, launcher=launcher, stages=shape)
    applied = rendering.objects(values, "release", namespace=namespace)
    stream = "".join(f"---\n{json.dumps(o)}\n" for o in rendering.everything(applied))
    options = ("-n", namespace, "--dry-run=server", "--server-side", "-f", "-")
    assert f"job.batch/{run_id} serverside-applied" in kubectl(
        apiserver, "apply", *options, stdin=stream
    )


def test_helm_alone(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    values = tmp_path / "run.yaml"
    values.write_text(json.dumps(cases.RUNS["gpus"]))
    charts = cases.ROOT / "helm"
    helm(apiserver, "install", "platform", charts / "rvk8s-platform", "-n", namespace)
    said = helm(apiserver, "install", "first", charts / "rvk8s", "-n", namespace, "-f", values)
    assert f"kubectl -n {namespace} get pods -l rvk8s.io/run={cases.RUN} -w" in said
    ours = ("-n", namespace, "-l", f"rvk8s.io/run={cases.RUN}", "-o", "name")
    found = kubectl(apiserver, "get", "job,configmap,networkpolicy", *ours)
    assert f"job.batch/{cases.RUN}" in found.splitlines()
    assert len(found.splitlines()) == 4
    helm(apiserver, "uninstall", "first", "-n", namespace)
    assert kubectl(apiserver, "get", "configmap,networkpolicy", *ours) == ""
    helm(apiserver, "uninstall", "platform", "-n", namespace)


def test_a_run_is_not_changed_while_it_runs(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Its retried pods would have other code, and its driver other stages than it has begun with.

    The refusal of both is the API server's, in one line; what is the same may be applied again.
    """
    values = tmp_path / "run.yaml"
    values.write_text(json.dumps(cases.RUNS["gpus"]))
    changed = tmp_path / "changed.yaml"
    source = {"experiments/potsdam.py": "import common  # changed\n"}
    changed.write_text(json.dumps({"experiment": {"source": source}}))
    chart = (cases.ROOT / "helm" / "rvk8s", "-n", namespace, "-f", values)
    helm(apiserver, "install", "first", *chart)
    query = ("get", "job,configmap", "-n", namespace, "-l", f"rvk8s.io/run={cases.RUN}", "-o")
    before = kubectl(apiserver, *query, "jsonpath={..uid} {..data}")
    helm(apiserver, "upgrade", "first", *chart)
    refused = _helm(apiserver, "upgrade", "first", *chart, "-f", changed)
    assert refused.returncode != 0
    assert "field is immutable when `immutable` is set" in refused.stderr
    rendered = helm(apiserver, "template", "first", *chart, "-f", changed)
    command = [str(program("kubectl")), "--kubeconfig", str(apiserver.kubeconfig), "apply"]
    done = subprocess.run(
        [*command, "-n", namespace, "-f", "-"],
        input=rendered,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "field is immutable when `immutable` is set" in done.stderr
    assert kubectl(apiserver, *query, "jsonpath={..uid} {..data}") == before
    helm(apiserver, "uninstall", "first", "-n", namespace)


def test_the_driver_may_do_just_what_its_role_says(apiserver: ControlPlane, namespace: str) -> None:
    objects = rendering.objects({}, "platform", "rvk8s-platform", namespace)
    rights = [o for o in objects if o["kind"] in ("Role", "RoleBinding", "ServiceAccount")]
    stream = "".join(f"---\n{json.dumps(o)}\n" for o in rights)
    kubectl(apiserver, "apply", "-n", namespace, "-f", "-", stdin=stream)
    user = f"system:serviceaccount:{namespace}:rvk8s-driver"
    rules = kubectl(apiserver, "auth", "can-i", "--list", "-n", namespace, "--as", user)
    for (group, resource), verbs in DRIVER.items():
        name = f"{resource}.{group}" if group else resource
        (line,) = [x for x in rules.splitlines() if x.split(" ")[0] == name]
        granted = line.rpartition("[")[2].rstrip("]").split(" ")
        assert set(granted) == set(verbs), name
    # It patches Jobs: a schedule's driver labels its own with its run.
    refused = ("get secrets", "create pods", "create pods/exec", "update jobs.batch")
    for denied in (*refused, "patch configmaps", "patch pytorchjobs.kubeflow.org"):
        answer = apiserver_can(apiserver, denied, namespace, user)
        assert answer == "no", denied
    stage = f"system:serviceaccount:{namespace}:rvk8s-stage"
    for denied in ("get pods", "get configmaps", "get secrets", "list jobs.batch"):
        assert apiserver_can(apiserver, denied, namespace, stage) == "no", denied


def apiserver_can(apiserver: ControlPlane, what: str, namespace: str, user: str) -> str:
    command = [program("kubectl"), "--kubeconfig", apiserver.kubeconfig, "auth", "can-i"]
    verb, resource = what.split(" ")
    resource, _, sub = resource.partition("/")
    options = [verb, resource, "-n", namespace, "--as", user]
    options += [f"--subresource={sub}"] if sub else []
    done = subprocess.run(
        [str(part) for part in (*command, *options)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout.strip()
