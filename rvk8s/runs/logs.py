"""Prints the logs of a run's stages: `rvk8s logs`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rvk8s import storage
from rvk8s.cluster import Object
from rvk8s.cluster.conditions import ENDED
from rvk8s.cluster.pod_state import has_started
from rvk8s.contract import ATTEMPT, DRIVER, LEFT_OUT_PATTERN, STAGES, RunLayout, State
from rvk8s.errors import InputError
from rvk8s.runs import display, pod_logs
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places
from rvk8s.runs.pod_logs import ALL, Part, Printer, Wanted, check_stage
from rvk8s.runs.status import RunStatus, find_run, stored_state

#: Seconds between two looks at the logs with follow; on S3 they grow every ten seconds.
_INTERVAL, _REMOTE_INTERVAL = 0.5, 5.0

#: Bytes of what was printed last by which its place is found again.
_END = 4096
_GAP = re.compile(rb"^" + LEFT_OUT_PATTERN + rb"$", re.MULTILINE)


class _Printed(NamedTuple):
    """What was printed of a log: how many bytes, and their end."""

    size: int
    end: bytes


@dataclass(frozen=True)
class _Log:
    """The log of a stage, of one of its splits or of a node of the training."""

    stage: str
    split: int | None
    node: int
    uri: str

    @property
    def title(self) -> str:
        name = self.stage
        name += f", node {self.node}" if self.node else ""
        return name if self.split is None else f"{name}, split {self.split}"

    @property
    def number(self) -> int:
        """As that of a pod: of the split, or of the node."""
        return self.node if self.stage == "train" else self.split or 0


def print_run_logs(
    places: Places,
    run: str,
    *,
    stage: str | None = None,
    split: int | None = None,
    rank: int | None = None,
    follow: bool = False,
    previous: bool = False,
    part: Part = ALL,
) -> None:
    """Print what the stages of a run wrote: from its pods while they are there, else from storage.

    Args:
        run: a run's id, or the beginning of one and only one.
        stage: only this stage; or "driver".
        split: only this split.
        rank: of the training, only the node that has this rank: its ranks share a log.
        follow: go on with what they write until the run has ended.
        previous: of each log, what the attempt before its last one wrote.
        part: of each log, which lines.

    Raises:
        InputError: no such run, stage, split or rank; nothing has been written yet, or its times
            are asked for and nobody knows them any more.
    """
    found, there = places.find(run)
    check_stage(stage, on_cluster=found.record.engine == "kubernetes")
    node = None if rank is None else _node(found, rank, stage)
    stage = "train" if node is not None else stage
    root = found.uri.rpartition("/")[0]
    wanted, printer = Wanted(stage, split, node), Printer()
    if previous:
        _print_previous(places, found, there, wanted, printer, part)
        return
    if there is None or places.cluster is None:
        if part.needs_times:
            raise _no_times(part)
        print_logs(root, found.run_id, stage, split, follow=follow, node=node, tail=part.tail)
        return
    for note in places.notes():
        display.say(note)
    if follow and not there.has_ended:
        pod_logs.follow(places.cluster, there, wanted, printer, part)
    elif not _print_stored_or_live(places, found, there, wanted, printer, part):
        fix = "`rvk8s status` shows which stages have run"
        raise InputError(f"nothing is written yet{_by(stage, split)}", fix=fix)


def _print_stored_or_live(
    places: Places,
    found: RunStatus,
    there: ClusterRun,
    wanted: Wanted,
    printer: Printer,
    part: Part,
) -> bool:
    """Stage by stage: the stored log of one that has ended has all its attempts, but no times.

    Of a split or node that has no pod any more, there is its stored log.

    Returns:
        Whether anything was there to be printed.

    Raises:
        InputError: nothing that was there has times, which are asked for.
    """
    assert places.cluster is not None
    layout, root = RunLayout(found.uri), found.uri.rpartition("/")[0]
    asked = (wanted.stage, wanted.split, wanted.node)
    stored = places.stored(root, lambda: list(_logs(layout, *asked))) or []
    printed: dict[str, _Printed] = {}
    last: str | None = None
    without: list[_Log] = []
    started = [pod for pod in there.pods if wanted.has(pod) and has_started(pod)]
    for name in (pod_logs.DRIVER, *STAGES):
        record = found.record.stage(name) if name in STAGES else None
        logs = [log for log in stored if log.stage == name]
        pods = [pod for pod in started if pod_logs.stage_of(pod) == name]
        ended = record.state in ENDED if record else there.has_ended
        if part.needs_times or not logs or not ended:
            pod_logs.print_now(places.cluster, pods, wanted, printer, part)
            numbers = set(map(pod_logs.number_of, pods))
            logs = [log for log in logs if log.number not in numbers]
        if part.needs_times:
            without += [log for log in logs if storage.exists(log.uri)]
        else:
            for log in sorted(logs, key=_order):
                last = _print_rest(log, printed, last, part.tail)
    if without and not started:
        raise _no_times(part)
    if without:
        names = "; ".join(log.title for log in sorted(without, key=_order))
        display.say(f"left out, because it is stored without times: {names}")
    return bool(printed or printer.lines or (started and part.may_be_nothing))


def _no_times(part: Part) -> InputError:
    option = "--since" if part.since is not None else "--timestamps"
    fix = "leave it out; --tail N shows the last lines"
    return InputError("logs are stored without the times of their lines", where=option, fix=fix)


def _print_previous(
    places: Places,
    found: RunStatus,
    there: ClusterRun | None,
    wanted: Wanted,
    printer: Printer,
    part: Part,
) -> None:
    """From storage, which has all attempts, else from the pods that are left of them."""
    layout, root = RunLayout(found.uri), found.uri.rpartition("/")[0]
    asked = (wanted.stage, wanted.split, wanted.node)
    stored = places.stored(root, lambda: list(_logs(layout, *asked))) or []
    without_times = False
    for log in sorted(stored, key=_order):
        _, *attempts = ATTEMPT.split(_read(log))
        if len(attempts) > 1 and part.needs_times:
            without_times = True
        elif len(attempts) > 1:
            for line in part.end_of(attempts[-2]).splitlines():
                printer.put(log.title, line)
    for note in places.notes():  # else "nothing" would be said of what cannot be seen from here
        display.say(note)
    pods: list[Object] = []
    if not printer.lines and there is not None and places.cluster is not None:
        pods = pod_logs.before_last(filter(wanted.has, there.pods))
        pod_logs.print_now(places.cluster, pods, wanted, printer, part)
    if printer.lines or (pods and part.may_be_nothing):
        return
    if without_times:
        raise _no_times(part)
    what = f"nothing was tried more than once{_by(wanted.stage, wanted.split)}"
    raise InputError(what, fix="leave --previous out")


def _node(found: RunStatus, rank: int, named: str | None) -> int:
    """The node of the training that has a rank."""
    if named not in (None, "train"):
        raise InputError(f"{named} has no ranks", where="--rank", fix="leave it out, or name train")
    stage = found.record.plan.stage("train")
    if rank >= stage.ranks:
        raise InputError(f"there are {stage.ranks} ranks", where="--rank", fix="they count from 0")
    each = max(stage.ranks // stage.nodes, 1)
    if each > 1:
        first = rank - rank % each
        note = (
            f"ranks {first} to {first + each - 1} share this log; lines of all but rank 0 name it"
        )
        display.say(note)
    # torch numbers nodes in the order of their names: 10 comes before 2.
    return sorted(range(stage.nodes), key=str)[rank // each]


def print_logs(
    root_uri: str,
    run: str,
    stage: str | None = None,
    split: int | None = None,
    follow: bool = False,
    node: int | None = None,
    tail: int | None = None,
) -> None:
    """Print what the stages of a run wrote, stage by stage.

    Args:
        run: a run's id, or the beginning of one and only one.
        stage: only this stage; or "driver", where the run has one.
        split: only this split.
        follow: go on with what they write until the run has ended.
        node: only this node of the training.
        tail: only the last lines, so many, of what is there; what comes is printed whole.

    Raises:
        InputError: no such run, stage or split; nothing has been written yet.
    """
    layout = RunLayout(f"{root_uri}/{find_run(root_uri, run)}")
    check_stage(stage, on_cluster=storage.exists(layout.stage_dir(DRIVER)))
    printed: dict[str, _Printed] = {}
    last: str | None = None
    interval = _REMOTE_INTERVAL if storage.is_s3(root_uri) else _INTERVAL
    while True:
        # Asked before the logs are read, so that nothing that was written before is missed.
        over = not follow or _has_ended(layout)
        for log in sorted(_logs(layout, stage, split, node), key=_order):
            last = _print_rest(log, printed, last, tail)
        if over:
            break
        tail = None
        time.sleep(interval)
    if not printed:
        fix = "`rvk8s status` shows which stages have run"
        raise InputError(f"nothing is written yet{_by(stage, split)}", fix=fix)


def _order(log: _Log) -> tuple[int, int, int]:
    return (*STAGES, DRIVER).index(log.stage), log.split or 0, log.node


def _by(stage: str | None, split: int | None) -> str:
    words = [f"stage {stage}" if stage else "", f"split {split}" if split is not None else ""]
    return "".join([" by " if any(words) else "", " ".join(filter(None, words))])


def _logs(
    layout: RunLayout, stage: str | None, split: int | None, node: int | None = None
) -> Iterator[_Log]:
    for folder in storage.list_dirs(layout.at(".rvk8s")):
        name, _, number = folder.rpartition("-")
        found = (name, int(number)) if name and number.isdecimal() else (folder, None)
        if found[0] not in STAGES if stage is None else found[0] != stage:
            continue
        if split is not None and split != (found[1] or 0):
            continue
        for one in _nodes(layout, found[0]):
            if node in (None, one):
                yield _Log(found[0], found[1], one, layout.log(found[0], found[1], one))


def _nodes(layout: RunLayout, stage: str) -> list[int]:
    """The nodes of a stage that have a log; the first one's may still be to come."""
    if stage != "train":
        return [0]
    names = storage.list_files(layout.stage_dir(stage))
    found = (re.fullmatch(r"log-node(\d+)\.txt", name) for name in names)
    return [0, *sorted(int(match[1]) for match in found if match)]


