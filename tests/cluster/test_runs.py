"""Whole runs on a real cluster: by `rvk8s submit`, by helm and by kubectl, with both launchers."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.programs import program
from cluster.team import Site, gang, shape

from rvk8s import storage
from rvk8s.contract import STAGES

ROOT = Path(__file__).parents[2]
#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
#: 2 pods of 2 ranks; so many epochs that one can be killed in the middle of them.
TINY = ("tiny-long", "--gpus", "4", "--splits", "2")


@dataclass(frozen=True)
class Followed:
    """A run, and what `rvk8s logs -f` has shown of its training's rank 3."""

    run: str
    log: str


@pytest.fixture(scope="module")
def by_plain_job(tiny_site: Site) -> Followed:
    """A run by the launcher that needs no operator; its driver is killed after the first epoch."""
    with gang(), ThreadPoolExecutor() as pool:
        run = tiny_site.submit("tiny-long", "--gpus", "4", "--launcher", "job")
        driver = tiny_site.until(lambda: tiny_site.driver_pod(run), "the driver runs")
        following = pool.submit(tiny_site.rvk8s, "logs", run, "train", "--rank", "3", "-f")
        tiny_site.kill_process(driver, "rvk8s-driver", lambda: tiny_site.has_checkpoint(run))
        record = tiny_site.wait(run)
        followed = following.result(timeout=60).stdout
    tiny_site.check_whole(run)
    assert shape(record) == (4, 2, 4)
    return Followed(run, followed)


@pytest.fixture(scope="module")
def reference(by_plain_job: Followed) -> str:
    """A whole run: its scores don't depend on how it was run, nor on what was killed meanwhile."""
    return by_plain_job.run


@pytest.mark.smoke
def test_the_plain_job_launcher(tiny_site: Site, by_plain_job: Followed) -> None:
    run = by_plain_job.run
    assert not tiny_site.objects("pytorchjobs", f"rvk8s.io/run={run}")
    (job,) = tiny_site.objects("jobs", f"rvk8s.io/run={run},rvk8s.io/stage=train")
    assert (job["spec"]["completionMode"], job["spec"]["completions"]) == ("Indexed", 2)
    followed = by_plain_job.log.splitlines()
    heads = [line for line in followed if line.startswith("==>")]
    assert heads == ["==> train, node 1 <=="], "the second node has the ranks 2 and 3"
    stored = tiny_site.stored_logs(run, "train")[1].splitlines()[1:]
    assert stored
    assert followed[1:] == stored


@pytest.mark.smoke
def test_training_survives_its_driver(tiny_site: Site, by_plain_job: Followed) -> None:
    """The driver's successor adopts the training that runs: no pod of it begins again."""
    run = by_plain_job.run
    drivers = f"rvk8s.io/run={run},app.kubernetes.io/component=driver"
    phases = [pod["status"]["phase"] for pod in tiny_site.objects("pods", drivers)]
    assert sorted(phases) == ["Failed", "Succeeded"]
    (train,) = (one for one in tiny_site.run_json(run)["stages"] if one["name"] == "train")
    assert (train["attempts"], train["disruptions"]) == (1, 0)
    assert len(tiny_site.pods(run, "train")) == 2


def test_a_pytorchjob_gives_the_same(tiny_site: Site, reference: str) -> None:
    with gang():
        run = tiny_site.submit(*TINY)
        seen = tiny_site.until(
            lambda: len(tiny_site.pods(run, "train")) == 2 and tiny_site.pods(run, "train"),
            "two pods train",
            600,
        )
        record = tiny_site.wait(run)
    gpus = [pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in seen]
    assert gpus == ["2", "2"]
    tiny_site.check_whole(run)
    assert shape(record) == (4, 2, 4)
    assert len(tiny_site.objects("pytorchjobs", f"rvk8s.io/run={run}")) == 1
    assert tiny_site.scores(run) == tiny_site.scores(reference)


def test_helm_alone_gives_the_same(tiny_site: Site, reference: str, tmp_path: Path) -> None:
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
    assert tiny_site.scores(release) == tiny_site.scores(reference)
    subprocess.run(
        [program("helm"), "uninstall", release, *flags], check=True, capture_output=True, timeout=60
    )
    tiny_site.until(
        lambda: not tiny_site.objects("all,configmaps", f"rvk8s.io/run={release}"),
        "helm uninstall leaves nothing of the run",
    )
    assert tiny_site.run_json(release)["state"] == "Succeeded", "results stay"


