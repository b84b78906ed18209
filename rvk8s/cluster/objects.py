"""Several objects at once: named as kubectl names them, found and deleted by a selector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import NoSuchKind

log = logging.getLogger(__name__)


def object_name(manifest: Object) -> str:
    """`job.batch/x`: kind, group and name as kubectl's -o name writes them."""
    group = manifest["apiVersion"].rpartition("/")[0]
    kind = manifest["kind"].lower() + (f".{group}" if group else "")
    return f"{kind}/{manifest['metadata']['name']}"


def delete_all(cluster: Cluster, selector: str, kinds: Sequence[str]) -> list[str]:
    """Delete all objects of some kinds that a selector picks.

    Returns:
        The objects as kubectl's -o name writes them.
    """
    deleted = []
    for item in list(list_kinds(cluster, selector, kinds)):
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
