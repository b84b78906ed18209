"""What the charts make, against a real API server: its checks before a submit, and Helm itself."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import yaml
from cluster.clientrun import Client, become_submitter, client, objects, submit
from cluster.controlplane import ControlPlane
from cluster.programs import program

from rvk8s import yaml_loader

__all__ = ["client"]

_CHART = Path(__file__).parents[2] / "helm" / "rvk8s"


@pytest.mark.parametrize("user", ["administrator", "submitter"])
@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_stages_that_could_never_start_are_said_and_nothing_is_created(
    launcher: str, user: str, client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """Of the training, too: the definition of PyTorchJobs takes pods of any kind."""
    if user == "submitter":
        become_submitter(client, apiserver, namespace)
    resources = {"requests": {"cpu": 3}, "limits": {"cpu": 1}}
    wrong = {"stages": {name: {"resources": resources} for name in ("train", "eval")}}
    (client.folder / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    options = ("--launcher", launcher, "--values", "wrong.yaml")
    for dry in ((), ("--dry-run=server",)):
        lines = client.error("submit", "one", *options, *dry).splitlines()
        assert len(lines) == 2
        assert all("must be less than or equal to cpu limit of 1" in line for line in lines)
        assert "-train" in lines[0] + lines[1]
    assert objects(apiserver, namespace) == []
    resources.pop("requests")
    (client.folder / "right.yaml").write_text(yaml.safe_dump(wrong))
    run = submit(client, "--launcher", launcher, "--values", "right.yaml")
    assert f"job.batch/{run}" in objects(apiserver, namespace)


def test_helm_installs_a_run_with_the_role_of_submitters(
    client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Its releases are ConfigMaps then: the role does not read Secrets."""
    become_submitter(client, apiserver, namespace)
    values = tmp_path / "run.yaml"
    values.write_text(client.ok("plan", "one", "-o", "values"))
    helm = partial(_helm, client, namespace, HELM_DRIVER="configmap")
    helm("install", "mine", _CHART, "-f", values)
    run = yaml_loader.load(values.read_text())["run"]["id"]
    assert f"job.batch/{run}" in objects(apiserver, namespace)
    assert "mine" in helm("list")
    assert run in client.ok("list")
    helm("upgrade", "mine", _CHART, "-f", values)
    helm("uninstall", "mine")
    assert objects(apiserver, namespace) == []


@pytest.mark.parametrize("by", ["rvk8s", "helm", "kubectl"])
def test_odd_characters_reach_the_cluster(
    by: str, client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """In files, and in arguments, whatever sends them."""
    project = client.folder / "rvk8s.yaml"
    project.write_text(project.read_text().replace("module: experiments/one.py", "module: one.py"))
    file = client.folder / "one.py"
    (client.folder / "experiments" / "one.py").rename(file)
    file.write_text(
        file.read_text().replace("from lib.helper import NAME\n", "")
        + "NAME = '\x7f \x85 \x9f \u2028 \ufeff \ufffe \U0001f600\f'\n"
    )
    depth = "\x7f \x85 \u2028 \ufeff \U0001f600"
    if by == "rvk8s":
        run = submit(client, "-a", "depth", depth)
        assert client.ok("diff", run, "-a", "depth", depth) == ""
    else:
        values = tmp_path / "run.yaml"
        values.write_text(client.ok("plan", "one", "-a", "depth", depth, "-o", "values"))
        run = yaml_loader.load(values.read_text())["run"]["id"]
        if by == "helm":
            _helm(client, namespace, "install", "mine", _CHART, "-f", values)
        else:
            rendered = tmp_path / "rendered.yaml"
            text = _helm(client, namespace, "template", "mine", _CHART, "-f", values)
            rendered.write_text(text)
            apiserver.kubectl("apply", "--server-side", "-f", str(rendered), "-n", namespace)
    query = ("-n", namespace, "-o", "yaml")
    source = yaml_loader.load(apiserver.kubectl("get", "configmap", f"{run}-source", *query))
    (odd,) = source["binaryData"].values()
    assert base64.b64decode(odd) == file.read_bytes()
    stages = yaml_loader.load(apiserver.kubectl("get", "configmap", f"{run}-stages", *query))
    assert json.loads(stages["data"]["plan.json"])["args"]["depth"] == depth


def _helm(client: Client, namespace: str, *args: str | Path, **environ: str) -> str:
    """What helm prints; it must succeed."""
    command = [program("helm"), *args, "-n", namespace]
    environ = {**os.environ, **client.environ, **environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
