"""Replaces the objects of a run that has ended by those of the same run, submitted again.

Several people may do that at once. What is deleted is what was looked at, by uid and version, and
what is made is made only where nobody else has made it: of any such race one wins, and the others
hear of it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.conditions import run_has_ended
from rvk8s.cluster.objects import list_kinds, started_again, wait_until_gone
from rvk8s.contract import Annotation, Label
from rvk8s.errors import Conflict, InputError

_KINDS = ("Job", "PyTorchJob", "Service", "ConfigMap", "NetworkPolicy")
#: What may still write, or has pods that do, goes first; the rest after them.
_FIRST = _KINDS[:3]
#: Seconds in which somebody who has made a run's ConfigMaps makes its Job, too.
_HALF_MADE = 5.0
#: Seconds that an object of before, which is being deleted, may take to go.
_GOING = 30.0
_POLL = 0.5


@dataclass(frozen=True)
class Remains:
    """What a namespace had of a run that has ended, when it was looked at.

    Attributes:
        run_id: its id.
        job: the driver's Job; None where it is gone.
        others: everything else.
    """

    run_id: str
    job: Object | None
    others: tuple[Object, ...]


def look(cluster: Cluster, run_id: str, job: Object | None) -> Remains:
    """What there is of a run.

    Args:
        job: the driver's Job as it was found, which has ended; None where there was none.

    Raises:
        InputError: somebody else is starting the run.
    """
    others = _others(cluster, run_id)
    if job is None and any(_is_half_made(one) for one in others):
        end = time.monotonic() + _HALF_MADE
        while time.monotonic() < end:
            if cluster.get("Job", run_id) is not None:
                raise started_again(run_id)
            time.sleep(_POLL)
    return Remains(run_id, job, tuple(others))


def clear(cluster: Cluster, remains: Remains) -> None:
    """Delete what was looked at, and wait until nothing of it can write any more.

    Raises:
        InputError: somebody else has started the run meanwhile; something does not go away.
    """
    job = remains.job
    if job is not None:
        _delete_job(cluster, remains.run_id, job)
    _delete(cluster, [one for one in remains.others if one["kind"] in _FIRST])
    wait_until_gone(cluster, remains.run_id, job["metadata"]["uid"] if job else None)
    # What the old Job owned would go a moment later, under the new one.
    _delete(cluster, [one for one in remains.others if one["kind"] not in _FIRST])


def make(cluster: Cluster, run_id: str, manifests: Sequence[Object]) -> list[Object]:
    """Make the objects of a run; those that were made go again where somebody else is faster.

    Returns:
        The objects as the server has them.

    Raises:
        InputError: somebody else is; the server refuses an object.
    """
    token, made = uuid.uuid4().hex, list[Object]()
    for manifest in manifests:
        item = _made(cluster, _marked(manifest, token), token)
        if item is None:
            _delete(cluster, made)
            raise started_again(run_id)
        made.append({"kind": manifest["kind"], **item})
    return made


def _others(cluster: Cluster, run_id: str) -> list[Object]:
    found = list_kinds(cluster, f"{Label.RUN}={run_id}", _KINDS)
    return [one for one in found if one["metadata"]["name"] != run_id or one["kind"] != "Job"]


def _is_half_made(item: Object) -> bool:
    """Whether no Job owns it: it was made before its run's Job, which may be on its way."""
    metadata = item["metadata"]
    return item["kind"] == "ConfigMap" and not metadata.get("ownerReferences")


def _delete_job(cluster: Cluster, run_id: str, job: Object) -> None:
    while True:
        metadata = job["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        if cluster.delete("Job", name, uid=uid, version=metadata["resourceVersion"]):
            return
        now = cluster.get("Job", name)
        if now is None:  # by us, where the answer was lost; else making it anew shows who is faster
            return
        if now["metadata"]["uid"] != uid or not run_has_ended(now):
            raise started_again(run_id)
        job = now  # its status was brought up to date


def _delete(cluster: Cluster, items: Sequence[Object]) -> None:
    for item in items:
        metadata = item["metadata"]
        cluster.delete(item["kind"], metadata["name"], uid=metadata["uid"])


def _marked(manifest: Object, token: str) -> Object:
    metadata = dict(manifest["metadata"])
    annotations = {**(metadata.get("annotations") or {}), str(Annotation.SUBMISSION): token}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _made(cluster: Cluster, manifest: Object, token: str) -> Object | None:
    """An object as it was made; None where somebody else has made it."""
    kind, name, end = manifest["kind"], manifest["metadata"]["name"], time.monotonic() + _GOING
    while True:
        try:
            return cluster.create(manifest)
        except Conflict:
            found = cluster.get(kind, name)
        if found is None:
            continue
        metadata = found["metadata"]
        if (metadata.get("annotations") or {}).get(Annotation.SUBMISSION) == token:
            return found  # by a try whose answer was lost
        if not metadata.get("deletionTimestamp"):
            return None
        if time.monotonic() > end:
            what = f"{kind} {name} of before is being deleted and does not go away"
            raise InputError(what, fix=f"`kubectl describe {kind.lower()} {name}` may say why")
        time.sleep(_POLL)
