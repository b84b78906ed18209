"""Stops and removes runs on a cluster: `rvk8s cancel` and `rvk8s delete`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rvk8s import storage
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.objects import delete_all, list_kinds, object_name, started_again
from rvk8s.cluster.preconditions import check_namespace
from rvk8s.cluster.queues import is_suspended
from rvk8s.contract import Annotation, ExitCode, Label, RunLayout, State, now
from rvk8s.errors import ClusterUnavailable, Conflict, InputError
from rvk8s.heartbeat import OtherDriver, local_process, other_driver
from rvk8s.runs import cluster_runs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places
from rvk8s.runs.record import read_record
from rvk8s.runs.status import find_run

#: Seconds that a driver may take to stop its stages: their pods get 60 to end.
_STOPPED = 120.0
_POLL = 0.5
_STAGES = ("Job", "PyTorchJob", "Service")
_ALL = ("Job", "PyTorchJob", "Service", "ConfigMap", "NetworkPolicy", "Lease")


def no_run(cluster: Cluster, run: str) -> InputError:
    """The error that a namespace has no such run.

    Raises:
        InputError: there is no such namespace.
    """
    check_namespace(cluster)
    fix = "`rvk8s list` shows the runs; -n looks in another namespace"
    return InputError(f"no run {run} in namespace {cluster.namespace}", fix=fix)


def check_cancellable(run: ClusterRun) -> None:
    """See that there is something to stop.

    Raises:
        InputError: the run has ended, its stages too.
    """
    if run.has_ended and not run.left_behind:
        raise InputError(f"{run.run_id} has ended: {run.state}", fix="there is nothing to cancel")


def tell_to_stop(cluster: Cluster, run: ClusterRun) -> None:
    """Have a run's driver stop it for good; what its finished stages have made stays.

    Raises:
        InputError: it is another driver by now.
    """
    changes: Object = {"metadata": {"annotations": {Annotation.CANCEL: now()}}}
    _patch_driver(cluster, run, changes)


def see_stopped(places: Places, cluster: Cluster, run: ClusterRun) -> None:
    """Wait until a run that was told to stop has done so.

    Where no driver runs, it is stopped from here: the driver's Job is suspended, or ended where a
    schedule made it, so that no other one starts, and the stages are deleted. A driver that was
    killed too often has ended and left its stages running. One that a queue lets in later ends by
    itself.

    Raises:
        ClusterUnavailable: it does not stop.
        InputError: somebody else has started the run again.
    """
    if run.has_ended:
        _stop_from_here(places, cluster, run)
        return
    end = time.monotonic() + _STOPPED
    while time.monotonic() < end:
        current = cluster_runs.find(cluster, run.run_id)
        # One that a queue holds back, or has put out, only looks as if it had ended.
        if current is None or (current.has_ended and not is_suspended(current.driver)):
            return
        if _uid(current) != _uid(run):
            raise started_again(run.run_id)
        if not _driver_runs(current):
            _stop_from_here(places, cluster, current)
            return
        time.sleep(_POLL)
    what = f"{run.run_id} has not stopped after {_STOPPED:.0f} s; it may yet"
    raise ClusterUnavailable(f"{what}: `rvk8s logs {run.run_id} driver` says what it does")


@dataclass(frozen=True)
class ToDelete:
    """A run that can be deleted.

    Attributes:
        run_id: its id.
        folder: in the storage; empty where it is not asked for.
        there: what the namespace has of it; None where its driver's Job is gone.
    """

    run_id: str
    folder: str
    there: ClusterRun | None


def to_delete(places: Places, cluster: Cluster, run: str, results: bool) -> ToDelete:
    """Find a run that is to be deleted; nothing is changed.

    Args:
        run: a run's id, or the beginning of one and only one.
        results: its folder is to be deleted, too.

    Raises:
        InputError: there is no such run, or nothing says where its results are.
    """
    found = cluster_runs.find(cluster, run)
    if not results:
        if found is None and not _is_left(cluster, run):
            raise no_run(cluster, run)
        return ToDelete(found.run_id if found else run, "", found)
    root = found.root_uri if found else places.root_uri
    if root is None:
        raise InputError(f"nothing says where the results of {run} are", fix="give --root-uri")
    run_id = found.run_id if found else find_run(root, run)
    return ToDelete(run_id, f"{root}/{run_id}", found)


def check_is_ours(run: ToDelete) -> None:
    """See that nobody else works on a run whose results are to be deleted.

    Raises:
        OtherDriver: somebody does.
    """
    session, layout = (
        run.there.driver["metadata"]["uid"] if run.there else None,
        RunLayout(run.folder),
    )
    if host := local_process(layout):
        what = f"`rvk8s run` has {run.run_id}, on {host}"
        raise OtherDriver(what, fix="end it there, or leave --results out")
    if other := other_driver(layout, session):
        fix = "delete it there, or leave --results out"
        raise OtherDriver(f"another driver, {other.who}, has {run.run_id}", fix=fix)


def _is_left(cluster: Cluster, run_id: str) -> bool:
    """Whether there is anything of a run whose driver's Job is gone."""
    selector = f"{Label.RUN}={run_id}"
    return cluster_runs.is_label(run_id) and any(list_kinds(cluster, selector, _ALL))


