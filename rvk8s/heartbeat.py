"""Whose a run's folder is: two drivers do not write to one.

A Lease keeps the drivers of a namespace apart. Those of two namespaces or clusters meet in the
folder alone, where each says in run.json who it is and, every ten seconds, that it lives. How long
ago that was is told by the storage's clock: a laptop's may be wrong, and a model be lost for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rvk8s import storage
from rvk8s.contract import DRIVER, RunLayout, State, split_of
from rvk8s.errors import InputError
from rvk8s.record_form import check_form

log = logging.getLogger(__name__)

#: Seconds after which whoever has not renewed its heartbeat, written every ten, is gone.
LOST_AFTER = 60.0
#: Seconds between two looks at the heartbeat of another driver.
_LOOK = 2.0
_FIX = "wait for it or cancel it there; a run of its own needs another run.id or rootUri"


class OtherDriver(InputError):
    """A driver of another namespace, cluster or machine has the run: nothing of it is ours."""


@dataclass(frozen=True)
class Beat:
    """The last that a driver said of itself.

    Attributes:
        at: when, UTC, by its own clock: good only for telling one from another.
        who: its pod and namespace.
        seconds: how long ago it was, by the storage's clock.
    """

    at: str
    who: str
    seconds: float


def lives(uri: str) -> bool:
    """Whether a heartbeat was written lately, by the clock of the storage that keeps it."""
    seconds = storage.age(uri)
    return seconds is not None and seconds < LOST_AFTER


def other_driver(layout: RunLayout, session: str | None) -> Beat | None:
    """The driver of another session that has the run; None where there is none that lives.

    Args:
        session: ours, as run.json names it; None for nobody's.

    Raises:
        StorageUnavailable, InputError: it cannot be read.
    """
    record = _running(layout)
    if record is None or record.get("driver") in (None, session):
        return None
    uri = layout.heartbeat(DRIVER)
    beat, seconds = storage.read_json(uri), storage.age(uri)
    if not beat or beat.get("left") or seconds is None or seconds >= LOST_AFTER:
        return None
    where = f" in namespace {beat['namespace']}" if beat.get("namespace") else ""
    return Beat(str(beat.get("at")), f"{beat.get('host')}{where}", seconds)


def local_process(layout: RunLayout) -> str | None:
    """The machine on which `rvk8s run` works on a run; None where none does, or it was killed.

    Raises:
        StorageUnavailable, InputError: it cannot be read.
    """
    record = _running(layout)
    if record is None or record.get("driver") is not None:
        return None
    check_form(record, layout.run_json)
    for stage in record["stages"]:
        if stage["state"] == State.RUNNING:
            for index in range(stage["splits"]):
                uri = layout.heartbeat(stage["name"], split_of(stage["splits"], index))
                if lives(uri):
                    return str((storage.read_json(uri) or {}).get("host") or "another machine")
    return None


def wait_until_free(look: Callable[[], Beat | None], sleep: Callable[[float], object]) -> None:
    """Wait until the driver that had the run, and may have been killed, is taken to be gone.

    Args:
        look: as other_driver().

    Raises:
        OtherDriver: it lives.
    """
    first = other = look()
    end = time.monotonic() + LOST_AFTER
    while first and other and time.monotonic() < end:
        if other.at != first.at:
            raise OtherDriver(f"another driver, {other.who}, has this run", fix=_FIX)
        if other is first:
            log.info(
                "%s had this run %.0f s ago; waiting whether it is gone", first.who, first.seconds
            )
        sleep(_LOOK)
        other = look()


def check_is_ours(layout: RunLayout, session: str | None) -> None:
    """See that no other driver began the run in the same moment; the last that did has it.

    Raises:
        OtherDriver: another one has it.
        StorageUnavailable, InputError: it cannot be read.
    """
    record = _running(layout)
    if record is not None and record.get("driver") != session:
        what = "another driver, of another namespace or cluster, began this run, too"
        raise OtherDriver(what, fix=_FIX)


def _running(layout: RunLayout) -> dict[str, Any] | None:
    """What run.json says of a run that goes on; whatever else it holds is not looked at here."""
    value = storage.read_json(layout.run_json)
    return value if value and value.get("state") == State.RUNNING else None
