"""The driver's pod on a real cluster."""

from __future__ import annotations

import pytest
from cluster.team import Site

#: Seconds: a run shares two cores with everything else.
pytestmark = pytest.mark.timeout(1800)


@pytest.mark.smoke
def test_training_survives_its_driver(tiny_site: Site) -> None:
    """The driver is killed after the first epoch: its successor adopts the training."""
    run = tiny_site.submit("tiny-long", "--gpus", "2")
    first = tiny_site.until(lambda: tiny_site.driver_pod(run), "the driver runs")
    trains = lambda: tiny_site.has_checkpoint(run) and tiny_site.running(run, "train")  # noqa: E731
    tiny_site.kill_process(first, "rvk8s-driver", trains)
    tiny_site.until(lambda: tiny_site.pods(run, "predict"), "it predicts", 300)
    assert len(tiny_site.pods(run, "train")) == 1, "no other training began"
    tiny_site.rvk8s("cancel", run)  # what follows is like in every run
    record = tiny_site.wait(run)
    drivers = f"rvk8s.io/run={run},app.kubernetes.io/component=driver"
    assert len(tiny_site.objects("pods", drivers)) == 2
    (train,) = (stage for stage in record["stages"] if stage["name"] == "train")
    assert (train["state"], train["attempts"]) == ("Succeeded", 1)
    tiny_site.nothing_runs(run)