def _print_rest(
    log: _Log, printed: dict[str, _Printed], last: str | None, tail: int | None = None
) -> str | None:
    """Print what a log has gained since it was last printed; a line says whose it is.

    Args:
        tail: only the last lines of it, so many.

    Returns:
        The log that was printed last.
    """
    data = _read(log)
    done = _done(data, printed.get(log.uri, _Printed(0, b"")))
    if len(data) <= done:
        return last
    printed[log.uri] = _Printed(len(data), data[-_END:])
    data = Part(tail).end_of(data[done:])
    if not data:
        return last
    if last != log.uri:
        sys.stdout.write(f"==> {log.title} <==\n")
    sys.stdout.write(data.decode(errors="replace"))
    sys.stdout.flush()
    return log.uri


def _done(data: bytes, before: _Printed) -> int:
    """How many bytes of a log are printed.

    A log that gets long loses what is neither its head nor its end: it goes on where what was
    printed last stands now, or with the line that says how much is left out.
    """
    if data.endswith(before.end, 0, before.size):
        return before.size
    at = data.rfind(before.end)
    if at >= 0:
        return at + len(before.end)
    gap = _GAP.search(data)
    return gap.start() if gap and gap.start() <= before.size else 0


def _read(log: _Log) -> bytes:
    """What a log has so far; its stage may have begun before its first line is stored."""
    try:
        return storage.read_bytes(log.uri)
    except FileNotFoundError:
        return b""


def _has_ended(layout: RunLayout) -> bool:
    """Whether no more can come. A run that was killed says Running for ever; it is lost."""
    return stored_state(layout.run_uri) not in (State.PENDING, State.RUNNING)
