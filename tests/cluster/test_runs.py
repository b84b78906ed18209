"""Whole runs on a real cluster: by `rvk8s submit`, by helm and by kubectl, with both launchers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.programs import program
from cluster.team import Site, gang, shape

ROOT = Path(__file__).parents[2]
#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
#: 2 pods of 2 ranks.
TINY = ("tiny", "--gpus", "4", "--splits", "2")


@pytest.fixture(scope="module")
def reference(tiny_site: Site) -> dict[str, Any]:
    """Scores of the tiny experiment by `rvk8s submit`: they don't depend on how it was run."""
    with gang():
        run = tiny_site.submit(*TINY)
        seen = tiny_site.until(
            lambda: len(tiny_site.pods(run, "train")) == 2 and tiny_site.pods(run, "train"),
            "two pods train",
            300,
        )
        record = tiny_site.wait(run)
    gpus = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in seen]
    assert gpus == ["2", "2"]
    tiny_site.check_whole(run)
    assert shape(record) == (4, 2, 4)
    assert not tiny_site.objects("pytorchjobs,services", f"rvk8s.io/run={run},x=y")
    return tiny_site.scores(run)


def test_the_plain_job_launcher_gives_the_same(
    tiny_site: Site, reference: Mapping[str, Any]
) -> None:
    with gang():
        run = tiny_site.submit(*TINY, "--launcher", "job")
        tiny_site.wait(run)
    tiny_site.check_whole(run)
    assert not tiny_site.objects("pytorchjobs", f"rvk8s.io/run={run}")
    assert tiny_site.scores(run) == reference


def test_helm_alone_gives_the_same(
    tiny_site: Site, reference: Mapping[str, Any], tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(tiny_site.rvk8s("plan", *TINY, "-o", "values").stdout)
    release = "tiny-by-helm"
    chart = ROOT / "helm" / "rvk8s"
    flags = ["--kubeconfig", str(tiny_site.kubeconfig), "-n", tiny_site.namespace]
    with gang():
        subprocess.run(
            [program("helm"), "install", release, chart, "-f", values, "--set", "run.id=", *flags],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        tiny_site.wait(release)
    tiny_site.check_whole(release)
    assert tiny_site.scores(release) == reference
    subprocess.run(
        [program("helm"), "uninstall", release, *flags], check=True, capture_output=True, timeout=60
    )
    tiny_site.until(
        lambda: not tiny_site.objects("all,configmaps", f"rvk8s.io/run={release}"),
        "helm uninstall leaves nothing of the run",
    )
    assert tiny_site.run_json(release)["state"] == "Succeeded", "results stay"


def test_kubectl_alone_gives_the_same(tiny_site: Site, reference: Mapping[str, Any]) -> None:
    manifests = tiny_site.rvk8s("render", *TINY).stdout
    with gang():
        created = tiny_site.kubectl("apply", "-o", "name", "-f", "-", stdin=manifests).split()
        run = next(name.partition("/")[2] for name in created if name.startswith("job"))
        tiny_site.kubectl("wait", f"job/{run}", "--for=create", "--timeout=5s")
        tiny_site.wait(run)
    tiny_site.check_whole(run)
    assert tiny_site.scores(run) == reference


def test_status_list_and_logs_of_a_run(tiny_site: Site, reference: Mapping[str, Any]) -> None:
    listed = json.loads(tiny_site.rvk8s("list", "-o", "json").stdout)
    assert {run["state"] for run in listed} == {"Succeeded"}
    run = listed[-1]["runId"]
    status = json.loads(tiny_site.rvk8s("status", run, "-o", "json").stdout)
    assert status["state"] == "Succeeded"
    train = tiny_site.rvk8s("logs", run, "train").stdout
    assert "gloo" in train
    assert sys.executable not in train
