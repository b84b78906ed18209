"""`rastervision run kubernetes`: what it submits to a real API server, and that it can be run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cluster.controlplane import ControlPlane
from s3server import S3Server

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.engines import local
from rvk8s.plan import Plan

#: Each command imports Raster Vision anew.
pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[1] / "pipeline" / "tiny"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path, apiserver: ControlPlane, namespace: str, s3: S3Server) -> Run:
    """Calls `rastervision run kubernetes` in an empty folder."""
    for account in ("rvk8s-driver", "rvk8s-stage"):
        apiserver.kubectl("create", "serviceaccount", account, "-n", namespace)
    environ = {**os.environ, **s3.environ, "KUBECONFIG": str(apiserver.kubeconfig)}
    environ |= {"RVK8S_NAMESPACE": namespace, "RVK8S_IMAGE": "registry.example.com/rvk8s:1"}

    def call(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("rastervision")), "run", "kubernetes"]
        return subprocess.run(
            [*command, str(TINY / "experiment.py"), *args],
            cwd=tmp_path,
            env={**environ, **settings},
            capture_output=True,
            text=True,
            timeout=200,
        )

    return call


def test_a_pipeline_is_submitted_and_runs(
    run: Run,
    apiserver: ControlPlane,
    namespace: str,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(TINY))
    import scenes

    data = tmp_path / "data"
    data.mkdir()
    scenes.draw(data)
    root = f"{s3.bucket('rvrunner')}/team/tiny"
    args = ["-a", "raw_uri", str(data), "-a", "root_uri", root, "--splits", "2"]
    done = run("analyze", "chip", *args, "--pipeline-run-name", "Tiny Run", RVK8S_LAUNCHER="job")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" created")]
    job = next(name for name in names if name.startswith("job.batch/"))
    run_id = job.removeprefix("job.batch/")
    assert run_id.startswith("tiny-run-")
    maps = apiserver.kubectl(
        *("get", "configmaps", "-n", namespace, "-l", f"rvk8s.io/run={run_id}", "-o", "json")
    )
    (stages,) = json.loads(maps)["items"]
    assert "kind: PyTorchJob" not in stages["data"]["train.yaml"]
    plan = Plan.from_dict(json.loads(stages["data"]["plan.json"]))
    assert plan.root_uri == root
    assert plan.stage("chip").splits == 2

    # The same stages as processes: configure takes the config, and only these two commands follow.
    summary = local.run(replace(plan, project_dir=str(tmp_path)), run_id_given=False, output="json")
    states = {stage.name: stage.state for stage in summary.record.stages}
    assert states["chip"] == State.SUCCEEDED
    skipped = [name for name, state in states.items() if state == State.SKIPPED]
    assert skipped == ["train", "predict", "eval", "bundle"]
    assert storage.list_files(f"{root}/chip")
    assert storage.exists(f"{plan.run_uri}/run.json")


def test_what_cannot_be_submitted_is_one_line(run: Run, tmp_path: Path, namespace: str) -> None:
    here = ["-a", "raw_uri", "none", "-a", "root_uri", str(tmp_path / "root")]
    done = run(*here)
    assert done.returncode == 2
    assert "let get_config take an s3:// root_uri" in done.stderr
    assert "Traceback" not in done.stderr
