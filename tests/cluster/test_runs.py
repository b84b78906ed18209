"""Whole runs on a real cluster: by `rvk8s submit`, by helm and by kubectl, with both launchers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cluster.programs import program
from cluster.sites import SiteFactory
from cluster.team import Site

from rvk8s import storage

ROOT = Path(__file__).parents[2]
#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
DUBAI = {
    # Small enough for two shared cores; large enough that scores are not chance.
    "train_ids": "tile1,tile2",
    "windows": 240,
    "chip_sz": 96,
    "num_epochs": 2,
    "tta": False,
}


def macro_f1(site: Site, run: str, root: str | None = None) -> float:
    scores = site.read_json(f"{root or site.root_uri}/{run}/eval/scores.json")
    assert scores is not None
    return float(scores["overall"]["macroF1"])


def results(site: Site, run: str) -> dict[str, Any]:
    """What a run of the tiny experiment ends with, as far as it must not depend on how it was run:
    its scores."""
    scores = site.read_json(f"{site.root_uri}/{run}/eval/scores.json")
    assert scores is not None
    return scores


def check_whole(site: Site, run: str) -> None:
    """A run has succeeded and left its bundle, predictions, scores, logs and markers in S3."""
    record = site.run_json(run)
    assert record["state"] == "Succeeded", site.report(run)
    assert record["engine"] == "kubernetes"
    files = storage.list_files(f"{site.root_uri}/{run}")
    assert any(name.startswith("bundle/") and name.endswith(".zip") for name in files)
    assert any(name.startswith("predict/") for name in files)
    assert "eval/scores.json" in files
    for stage in record["stages"]:
        assert stage["state"] in ("Succeeded", "Skipped"), stage
    logs = [name for name in files if name.startswith(".rvk8s/train") and "log" in name]
    assert logs, "no log of the training was collected"
    texts = [storage.read_bytes(f"{site.root_uri}/{run}/{name}").decode() for name in logs]
    said = [text.count("no GPU: training on the CPU") for text in texts]
    assert sum(said) == 1, "a training on processors says so, once"


def shape(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """GPUs, nodes and ranks of a run's training."""
    train = next(stage for stage in record["plan"]["stages"] if stage["name"] == "train")
    return train["gpus"], train["nodes"], train["ranks"]


@pytest.fixture(scope="module")
def reference(tiny_site: Site) -> dict[str, Any]:
    """Results of the tiny experiment by `rvk8s submit --gpus 4`: 2 pods of 2 ranks."""
    run = tiny_site.submit("tiny", "--gpus", "4", "--splits", "2")
    seen = tiny_site.until(
        lambda: len(tiny_site.pods(run, "train")) == 2 and tiny_site.pods(run, "train"),
        "two pods train",
        300,
    )
    gpus = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in seen]
    assert gpus == ["2", "2"]
    record = tiny_site.wait(run)
    check_whole(tiny_site, run)
    assert shape(record) == (4, 2, 4)
    assert not tiny_site.objects("pytorchjobs,services", f"rvk8s.io/run={run},x=y")
    return results(tiny_site, run)


def test_the_plain_job_launcher_gives_the_same(
    tiny_site: Site, reference: Mapping[str, Any]
) -> None:
    run = tiny_site.submit("tiny", "--gpus", "4", "--splits", "2", "--launcher", "job")
    tiny_site.wait(run)
    check_whole(tiny_site, run)
    assert not tiny_site.objects("pytorchjobs", f"rvk8s.io/run={run}")
    assert results(tiny_site, run) == reference


def test_helm_alone_gives_the_same(
    tiny_site: Site, reference: Mapping[str, Any], tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    printed = tiny_site.rvk8s("plan", "tiny", "--gpus", "4", "--splits", "2", "-o", "values").stdout
    values.write_text(printed)
    release = "tiny-by-helm"
    chart = ROOT / "helm" / "rvk8s"
    flags = ["--kubeconfig", str(tiny_site.kubeconfig), "-n", tiny_site.namespace]
    subprocess.run(
        [program("helm"), "install", release, chart, "-f", values, "--set", "run.id=", *flags],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    tiny_site.wait(release)
    check_whole(tiny_site, release)
    assert results(tiny_site, release) == reference
    subprocess.run(
        [program("helm"), "uninstall", release, *flags], check=True, capture_output=True, timeout=60
    )
    tiny_site.until(
        lambda: not tiny_site.objects("all,configmaps", f"rvk8s.io/run={release}"),
        "helm uninstall leaves nothing of the run",
    )
    assert tiny_site.run_json(release)["state"] == "Succeeded", "results stay"


def test_kubectl_alone_gives_the_same(tiny_site: Site, reference: Mapping[str, Any]) -> None:
    manifests = tiny_site.rvk8s("render", "tiny", "--gpus", "4", "--splits", "2").stdout
    created = tiny_site.kubectl("apply", "-o", "name", "-f", "-", stdin=manifests).split()
    run = next(name.partition("/")[2] for name in created if name.startswith("job"))
    tiny_site.kubectl("wait", f"job/{run}", "--for=create", "--timeout=5s")
    tiny_site.wait(run)
    check_whole(tiny_site, run)
    assert results(tiny_site, run) == reference


def test_dubai_scores_as_on_one_machine(
    site_factory: SiteFactory, dubai: Path, tmp_path: Path
) -> None:
    """Real scenes in S3, 2 pods x 2 ranks, beside `rvk8s run` with 4 ranks on this machine."""
    site: Site = site_factory("dubai")
    raw = f"{site.bed.bucket}/dubai"
    storage.upload_dir(dubai, raw)
    shutil.copytree(ROOT / "examples" / "dubai", site.folder / "dubai")
    experiment = {"module": "dubai/experiment.py", "args": {"raw_uri": raw, **DUBAI}}
    site.write_project({"dubai": experiment})
    run = site.submit("dubai", "--gpus", "4")
    record = site.wait(run, 1500)
    check_whole(site, run)
    assert shape(record) == (4, 2, 4)
    pictures = storage.list_files(f"{site.root_uri}/{run}/eval/pictures")
    assert pictures
    assert all(name.endswith(".png") for name in pictures)
    local = tmp_path / "runs"
    site.rvk8s("run", "dubai", "--ranks", "4", "--root-uri", str(local), timeout=1500)
    (here,) = (path.name for path in local.iterdir() if path.is_dir())
    on_cluster, on_machine = macro_f1(site, run), macro_f1(site, here, str(local))
    print(f"macro F1 on the cluster {on_cluster:.4f}, on one machine {on_machine:.4f}")
    assert abs(on_cluster - on_machine) <= 0.02


def test_status_list_and_logs_of_a_run(tiny_site: Site, reference: Mapping[str, Any]) -> None:
    listed = json.loads(tiny_site.rvk8s("list", "-o", "json").stdout)
    assert {run["state"] for run in listed} == {"Succeeded"}
    run = listed[-1]["runId"]
    status = json.loads(tiny_site.rvk8s("status", run, "-o", "json").stdout)
    assert status["state"] == "Succeeded"
    train = tiny_site.rvk8s("logs", run, "train").stdout
    assert "gloo" in train
    assert sys.executable not in train
