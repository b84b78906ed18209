"""Queues of Kueue, for real: stages wait in them, are put out by them, and go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cluster import kueue
from cluster.sites import SiteFactory, install_platform
from cluster.team import Site
from cluster.testbed import Testbed

#: Kueue's webhooks see every Job of the cluster, so no other test runs meanwhile.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.alone, pytest.mark.endurance]
#: The platform chart's own names, and all GPUs of its flavor.
QUEUE, GPUS = "rvk8s", ("--gpus", "4")
_LACKING = "insufficient unused quota for nvidia.com/gpu in flavor gpu, 4 more needed"


@pytest.fixture(scope="module")
def with_kueue(bed: Testbed) -> Iterator[None]:
    if bed.s3 is None:
        pytest.skip("NOT TESTED: queues, because Kueue would be installed into a cluster of yours")
    with kueue.installed(bed):
        yield


@pytest.fixture(scope="module")
def site(with_kueue: None, site_factory: SiteFactory) -> Site:
    """A site whose runs wait in the queue that the platform chart makes."""
    site = site_factory("queue")
    install_platform(site.bed, site.namespace, "--set", "kueue.enabled=true")
    site.write_tiny({"queue": QUEUE})
    return site


def workload(site: Site, run: str, stage: str) -> dict[str, Any]:
    """The Workload of a stage; {} where there is none."""
    jobs = site.objects("jobs,pytorchjobs", f"rvk8s.io/run={run},rvk8s.io/stage={stage}")
    uids = {job["metadata"]["uid"] for job in jobs}
    for one in kueue.workloads(site.kubeconfig, site.namespace):
        if uids & {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}:
            return one
    return {}


def flavors(workload: Mapping[str, Any]) -> dict[str, str]:
    """Resource -> the flavor that Kueue takes it from while it runs."""
    admission = (workload.get("status") or {}).get("admission") or {"podSetAssignments": [{}]}
    found: dict[str, str] = admission["podSetAssignments"][0].get("flavors", {})
    return found


def waits(site: Site, run: str, stage: str, words: str) -> bool:
    """Whether Kueue holds a stage back and says these words of it."""
    held = kueue.condition(workload(site, run, stage), "QuotaReserved")
    return held.get("status") == "False" and words in held["message"]


def says(site: Site, run: str, words: str) -> None:
    """`rvk8s status` says it, and so does run.json, which the driver writes."""

    def said() -> bool:
        shown = " ".join(site.rvk8s("status", run).stdout.split())
        messages = [str(stage["message"]) for stage in site.run_json(run).get("stages", ())]
        return words in shown and any(words in message for message in messages)

    site.until(said, f"status and run.json say: {words}", 60)


def set_active(site: Site, workload: Mapping[str, Any], active: bool) -> None:
    """What an administrator does who puts something out of its place, and lets it in again."""
    patch = json.dumps({"spec": {"active": active}})
    name = f"workload.kueue.x-k8s.io/{workload['metadata']['name']}"
    site.kubectl("patch", name, "--type=merge", "-p", patch)


def training(site: Site, run: str) -> dict[str, Any]:
    (found,) = site.objects("pytorchjobs", f"rvk8s.io/run={run}")
    return found


def scores(site: Site, run: str) -> dict[str, Any]:
    record = site.wait(run)
    assert record["state"] == "Succeeded", site.report(run)
    return site.scores(run)


def test_two_trainings_take_turns(site: Site) -> None:
    """The second waits for the GPUs of the first and outlives its driver; the first is then put
    out in the middle of its training. Both end as if they had been alone."""
    long_enough = ("-a", "epochs", "60")  # to outlast a driver's end and its Lease
    runs = [site.submit("tiny", *GPUS, *long_enough) for _ in range(2)]
    configure = lambda: flavors(workload(site, runs[0], "configure"))  # noqa: E731
    assert site.until(configure, "a stage without GPUs is let in")["cpu"] == "cpu"

    def waiting() -> list[str]:
        return [run for run in runs if waits(site, run, "train", _LACKING)]

    (second,) = site.until(waiting, "one of the two waits for GPUs", 300)
    (first,) = {*runs} - {second}
    assert flavors(workload(site, first, "train"))["nvidia.com/gpu"] == "gpu"
    assert site.pods(second, "train") == []
    says(site, second, f"waits in queue {QUEUE}: {_LACKING}")
    assert site.run_json(second)["state"] == "Running"

    held, driver = training(site, second), site.driver_pod(second)
    assert driver
    site.kill_process(driver, "rvk8s-driver")
    other = site.until(
        lambda: (name := site.driver_pod(second)) != driver and name, "another driver has begun"
    )
    adopted = f"Found PyTorchJob {held['metadata']['name']}"
    site.until(lambda: adopted in site.kubectl("logs", other), "it goes on with what is there", 60)

    put_out = workload(site, first, "train")
    site.until(lambda: epoch(site, first) >= 1, "the first has trained an epoch", 180)
    set_active(site, put_out, False)
    says(site, first, "its Workload is not active")
    site.until(lambda: site.goes_on(second, "train"), "the second trains", 60)
    set_active(site, put_out, True)
    site.until(lambda: waits(site, first, "train", _LACKING), "the first waits for GPUs", 60)

    assert scores(site, second) == scores(site, first)
    for run in (first, second):
        train = next(one for one in site.run_json(run)["stages"] if one["name"] == "train")
        assert (train["attempts"], train["disruptions"]) == (1, 0)
    assert training(site, second)["metadata"]["uid"] == held["metadata"]["uid"]


def epoch(site: Site, run: str) -> int:
    """Epochs that a training has done."""
    progress = site.read_json(f"{site.root_uri}/{run}/.rvk8s/train/progress.json") or {}
    return int(progress.get("epoch", 0))


def test_cancel_while_a_stage_waits(site: Site) -> None:
    """The administrator has stopped the queue: a stage without GPUs waits, too."""
    stop = ("patch", "clusterqueue", QUEUE, "--type=merge", "-p")
    site.kubectl(*stop, '{"spec": {"stopPolicy": "Hold"}}')
    try:
        run = site.submit("tiny")
        says(site, run, f"waits in queue {QUEUE}: ClusterQueue {QUEUE} is inactive")
        assert workload(site, run, "configure")
        site.rvk8s("cancel", run)
        record = site.wait(run, 60)
        assert (record["state"], record["exitCode"]) == ("Cancelled", 130)
        site.until(lambda: not workload(site, run, "configure"), "its Workload is gone", 30)
        names = [w["metadata"]["name"] for w in kueue.workloads(site.kubeconfig, site.namespace)]
        assert not any(run in name for name in names)
        assert site.pods(run, "configure") == []
        site.nothing_runs(run)
    finally:
        site.kubectl(*stop, '{"spec": {"stopPolicy": "None"}}')


def test_a_queue_that_is_not_there(site: Site) -> None:
    values = site.folder / "queue.yaml"
    values.write_text("queue: nowhere\n")
    done = site.rvk8s("submit", "tiny", "--values", str(values), check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"no LocalQueue nowhere in namespace {site.namespace}" in line
    assert "values.queue" in line
