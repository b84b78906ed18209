"""How long a driver waits for what may come right by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long what may come right by itself is waited for, in seconds.

    Attributes:
        start: pods that cannot start: an image that is not there, a missing Secret, a quota that
            never allows as much; six times as long where it may be a fault that passes, such as a
            registry that does not answer; not while other splits of the stage run.
        pending: a place on a node, in a queue or in a quota, and a node that does not answer.
        partial: a place for the rest of a training's pods, while some hold nodes already.
        stop: pods that were told to end.
    """

    start: float = 300.0
    pending: float = 86400.0
    partial: float = 600.0
    stop: float = 120.0
