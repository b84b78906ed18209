"""What a ResourceQuota says where it refuses a pod."""

from __future__ import annotations

import re

#: As the API server's admission writes it; it names the resources of which there is too little.
_EXCEEDED = re.compile(r"exceeded quota: \S+, requested: (\S*), used: \S*, limited: (\S*)")
_QUANTITY = re.compile(r"([+-]?[\d.]+(?:[eE][+-]?\d+)?)([a-zA-Z]*)")
_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_UNITS |= {unit: 1e3**power for power, unit in enumerate("MGTPE", 2)}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)}


def is_exceeded(text: str) -> bool:
    """Whether a refusal is that of a quota."""
    return "exceeded quota" in text


def never_fits(text: str) -> bool:
    """Whether something asks for more than a quota would allow it alone."""
    found = _EXCEEDED.search(text)
    if found is None:
        return False
    wanted, allowed = (_amounts(part) for part in found.groups())
    return any(amount > allowed.get(name, amount) for name, amount in wanted.items())


def _amounts(text: str) -> dict[str, float]:
    """Of "requests.cpu=500m,pods=1": the numbers by name; without what is no quantity."""
    found = {}
    for part in text.strip(",").split(","):
        name, _, value = part.partition("=")
        match = _QUANTITY.fullmatch(value)
        if match and match[2] in _UNITS:
            found[name] = float(match[1]) * _UNITS[match[2]]
    return found