@pytest.mark.smoke
def test_kubectl_alone_gives_the_same(tiny_site: Site, reference: str) -> None:
    """By a PyTorchJob, although one of its workers is killed between two epochs or in one, and a
    split's pod evicted: the training goes on from its checkpoint, the split begins again."""
    manifests = tiny_site.rvk8s("render", *TINY).stdout
    with gang():
        created = tiny_site.kubectl("apply", "-o", "name", "-f", "-", stdin=manifests).split()
        run = next(name.partition("/")[2] for name in created if name.startswith("job"))
        tiny_site.kubectl("wait", f"job/{run}", "--for=create", "--timeout=5s")
        workers = tiny_site.until(lambda: both_run(tiny_site, run, "train"), "two pods train", 600)
        tiny_site.kill_process(workers[1], "rvk8s-stage", lambda: tiny_site.has_checkpoint(run))
        splits = tiny_site.until(lambda: both_run(tiny_site, run, "predict"), "it predicts", 600)
        tiny_site.evict(splits[0])
        record = tiny_site.wait(run)
    tiny_site.check_whole(run)
    assert shape(record) == (4, 2, 4)
    assert len(tiny_site.objects("pytorchjobs", f"rvk8s.io/run={run}")) == 1
    assert tiny_site.scores(run) == tiny_site.scores(reference)
    (train,) = (stage for stage in record["stages"] if stage["name"] == "train")
    assert train["attempts"] == 2
    assert "going on after epoch" in tiny_site.stored_logs(run, "train")[0]
    done = [pod for pod in tiny_site.pods(run, "predict") if pod["status"]["phase"] == "Succeeded"]
    assert len(done) == 2
    assert splits[0] not in {pod["metadata"]["name"] for pod in done}


def both_run(site: Site, run: str, stage: str) -> list[str]:
    """The names of a stage's pods once two of them run."""
    names = site.running(run, stage)
    return names if len(names) == 2 else []


def test_status_list_and_logs_of_a_run(tiny_site: Site, reference: str) -> None:
    listed = json.loads(tiny_site.rvk8s("list", "-o", "json").stdout)
    assert {run["state"] for run in listed} == {"Succeeded"}
    assert reference in {run["runId"] for run in listed}
    status = json.loads(tiny_site.rvk8s("status", reference, "-o", "json").stdout)
    assert status["state"] == "Succeeded"
    train = tiny_site.rvk8s("logs", reference, "train").stdout
    assert "gloo" in train
    assert sys.executable not in train


@pytest.mark.smoke
def test_no_secret_is_anywhere(tiny_site: Site, reference: str) -> None:
    """The planted secret is the storage's key: it stands in the Secret and nowhere else, also not
    in what a run leaves whose ranks failed."""
    stages = {pod["metadata"]["labels"].get("rvk8s.io/stage") for pod in tiny_site.pods(reference)}
    assert stages >= set(STAGES), "no pod is gone yet"
    secret = tiny_site.bed.writer[1].encode()
    forms = (secret, base64.b64encode(secret))
    seen, found = set(), []
    for name, data in everything(tiny_site):
        seen.add(name)
        found += [name] if any(form in data for form in forms) else []
    for name in (
        "run.json",
        ".rvk8s/driver/log.txt",
        "bundle/model-bundle.zip/pipeline-config.json",
    ):
        assert f"{reference}/{name}" in seen
    assert not found


def everything(site: Site) -> Iterator[tuple[str, bytes]]:
    """What is in the namespace and in storage, also in archives, each with where it is."""
    kinds = "pods,jobs,pytorchjobs,configmaps,events,services,leases"
    yield kinds, site.kubectl("get", kinds, "-o", "yaml").encode()
    for pod in site.kubectl("get", "pods", "-o", "name").split():
        yield pod, site.kubectl("logs", pod).encode()
    for name in storage.list_files(site.root_uri):
        data = storage.read_bytes(f"{site.root_uri}/{name}")
        yield name, data
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                yield from ((f"{name}/{one}", archive.read(one)) for one in archive.namelist())
