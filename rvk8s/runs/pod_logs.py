"""Prints what the pods of a run write, while they are there: `rvk8s logs` on a cluster."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import Forbidden
from rvk8s.cluster.log_lines import stamped
from rvk8s.cluster.pod_state import container_of, has_ended, has_started
from rvk8s.cluster.watch import Watcher
from rvk8s.contract import STAGES, Label
from rvk8s.errors import ClusterUnavailable, InputError, Rvk8sError
from rvk8s.runs import cluster_runs, display
from rvk8s.runs.cluster_runs import ClusterRun

#: What `rvk8s logs RUN driver` names beside the stages.
DRIVER = "driver"
#: Labels that number the pods of a Job and of a PyTorchJob.
_NUMBERS = ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index")
#: Seconds between two looks for new pods and new lines.
_TICK = 0.3
#: Seconds until a server that does not answer is asked again.
_PAUSE = 3.0
#: How often that is done for a pod that has ended: its node may be lost.
_TRIES = 4
#: Seconds without a line after which nothing more is expected of a run that has ended.
_QUIET = 20.0


@dataclass(frozen=True)
class Wanted:
    """Which logs: None stands for all.

    Attributes:
        stage: a stage's name, or DRIVER.
        split: of a split stage.
        node: of the training's nodes.
    """

    stage: str | None = None
    split: int | None = None
    node: int | None = None

    def has(self, pod: Object) -> bool:
        stage, number = stage_of(pod), number_of(pod)
        if stage is None or (stage == DRIVER) != (self.stage == DRIVER):
            return False
        if self.stage not in (None, stage):
            return False
        if self.node is not None and (stage != "train" or number != self.node):
            return False
        return self.split is None or (stage != "train" and number == self.split)


@dataclass(frozen=True)
class Part:
    """Which lines of each log, and how: by default all.

    Attributes:
        tail: only its last lines, so many.
        since: only those of the last seconds, so many.
        timestamps: the time before each line.
    """

    tail: int | None = None
    since: float | None = None
    timestamps: bool = False

    @property
    def needs_times(self) -> bool:
        """Whether it can be told of pods alone: stored logs have no times."""
        return self.timestamps or self.since is not None

    @property
    def may_be_nothing(self) -> bool:
        return self.since is not None or self.tail == 0

    def end_of(self, data: bytes) -> bytes:
        """The last lines of a text."""
        if self.tail is None:
            return data
        at = len(data) - data.endswith(b"\n")
        for _ in range(self.tail):
            at = data.rfind(b"\n", 0, at)
            if at < 0:
                return data
        return data[at + 1 :]


ALL = Part()


class Printer:
    """Prints lines; a head says whose they are when that changes, as tail(1) does."""

    def __init__(self) -> None:
        self._last: str | None = None
        self.lines = 0

    def put(self, title: str, line: bytes) -> None:
        if title != self._last:
            sys.stdout.write(f"==> {title} <==\n")
            self._last = title
        sys.stdout.write(line.decode(errors="replace") + "\n")
        self.lines += 1


def print_now(
    cluster: Cluster,
    pods: Iterable[Object],
    wanted: Wanted,
    printer: Printer,
    part: Part = ALL,
) -> None:
    """Print what pods have written so far; of one that cannot be read, as on a lost node, why."""
    for pod in sorted(filter(wanted.has, pods), key=_order):
        if has_started(pod):
            name, container = pod["metadata"]["name"], container_of(pod)
            try:
                lines = cluster.log_lines(
                    name,
                    container,
                    timestamps=part.timestamps,
                    tail=part.tail,
                    seconds=part.since,
                )
                for line in lines:
                    printer.put(_title(pod), line)
            except Forbidden:  # as of all others
                raise
            except Rvk8sError as error:
                printer.put(_title(pod), f"({error})".encode())
    sys.stdout.flush()


def before_last(pods: Iterable[Object]) -> list[Object]:
    """Of the pods that were tried one after the other, each time the one before the last."""
    tries: dict[tuple[str | None, int], list[Object]] = {}
    for pod in sorted(pods, key=_order):
        tries.setdefault((stage_of(pod), number_of(pod)), []).append(pod)
    return [same[-2] for same in tries.values() if len(same) > 1]


def follow(
    cluster: Cluster, run: ClusterRun, wanted: Wanted, printer: Printer, part: Part = ALL
) -> None:
    """Print what pods write until the run has ended.

    Pods that cannot be read then, as on a lost node, are waited for some seconds.

    Args:
        part: of what is there; what comes is printed whole.
    """
    labels = f"{Label.RUN}={run.run_id}"
    scheduled = Label.RUN not in run.driver["metadata"]["labels"]
    jobs = f"{cluster_runs.OURS},{Label.COMPONENT}=driver" if scheduled else labels
    if wanted.stage == DRIVER:  # the pod of a schedule's run lacks the label
        labels = f"batch.kubernetes.io/job-name={run.driver['metadata']['name']}"
    lines: queue.Queue[tuple[str, bytes]] = queue.Queue()
    readers: dict[str, threading.Thread] = {}
    quiet_since = time.monotonic()
    with Watcher(cluster, "Pod", labels) as pods, Watcher(cluster, "Job", jobs) as drivers:
        while True:
            # Asked before the pods, so that none that came before the end is missed.
            driver = drivers.objects().get(run.driver["metadata"]["name"])
            ended = driver is None or ClusterRun(run.run_id, driver).has_ended
            for pod in sorted(filter(wanted.has, pods.objects().values()), key=_order):
                uid = pod["metadata"]["uid"]
                if uid not in readers and has_started(pod):
                    args = (cluster, pod, lines, part)
                    reader = threading.Thread(
                        target=_read, args=args, name=_title(pod), daemon=True
                    )
                    readers[uid] = reader
                    reader.start()
            part = replace(part, tail=None, since=None)
            reading = [reader.name for reader in readers.values() if reader.is_alive()]
            for title, line in _taken(lines):
                printer.put(title, line)
                quiet_since = time.monotonic()
            sys.stdout.flush()
            if not ended:
                quiet_since = time.monotonic()
            elif not reading:
                return
            elif time.monotonic() - quiet_since > _QUIET:
                names = "; ".join(reading)
                display.say(f"the run has ended; nothing more can be read of {names}")
                return


def _read(
    cluster: Cluster, pod: Object, lines: queue.Queue[tuple[str, bytes]], part: Part = ALL
) -> None:
    """Put the lines of a pod's container into a queue until it has ended."""
    name, container, title = pod["metadata"]["name"], container_of(pod), _title(pod)
    last, tries, asked, answered = "", _TRIES, 0.0, False
    while True:
        fault, resumed = None, last
        try:
            try:
                first = _still(part, time.monotonic() - asked, answered) if asked else part
                asked = asked or time.monotonic()
                where = {"since": last} if last else {"tail": first.tail, "seconds": first.since}
                for raw in cluster.log_lines(
                    name, container, follow=True, timestamps=True, **where
                ):
                    stamp, line = stamped(raw)
                    # `since` counts whole seconds: what was seen of that second comes again.
                    if stamp > resumed or not stamp:
                        last = stamp or last
                        lines.put((title, raw if part.timestamps else line))
            except ClusterUnavailable as error:
                fault = error  # of a lost node's pods for ever: it may be gone meanwhile
            answered = answered or fault is None
            now = cluster.get("Pod", name)
        except ClusterUnavailable:
            time.sleep(_PAUSE)
            continue
        except Rvk8sError as error:
            lines.put((title, f"({error})".encode()))
            return
        if now is None or now["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        if has_ended(now):
            tries -= 1
            if fault is None or not tries:
                if fault is not None:
                    lines.put((title, f"({fault})".encode()))
                return
        time.sleep(_PAUSE if fault else _TICK)


def _still(part: Part, seconds: float, answered: bool) -> Part:
    """Which lines to ask for where none has come yet: those of `part`, and all since.

    Args:
        seconds: since it was asked for.
        answered: nothing was there then.
    """
    if part.tail == 0 or (part.tail is not None and answered):
        return replace(part, tail=None, since=seconds + 1)  # this request may be the faster one
    return part if part.since is None else replace(part, since=part.since + seconds)


def _taken(lines: queue.Queue[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    try:
        yield lines.get(timeout=_TICK)
        while True:
            yield lines.get_nowait()
    except queue.Empty:
        return


def check_stage(stage: str | None, *, on_cluster: bool) -> None:
    """Refuse what is not the name of something with a log."""
    known = (*STAGES, DRIVER) if on_cluster else STAGES
    if stage is not None and stage not in known:
        raise InputError(f"there is no stage {stage}", fix=f"there are {', '.join(known)}")


def stage_of(pod: Object) -> str | None:
    """The stage of a pod, or DRIVER."""
    labels = pod["metadata"]["labels"]
    if labels.get(Label.COMPONENT) == DRIVER:
        return DRIVER
    return str(labels[Label.STAGE]) if labels.get(Label.STAGE) in STAGES else None


def number_of(pod: Object) -> int:
    """Which split a pod is of, or which node of the training."""
    labels = pod["metadata"]["labels"]
    return next((int(labels[key]) for key in _NUMBERS if key in labels), 0)


def _order(pod: Object) -> tuple[int, int, str]:
    stage = stage_of(pod)
    position = STAGES.index(stage) if stage in STAGES else -1
    return position, number_of(pod), str(pod["metadata"]["creationTimestamp"])


def _title(pod: Object) -> str:
    stage = str(stage_of(pod))
    if stage == DRIVER:
        return stage
    return f"{stage}, {'node' if stage == 'train' else 'split'} {number_of(pod)}"
