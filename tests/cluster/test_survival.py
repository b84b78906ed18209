"""A run that everything happens to, on a real cluster."""

from __future__ import annotations

import time

import pytest
from cluster.sites import Chaos
from cluster.team import Site

pytestmark = [pytest.mark.timeout(1800), pytest.mark.alone, pytest.mark.endurance]
#: Fits four ranks on two shared cores.
GPUS = ("--gpus", "4")


def test_a_run_survives_all_of_it(tiny_site: Site, chaos: Chaos) -> None:
    """Driver killed at three transitions, API server away for a minute, a training worker killed in
    an epoch, a split's pod evicted, S3 away: the same scores as a run that nobody disturbed."""
    quiet = tiny_site.submit("tiny-long", *GPUS, "--splits", "2")
    assert tiny_site.wait(quiet)["state"] == "Succeeded", tiny_site.report(quiet)

    run = tiny_site.submit("tiny-long", *GPUS, "--splits", "2")
    done: list[str] = []
    killed: set[str] = set()
    end = time.monotonic() + 1200
    while time.monotonic() < end:
        record = tiny_site.run_json(run)
        if record.get("state") in ("Succeeded", "Failed", "Cancelled"):
            break
        running = [s["name"] for s in record.get("stages", ()) if s["state"] == "Running"]
        name = running[0] if running else None
        if name and name not in done:
            done.append(name)
            driver = tiny_site.driver_pod(run)
            # At every transition test_driver.py does it; here a Job waits longer after each.
            if driver and name in ("analyze", "train", "eval"):
                tiny_site.kill_process(driver, "rvk8s-driver")
            if name == "analyze":
                chaos.api_server_away(60)
            if name == "eval":
                chaos.storage_away(20)
        if name == "train" and "train" not in killed:
            pods = tiny_site.running(run, "train")
            if len(pods) == 2:
                begun = lambda: tiny_site.has_checkpoint(run)  # noqa: E731
                tiny_site.kill_process(pods[1], "rvk8s-stage", begun)
                killed.add("train")
        if name == "predict" and "predict" not in killed:
            pods = tiny_site.running(run, "predict")
            if len(pods) == 2:
                tiny_site.evict(pods[0])
                killed.add("predict")
        time.sleep(0.3)
    record = tiny_site.wait(run)
    assert record["state"] == "Succeeded", tiny_site.report(run)
    assert killed == {"train", "predict"}
    assert {"configure", "analyze", "chip", "train", "predict", "eval", "bundle"} <= set(done) | {
        s["name"] for s in record["stages"] if s["state"] == "Skipped"
    }
    assert "going on after epoch" in tiny_site.stored_logs(run, "train")[0]
    assert tiny_site.scores(quiet) == tiny_site.scores(run)
    tiny_site.nothing_runs(run)
