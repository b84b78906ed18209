"""Prints the logs of a run's stages: `rvk8s logs`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rvk8s import storage
from rvk8s.contract import STAGES, RunLayout, State
from rvk8s.errors import InputError
from rvk8s.status import find_run, run_state

#: Seconds between two looks at the logs with follow; on S3 they grow every ten seconds.
_INTERVAL, _REMOTE_INTERVAL = 0.5, 5.0


@dataclass(frozen=True)
class _Log:
    """The log of a stage or of one of its splits."""

    position: int
    split: int | None
    uri: str

    @property
    def title(self) -> str:
        name = STAGES[self.position]
        return name if self.split is None else f"{name}, split {self.split}"


def print_logs(
    root_uri: str,
    run: str,
    stage: str | None = None,
    split: int | None = None,
    follow: bool = False,
) -> None:
    """Print what the stages of a run wrote, stage by stage.

    Args:
        run: a run's id, or the beginning of one and only one.
        stage: only this stage.
        split: only this split.
        follow: go on with what they write until the run has ended.

    Raises:
        InputError: no such run, stage or split; nothing has been written yet.
    """
    layout = RunLayout(f"{root_uri}/{find_run(root_uri, run)}")
    if stage is not None and stage not in STAGES:
        raise InputError(f"there is no stage {stage}", fix=f"there are {', '.join(STAGES)}")
    printed: dict[str, int] = {}
    last: str | None = None
    interval = _REMOTE_INTERVAL if storage.is_s3(root_uri) else _INTERVAL
    while True:
        # Asked before the logs are read, so that nothing that was written before is missed.
        over = not follow or _has_ended(layout)
        for log in sorted(_logs(layout, stage, split), key=lambda one: (one.position, one.uri)):
            last = _print_rest(log, printed, last)
        if over:
            break
        time.sleep(interval)
    if not printed:
        wanted = " ".join(["stage", stage or "", f"split {split}" if split is not None else ""])
        fix = "`rvk8s status` shows which stages have run"
        raise InputError(f"nothing is written yet by {wanted.strip()}", fix=fix)


def _logs(layout: RunLayout, stage: str | None, split: int | None) -> Iterator[_Log]:
    for folder in storage.list_dirs(layout.at(".rvk8s")):
        name, _, number = folder.rpartition("-")
        found = (name, int(number)) if name and number.isdecimal() else (folder, None)
        if found[0] not in STAGES or stage not in (None, found[0]):
            continue
        if split is None or split == (found[1] or 0):
            yield _Log(STAGES.index(found[0]), found[1], layout.log(*found))


def _print_rest(log: _Log, printed: dict[str, int], last: str | None) -> str | None:
    """Print what a log has gained since it was last printed; a line says whose it is.

    Returns:
        The log that was printed last.
    """
    try:
        data = storage.read_bytes(log.uri)
    except FileNotFoundError:
        return last
    done = printed.get(log.uri, 0)
    if log.uri in printed and len(data) <= done:
        return last
    printed[log.uri] = len(data)
    if last != log.uri:
        sys.stdout.write(f"==> {log.title} <==\n")
    sys.stdout.write(data[done:].decode(errors="replace"))
    sys.stdout.flush()
    return log.uri


def _has_ended(layout: RunLayout) -> bool:
    """Whether no more can come. A run that was killed says Running for ever; it is lost."""
    return run_state(layout.run_uri) not in (State.PENDING, State.RUNNING)
