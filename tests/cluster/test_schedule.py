"""A schedule on a real cluster: the CronJob's own tick starts a whole run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cluster.programs import program
from cluster.team import Site

#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
CHART = Path(__file__).parents[2] / "helm" / "rvk8s"


def test_each_minute_a_run(tiny_site: Site, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(tiny_site.rvk8s("plan", "tiny", "-o", "values").stdout)
    options = ["--set", "run.id=nightly", "--set", "schedule.cron=* * * * *"]
    helm(tiny_site, "install", "nightly", str(CHART), "-f", str(values), *options)
    drivers = "app.kubernetes.io/component=driver"
    (job, *_) = tiny_site.until(lambda: tiny_site.objects("jobs", drivers), "it is time", 120)
    run = job["metadata"]["name"]
    assert run.startswith("nightly-")
    helm(
        tiny_site,
        "upgrade",
        "nightly",
        str(CHART),
        "--reuse-values",
        "--set",
        "schedule.suspend=true",
    )
    record = tiny_site.wait(run)
    assert record["state"] == "Succeeded", tiny_site.report(run)
    assert record["plan"]["runId"] == run
    listed = json.loads(tiny_site.rvk8s("list", "-o", "json").stdout)
    assert run in {one["runId"] for one in listed}
    assert tiny_site.read_json(f"{tiny_site.root_uri}/{run}/eval/scores.json")
    helm(tiny_site, "uninstall", "nightly")
    tiny_site.until(
        lambda: not tiny_site.objects("jobs,pods", drivers), "its runs' objects are gone"
    )
    assert tiny_site.run_json(run)["state"] == "Succeeded", "results stay"


def helm(site: Site, *args: str) -> None:
    command = [program("helm"), *args, "--kubeconfig", str(site.kubeconfig), "-n", site.namespace]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