def delete(cluster: Cluster, run: ToDelete) -> list[str]:
    """Delete the objects of a run that were looked at; pods that run are ended.

    Returns:
        The objects as kubectl's -o name writes them.

    Raises:
        InputError: somebody else has started the run again; nothing of that is deleted.
    """
    deleted, selector = [], f"{Label.RUN}={run.run_id}"
    # A refusal comes before any change. What the Job owns may go before we come to it.
    there = list(list_kinds(cluster, selector, _ALL))
    uid = _uid(run.there) if run.there else None
    if any(_is_driver(item) and item["metadata"]["uid"] != uid for item in there):
        raise started_again(run.run_id)
    if run.there is not None:  # the driver first, or it would make stages anew
        name = run.there.driver["metadata"]["name"]
        if cluster.delete("Job", name, uid=str(uid)):
            deleted.append(f"job.batch/{name}")
        elif cluster.get("Job", name) is not None:
            raise started_again(run.run_id)
    known = {item["metadata"]["uid"] for item in there}
    deleted += [object_name(item) for item in there]
    deleted += delete_all(cluster, selector, _ALL, lambda item: _is_of(item, uid, known))
    return list(dict.fromkeys(deleted))


def _is_driver(item: Object) -> bool:
    """Whether an object is a driver's Job; its pods and its Lease have the label, too."""
    return bool(
        item["kind"] == "Job" and item["metadata"]["labels"].get(Label.COMPONENT) == "driver"
    )


def _is_of(item: Object, driver: str | None, known: Collection[str] = ()) -> bool:
    """Whether an object is known, or of a driver's Job; not of one that was started since."""
    owners = {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}
    return item["metadata"]["uid"] in known or driver in owners


def _uid(run: ClusterRun) -> str:
    return str(run.driver["metadata"]["uid"])


def _patch_driver(cluster: Cluster, run: ClusterRun, changes: Object) -> None:
    try:
        cluster.patch("Job", run.driver["metadata"]["name"], changes, uid=_uid(run))
    except Conflict:
        raise started_again(run.run_id) from None


def _driver_runs(run: ClusterRun) -> bool:
    for pod in run.pods:
        if pod["metadata"]["labels"].get(Label.COMPONENT) == "driver":
            phase = (pod.get("status") or {}).get("phase")
            if phase == "Running" and not pod["metadata"].get("deletionTimestamp"):
                return True
    return False


def _stop_from_here(places: Places, cluster: Cluster, run: ClusterRun) -> None:
    selector = f"{Label.RUN}={run.run_id},{Label.COMPONENT}=stage"
    # A refusal has to come before any change.
    known = {item["metadata"]["uid"] for item in list_kinds(cluster, selector, _STAGES)}
    job = run.driver["metadata"]
    if not run.has_ended:
        _patch_driver(cluster, run, {"spec": _no_more(run.driver)})
    elif is_suspended(run.driver) and _is_scheduled(run.driver):
        # Its queue would not let it fail, and the schedule would wait for it.
        cluster.delete("Job", job["name"], uid=job["uid"])
    delete_all(cluster, selector, _STAGES, lambda item: _is_of(item, _uid(run), known))
    uri = RunLayout(f"{run.root_uri}/{run.run_id}").run_json
    places.stored(run.root_uri, lambda: _write_cancelled(uri))


def _no_more(driver: Object) -> Mapping[str, object]:
    """What keeps a driver's Job from starting another pod.

    A suspended one never ends, and a CronJob that forbids two runs at once would wait for it for
    ever: one of a CronJob has to fail.
    """
    if _is_scheduled(driver):
        return {"suspend": False, "activeDeadlineSeconds": 1}
    return {"suspend": True}


def _is_scheduled(driver: Object) -> bool:
    owners = driver["metadata"].get("ownerReferences") or ()
    return any(owner["kind"] == "CronJob" for owner in owners)


def _write_cancelled(uri: str) -> None:
    """run.json says that the run is cancelled, where it says that it goes on."""
    record = read_record(uri)
    if record is None or record.state not in (State.PENDING, State.RUNNING):
        return
    for stage in record.stages:
        if stage.state == State.RUNNING:
            stage.state, stage.ended = State.CANCELLED, now()
            stage.exit_code = ExitCode.INTERRUPTED
    record.state, record.ended = State.CANCELLED, now()
    record.exit_code, record.message = ExitCode.INTERRUPTED, "cancelled while no driver ran"
    storage.write_json(uri, record.to_dict())
