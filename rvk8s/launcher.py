"""What the loop of drive.py asks of an engine: how stages are started, and its manners."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rvk8s import storage
from rvk8s.errors import HandedOver
from rvk8s.plan import Stage
from rvk8s.runs.record import StageRecord


class Running(Protocol):
    """Splits of a stage that were started.

    Attributes:
        gave_back: whether it ended (143) only to let others have the nodes that it held a part of.
        held: seconds for which it has had its nodes; 0 where that means nothing.
    """

    gave_back: bool

    @property
    def held(self) -> float: ...

    def poll(self) -> Mapping[int, int]:
        """The exit codes of the splits that have ended so far; does not wait."""
        ...

    def stop(self) -> None:
        """End all splits and wait until they are gone: on one machine 10 seconds at most, in a
        cluster as long as pods get for their end."""
        ...


class Launcher(Protocol):
    """Starts stages: as processes, as Jobs."""

    def start(self, stage: Stage, splits: Sequence[int], attempt: int = 1) -> Running:
        """Start some splits of a stage; the launcher decides how many run at once.

        Args:
            attempt: 1 for the first start of this stage in this run, then one more each time.
        """
        ...


class Saver(Protocol):
    """Stores JSON files."""

    def save(self, uri: str, value: Mapping[str, Any]) -> None:
        """Store a file now or soon; of several values of one file the last is stored."""
        ...

    def pending(self) -> bool:
        """Whether something is not stored yet.

        Raises:
            Rvk8sError: it cannot be stored.
        """
        ...


class DirectSaver:
    """Stores at once."""

    def save(self, uri: str, value: Mapping[str, Any]) -> None:
        storage.write_json(uri, value)

    def pending(self) -> bool:
        return False


@dataclass(frozen=True)
class Manners:
    """What the loop does otherwise in a cluster than on one machine, which has the defaults.

    Attributes:
        retries_splits: the stages whose splits the launcher starts again by itself: every exit code
            that it reports is final.
        disruptions: how often a stage that lost its node (143) is started again beside its retries,
            counted anew after it had its nodes for half an hour.
        give_backs: how often a stage that gave its nodes back is started again, beside both.
        keeps_deadlines: whether the launcher keeps the stages' deadlines.
        session: who drives; the next driver of the same session goes on with this one's record
            where the plan is the same.
        saver: stores run.json.
        begun: called once no other driver has the run: from then on its folder is written to.
        patience: seconds for which reading is tried again while storage does not answer.
        wait: sleeps so many seconds, less where something happened.
        leave: gives an error once this driver must not act any more.
        notice: brings the record of the running stage up to date; whether it changed.
        found: whether the launcher found that stage as an earlier driver of the session started it.
        why: a sentence for the exit code of a stage's split, where the launcher knows one.
    """

    retries_splits: frozenset[str] = frozenset()
    disruptions: int = 0
    give_backs: int = 0
    keeps_deadlines: bool = False
    session: str | None = None
    saver: Saver = field(default_factory=DirectSaver)
    begun: Callable[[], object] = lambda: None
    patience: float = 0.0
    wait: Callable[[float], object] = time.sleep
    leave: Callable[[], HandedOver | None] = lambda: None
    notice: Callable[[StageRecord], bool] = lambda record: False
    found: Callable[[str], bool] = lambda stage: False
    why: Callable[[str, int], str | None] = lambda stage, split: None
