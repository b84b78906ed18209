"""What a ResourceQuota says where it refuses a pod."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: As the API server's admission writes it; it names the resources of which there is too little.
_EXCEEDED = re.compile(r"exceeded quota: \S+, requested: (\S*), used: \S*, limited: (\S*)")


def is_exceeded(text: str) -> bool:
    """Whether a refusal is that of a quota."""
    return "exceeded quota" in text


def never_fits(text: str, beside: Iterable[Mapping[str, Any]] = ()) -> bool:
    """Whether something asks for more than a quota would allow it alone.

    Args:
        text: the refusal.
        beside: pods that do not end before it: the driver's own.
    """
    found = _EXCEEDED.search(text)
    if found is None:
        return False
    wanted, allowed = (_amounts(part) for part in found.groups())
    pods = list(beside)
    return any(
        amount + sum(_held(pod, name) for pod in pods) > allowed.get(name, float("inf"))
        for name, amount in wanted.items()
    )


def _amounts(text: str) -> dict[str, float]:
    """Of "requests.cpu=500m,pods=1": the numbers by name; without what is no quantity."""
    parts = (part.partition("=") for part in text.strip(",").split(","))
    found = {name: _number(value) for name, _, value in parts}
    return {name: number for name, number in found.items() if number is not None}


def _held(pod: Mapping[str, Any], name: str) -> float:
    """How much a pod has of what a quota counts under a name."""
    if name in ("pods", "count/pods"):
        return 1.0
    kind, _, resource = name.partition(".")
    if kind not in ("requests", "limits"):
        kind, resource = "requests", name
    resources = (one.get("resources") or {} for one in pod["spec"]["containers"])
    numbers = (_number(str((one.get(kind) or {}).get(resource, ""))) for one in resources)
    return sum(number or 0.0 for number in numbers)


def _number(text: str) -> float | None:
    """A Kubernetes quantity; None for what is none."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return float(parse_quantity(text))
    except ValueError:
        return None
