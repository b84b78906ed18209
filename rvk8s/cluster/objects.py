"""Several objects at once: named as kubectl names them, found and deleted by a selector."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import Forbidden, NoSuchKind
from rvk8s.contract import Label
from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Seconds until what was deleted of a run has to be gone: its pods get 60 to end.
_GONE = 120.0
_POLL = 0.5


def object_name(manifest: Object) -> str:
    """`job.batch/x`: kind, group and name as kubectl's -o name writes them."""
    group = manifest["apiVersion"].rpartition("/")[0]
    kind = manifest["kind"].lower() + (f".{group}" if group else "")
    return f"{kind}/{manifest['metadata']['name']}"


def owner_of(job: Object) -> Object:
    """A Job as an ownerReference: what has it goes with the Job."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "blockOwnerDeletion": False,
    }


def delete_all(
    cluster: Cluster, selector: str, kinds: Sequence[str], wanted: Callable[[Object], bool]
) -> list[str]:
    """Delete the objects of some kinds that a selector picks.

    Args:
        wanted: whether an object is one of those that are meant.

    Returns:
        The objects as kubectl's -o name writes them.
    """
    deleted = []
    for item in filter(wanted, list(list_kinds(cluster, selector, kinds))):
        meta = item["metadata"]
        if cluster.delete(item["kind"], meta["name"], uid=meta["uid"]):
            deleted.append(object_name(item))
    return deleted


def list_kinds(cluster: Cluster, selector: str, kinds: Sequence[str]) -> Iterator[Object]:
    """The objects of some kinds that a selector picks; none of a kind that the cluster lacks."""
    for kind in kinds:
        try:
            yield from cluster.list_all(kind, selector)
        except NoSuchKind as error:  # a cluster without the training operator has no PyTorchJobs
            log.debug("%s", error)


def events_of(cluster: Cluster, uid: str) -> list[Object]:
    """What the cluster says of an object; nothing where a role keeps us from reading it."""
    try:
        return cluster.list_all("Event", fields=f"involvedObject.uid={uid}", forgiving=False)
    except Forbidden as error:
        log.debug("no events: %s", error)
        return []


def started_again(run_id: str) -> InputError:
    """The error of whoever acts on a run that somebody else has started anew meanwhile."""
    what = f"{run_id} was started by somebody else a moment ago"
    return InputError(what, fix="`rvk8s list` shows what it does; nothing of theirs was changed")


def wait_until_gone(cluster: Cluster, run_id: str, job: str | None = None) -> None:
    """Wait until nothing of a run, whose objects were deleted, can write into its folder any more.

    Args:
        job: the uid of its driver's Job that was deleted; None where there was none.

    Raises:
        InputError: something does not go; somebody else has started the run again.
    """
    end = time.monotonic() + _GONE
    while left := list(_that_write(cluster, run_id)):
        for item in left:
            metadata = item["metadata"]
            is_driver = item["kind"] == "Job" and metadata["name"] == run_id
            if is_driver and metadata["uid"] != job and not metadata.get("deletionTimestamp"):
                raise started_again(run_id)
        if time.monotonic() > end:
            name = object_name(left[0])
            what = f"{name} of {run_id} was deleted and does not go away"
            fix = f"`kubectl describe {name} -n {cluster.namespace}` may say why"
            raise InputError(what, fix=fix)
        time.sleep(_POLL)


def _that_write(cluster: Cluster, run_id: str) -> Iterator[Object]:
    yield from list_kinds(cluster, f"{Label.RUN}={run_id}", ("Job", "PyTorchJob", "Pod"))
    # The driver's pod of a schedule has the labels of the schedule.
    yield from cluster.list_all("Pod", f"batch.kubernetes.io/job-name={run_id}")
