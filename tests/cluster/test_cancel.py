"""Runs on a real cluster that are cancelled: once, and again and again."""

from __future__ import annotations

import time

import pytest
from cluster.team import Site

from rvk8s import storage
from rvk8s.contract import STAGES

#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)
#: One pod of two ranks.
GPUS = ("--gpus", "2")


@pytest.mark.smoke
def test_cancel_while_training(tiny_site: Site) -> None:
    run = tiny_site.submit("tiny-long", *GPUS)
    tiny_site.until(lambda: tiny_site.has_checkpoint(run), "its first epoch is over", 600)
    cancel_in(tiny_site, run, "train")
    assert not storage.exists(f"{tiny_site.root_uri}/{run}/eval/scores.json")


def test_cancel_in_every_stage_and_go_on(tiny_site: Site) -> None:
    """One run, cancelled in its first stage, gone on with, cancelled in the second, and so on.

    From the cancelled stage on: those before it would only say that they are done. They do at last.
    """
    run = tiny_site.submit("tiny", *GPUS)
    for at in STAGES:
        cancel_in(tiny_site, run, at)
        again = ("--run-id", run) if at == STAGES[-1] else ("--run-id", run, "--from", at)
        tiny_site.submit("tiny", *GPUS, *again)
    record = tiny_site.wait(run)
    assert record["state"] == "Succeeded", tiny_site.report(run)
    assert tiny_site.scores(run)["overall"]["macroF1"] > 0
    files = storage.list_files(f"{tiny_site.root_uri}/{run}/bundle")
    assert "model-bundle.zip" in files


def cancel_in(site: Site, run: str, stage: str) -> None:
    site.until(lambda: site.goes_on(run, stage), f"stage {stage} has begun", 300)
    began = time.monotonic()
    site.rvk8s("cancel", run)
    record = site.wait(run, 60)
    assert (record["state"], record["exitCode"]) == ("Cancelled", 130)
    site.nothing_runs(run)
    assert time.monotonic() - began < 60
