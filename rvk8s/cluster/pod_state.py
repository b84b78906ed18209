"""What a pod says of itself, as the API server sends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from rvk8s.times import seconds_since

Object = Mapping[str, Any]
_T = TypeVar("_T", bound=Object)

#: Containers that run rvk8s-stage; the training operator wants the second name.
CONTAINERS = ("stage", "pytorch", "driver")


def container_of(pod: Object) -> str:
    """The name of the container that runs our program."""
    names = [container["name"] for container in pod.get("spec", {}).get("containers", ())]
    return next((name for name in names if name in CONTAINERS), names[0] if names else "stage")


def has_started(pod: Object) -> bool:
    """Whether our program's container has begun, and with it its log."""
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status.get("name") in CONTAINERS:
            state = status.get("state", {})
            return "running" in state or "terminated" in state
    return False


def is_running(pod: Object) -> bool:
    """Whether our program runs in a pod that nobody has told to end."""
    running = pod.get("status", {}).get("phase") == "Running" and has_started(pod)
    return running and not pod["metadata"].get("deletionTimestamp")


def has_ended(pod: Object) -> bool:
    """Whether a pod runs no more and never will."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def since_placed(pod: Object) -> float | None:
    """Seconds since a pod got its node; None without one."""
    placed = condition_of(pod, "PodScheduled")
    if placed is None or placed["status"] != "True":
        return None
    return age(placed.get("lastTransitionTime")) or 0.0


def terminated(pod: Object) -> Object | None:
    """How our program's container ended; None while it has not."""
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container.get("name") in CONTAINERS:
            ended: Object | None = container.get("state", {}).get("terminated")
            return ended
    return None


def condition_of(item: Object, kind: str) -> Object | None:
    """A condition, be it true or not; None where it is not said."""
    conditions = item.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), None)


def pods_of(item: Object, pods: Iterable[_T]) -> list[_T]:
    """The pods that an object owns."""
    uid = item["metadata"]["uid"]
    return [
        pod
        for pod in pods
        if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences") or ())
    ]


def age(time: str | None) -> float | None:
    """Seconds since a time; None for none."""
    return seconds_since(time) if time else None
