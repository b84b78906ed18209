"""Stops and removes runs on a cluster: `rvk8s cancel` and `rvk8s delete`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rvk8s import storage
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.objects import delete_all, list_kinds
from rvk8s.contract import Annotation, ExitCode, Label, RunLayout, State, now
from rvk8s.errors import ClusterUnavailable, InputError
from rvk8s.runs import cluster_runs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places
from rvk8s.runs.record import RunRecord

#: Seconds that a driver may take to stop its stages: their pods get 60 to end.
_STOPPED = 120.0
_POLL = 0.5
_STAGES = ("Job", "PyTorchJob", "Service")
_ALL = ("Job", "PyTorchJob", "Service", "ConfigMap", "NetworkPolicy", "Lease")


def cancel(places: Places, cluster: Cluster, run: ClusterRun) -> None:
    """Stop a run for good; what its finished stages have made stays.

    The driver does it. Where none runs, it is done from here: the driver's Job is suspended, or
    ended where a schedule made it, so that no other one starts, and the stages are deleted. A
    driver that was killed too often has ended and left its stages running.

    Raises:
        InputError: it has ended, its stages too.
        ClusterUnavailable: it does not stop.
    """
    if run.has_ended and not run.left_behind:
        raise InputError(f"{run.run_id} has ended: {run.state}", fix="there is nothing to cancel")
    job = run.driver["metadata"]["name"]
    cluster.patch("Job", job, {"metadata": {"annotations": {Annotation.CANCEL: now()}}})
    if run.has_ended:
        _stop_from_here(places, cluster, run)
        return
    end = time.monotonic() + _STOPPED
    while time.monotonic() < end:
        current = cluster_runs.find(cluster, run.run_id)
        if current is None or current.has_ended:
            return
        if not _driver_runs(current):
            _stop_from_here(places, cluster, current)
            return
        time.sleep(_POLL)
    what = f"{run.run_id} has not stopped after {_STOPPED:.0f} s; it may yet"
    raise ClusterUnavailable(f"{what}: `rvk8s logs {run.run_id} driver` says what it does")


def delete(cluster: Cluster, run_id: str, run: ClusterRun | None) -> list[str]:
    """Delete the objects of a run; pods that run are ended.

    Returns:
        The objects as kubectl's -o name writes them.
    """
    deleted = []
    list(list_kinds(cluster, f"{Label.RUN}={run_id}", _ALL))  # a refusal comes before any change
    if run is not None:  # the driver first, or it would make stages anew
        job = run.driver["metadata"]
        if cluster.delete("Job", job["name"], uid=job["uid"]):
            deleted.append(f"job.batch/{job['name']}")
    deleted += delete_all(cluster, f"{Label.RUN}={run_id}", _ALL)
    return [name for index, name in enumerate(deleted) if name not in deleted[:index]]


def _driver_runs(run: ClusterRun) -> bool:
    for pod in run.pods:
        if pod["metadata"]["labels"].get(Label.COMPONENT) == "driver":
            phase = (pod.get("status") or {}).get("phase")
            if phase == "Running" and not pod["metadata"].get("deletionTimestamp"):
                return True
    return False


def _stop_from_here(places: Places, cluster: Cluster, run: ClusterRun) -> None:
    selector = f"{Label.RUN}={run.run_id},{Label.COMPONENT}=stage"
    list(list_kinds(cluster, selector, _STAGES))  # a refusal has to come before any change
    if not run.has_ended:
        cluster.patch("Job", run.driver["metadata"]["name"], {"spec": _no_more(run.driver)})
    delete_all(cluster, selector, _STAGES)
    uri = RunLayout(f"{run.root_uri}/{run.run_id}").run_json
    places.stored(run.root_uri, lambda: _write_cancelled(uri))


def _no_more(driver: Object) -> Mapping[str, object]:
    """What keeps a driver's Job from starting another pod.

    A suspended one never ends, and a CronJob that forbids two runs at once would wait for it for
    ever: one of a CronJob has to fail.
    """
    owners = driver["metadata"].get("ownerReferences") or ()
    if any(owner["kind"] == "CronJob" for owner in owners):
        return {"suspend": False, "activeDeadlineSeconds": 1}
    return {"suspend": True}


def _write_cancelled(uri: str) -> None:
    """run.json says that the run is cancelled, where it says that it goes on."""
    value = storage.read_json(uri)
    if value is None:
        return
    record = RunRecord.from_dict(value)
    if record.state not in (State.PENDING, State.RUNNING):
        return
    for stage in record.stages:
        if stage.state == State.RUNNING:
            stage.state, stage.ended = State.CANCELLED, now()
            stage.exit_code = ExitCode.INTERRUPTED
    record.state, record.ended = State.CANCELLED, now()
    record.exit_code, record.message = ExitCode.INTERRUPTED, "cancelled while no driver ran"
    storage.write_json(uri, record.to_dict())
