"""Whether a stage that failed is started again: for a lost node, for nodes given back, or a fault.

Each of the three is counted by itself in the stage's record.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rvk8s.contract import ExitCode
from rvk8s.launcher import Manners, Running
from rvk8s.plan import Stage
from rvk8s.runs.record import StageRecord

#: Seconds before the first retry, doubled before each further one up to the second number.
_BACKOFF, _LONGEST_BACKOFF = 5.0, 300.0
#: Seconds with its nodes after which a stage that loses one has got on: it is no endless circle.
_LONG = 1800.0


@dataclass(frozen=True)
class Retry:
    """That a stage is started again.

    Attributes:
        pause: seconds until then.
        tries: which of how many it is.
    """

    pause: float
    tries: str

    def __str__(self) -> str:
        return f"trying again in {self.pause:.0f} s ({self.tries})"


def next_try(
    stage: Stage, record: StageRecord, codes: Collection[int], running: Running, manners: Manners
) -> Retry | None:
    """How a stage that failed is started again, counted in its record; None where it is not.

    Args:
        codes: those of its splits that failed; all may be tried again.
        running: what failed.
    """
    record.losses = 0 if running.held >= _LONG else record.losses
    if running.gave_back and record.given_back < manners.give_backs:
        record.given_back += 1
        return Retry(_BACKOFF, f"{record.given_back} of {manners.give_backs}")
    if set(codes) == {ExitCode.PREEMPTED} and record.losses < manners.disruptions:
        record.disruptions += 1
        record.losses += 1
        return Retry(_BACKOFF, f"{record.losses} of {manners.disruptions}")
    own = stage.name in manners.retries_splits
    if not own and record.attempts <= (stage.retries or 0):
        pause = min(_BACKOFF * 2 ** (record.attempts - 1), _LONGEST_BACKOFF)
        record.attempts += 1
        return Retry(pause, f"{record.attempts - 1} of {stage.retries}")
    return None
