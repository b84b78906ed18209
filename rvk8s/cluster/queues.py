"""What a queue of Kueue says about a Job or PyTorchJob that it holds back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rvk8s.cluster import Cluster, Object
from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: On what waits in a queue: the LocalQueue's name.
QUEUE = "kueue.x-k8s.io/queue-name"
#: On a Workload: the uid of the Job or PyTorchJob that it stands for.
_JOB = "kueue.x-k8s.io/job-uid"


def queue_of(item: Mapping[str, Any]) -> str:
    """The LocalQueue that an object waits in; empty for none."""
    return str((item["metadata"].get("labels") or {}).get(QUEUE, ""))


def is_suspended(item: Mapping[str, Any]) -> bool:
    """Whether a Job or PyTorchJob must have no pods for now."""
    spec = item.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))


def workloads(cluster: Cluster, item: Object) -> list[Object]:
    """Kueue's Workload of a Job or PyTorchJob; none where there is none, or it may not be read."""
    if not queue_of(item):
        return []
    try:
        labels = f"{_JOB}={item['metadata']['uid']}"
        return cluster.list_all("Workload", labels, forgiving=False)
    except InputError as error:  # a role from before there was a queue, another Kueue
        log.debug("no Workloads: %s", error)
        return []
