"""A stage that runs as a Job or PyTorchJob: which splits have ended and how, and how to end it."""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Protocol

from rvk8s import explain, pod_end
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.objects import events_of
from rvk8s.cluster.pod_state import (
    age,
    has_ended,
    has_started,
    is_running,
    pods_of,
    since_placed,
)
from rvk8s.cluster.queues import is_suspended, workloads
from rvk8s.cluster.watch import Watcher
from rvk8s.contract import Annotation, ExitCode, Label, is_retryable
from rvk8s.engines.log_collector import PodLogs, split_index
from rvk8s.engines.patience import Patience
from rvk8s.engines.stage_objects import annotation, condition, indexes, is_finished
from rvk8s.plan import Stage
from rvk8s.runs.record import code_text

log = logging.getLogger(__name__)

#: Seconds for which the other pods of a training that failed may still say why.
_SETTLE = 10.0
#: Seconds that the controller of a failed stage has to end its pods before it is deleted.
_TIDY = 10.0
#: Seconds that a pod, or what makes it, gets before events are asked for, and between two looks.
_EVENTS_AFTER, _EVENTS_EVERY = 5.0, 30.0
#: Seconds without a pod and without an event from which on nobody is taken to make them.
_MAKER_AFTER = 60.0
#: So many times as long as what cannot come right a fault gets that often passes: a registry that
#: does not answer is asked after 0, 10, 30, 70, 150, 310 s and then every five minutes.
_FAULTS = 6
#: Seconds between two looks at what a queue says.
_QUEUE_EVERY = 5.0
#: Conditions of what has ended, or will without anybody's doing.
_ENDS = ("Complete", "Succeeded", "Failed", "FailureTarget")
#: So often a split finds its node's disk full before it is taken to fill it itself.
_FULL_DISKS = 3


class StageHost(Protocol):
    """What the stages of a run have in common, as one of them uses it; see KubernetesLauncher."""

    cluster: Cluster
    patience: Patience
    pods: Watcher
    logs: PodLogs
    wait: Callable[[float], object]

    def watcher(self, kind: str) -> Watcher: ...

    def says(self, stage: str, split: int, message: str | None) -> None: ...


class StageRun:
    """The launcher.Running of the driver.

    Args:
        launcher: what is common to all stages of the run.
        stage: the stage; its `splits` is how many it has in all.
        splits: those that are asked for.
        main: the Job or PyTorchJob as it was made or found.

    Attributes:
        message: why it does not run; None where it does.
        gave_back: see launcher.Running.
        images: what its pods run, by digest.
        uid: of the Job or PyTorchJob.
    """

    def __init__(self, launcher: StageHost, stage: Stage, splits: Sequence[int], main: Object):
        self.stage, self.splits = stage, list(splits)
        self.message: str | None = None
        self.gave_back = False
        self.images: list[str] = []
        self._launcher, self._main = launcher, main
        self._kind, self._name = main["kind"], main["metadata"]["name"]
        self.uid: str = main["metadata"]["uid"]
        self._due, self._stopped = monotonic(), False  # since when it may have pods
        self._failing_since: float | None = None
        self._pods: dict[str, Object] = {}
        self._trouble_since: dict[str, float] = {}
        self._went_on = float("-inf")
        self._events: tuple[float, str, explain.Trouble | None] = (float("-inf"), "", None)
        self._queued: tuple[float, explain.Trouble | None] = (float("-inf"), None)
        #: Pods from before a queue took the place back, and the seconds that they had it.
        self._put_out: set[str] = set()
        self._had_place = 0.0

    def poll(self) -> Mapping[int, int]:
        """The exit codes of the splits that have ended; one that is not 0 is final.

        Raises:
            InputError: the server refuses to say it.
        """
        main = self._current()
        for pod in pods_of(self._main, self._launcher.pods.objects().values()):
            if self.stage.name != "train" or pod["metadata"]["uid"] not in self._put_out:
                self._pods[pod["metadata"]["uid"]] = pod
        self.images = explain.images(self._pods.values()) or self.images
        if main is None:
            return self._all(ExitCode.PREEMPTED, "was deleted by somebody")
        if is_suspended(main) and not condition(main, *_ENDS):
            self._wait_again()
        codes = self._together(main) if self.stage.name == "train" else self._by_split(main)
        if len(codes) == len(self.splits) or any(codes.values()):
            self.message = None
            return codes
        if self._is_late():
            self._end(tidy=False)
            return self._all(ExitCode.DEADLINE, None) | codes
        return self._with_trouble(main, codes)

    def stop(self) -> None:
        """End all pods and wait until they are gone: as long as pods get to end, and no longer."""
        self._end(tidy=any((said := pod_end.verdict(p)) and said.code for p in self._pods.values()))

    @property
    def held(self) -> float:
        """See launcher.Running; also what it had before a queue ended it."""
        pods = [pod for uid, pod in self._pods.items() if uid not in self._put_out]
        return self._had_place + _longest_placed(pods_of(self._main, pods))

    def spent(self) -> float:
        """Seconds of the deadline that are over: held, and what earlier attempts took."""
        return self.held + spent_on(self._main, [])

    def _wait_again(self) -> None:
        """It waits in a queue, which may have taken its place back: other pods will come."""
        pods = [pod for uid, pod in self._pods.items() if uid not in self._put_out]
        if not all(has_ended(pod) for pod in pods):  # else it had none when this driver came
            self._had_place += _longest_placed(pods)
        self._put_out |= set(self._pods)
        self._due = monotonic()
        if self.stage.name == "train":  # splits that have ended keep their verdicts
            self._pods.clear()
            self._failing_since = None

    def _by_split(self, main: Object) -> dict[int, int]:
        """Of a Job that starts its splits again by itself."""
        status = main.get("status", {})
        completed = indexes(status.get("completedIndexes"))
        codes = {split: 0 for split in self.splits if split in completed}
        verdicts: dict[int, pod_end.Verdict] = {}
        full: Counter[int] = Counter()
        for pod in sorted(self._pods.values(), key=_created):
            if said := pod_end.verdict(pod):
                split = split_index(pod)
                full[split] += pod_end.disk_was_full(pod)
                if pod_end.disk_was_full(pod) and full[split] >= _FULL_DISKS:
                    said = said.as_full_disk()  # the Job would try it again without an end
                verdicts[split] = said
        for split, said in verdicts.items():
            if said.code == 0:
                codes.setdefault(split, 0)
            elif not is_retryable(said.code) and split not in codes:
                codes[split] = said.code
                self._launcher.says(self.stage.name, split, said.message)
        if condition(main, "Complete"):
            return dict.fromkeys(self.splits, 0)
        failed = condition(main, "Failed", "FailureTarget")
        if failed and not any(codes.values()):
            gone = indexes(status.get("failedIndexes")) or set(self.splits) - set(codes)
            # Splits that were only ended because of another one are not among the failed ones.
            split = min(gone & set(verdicts) or gone)
            said = verdicts.get(split) or pod_end.Verdict(ExitCode.FAILED)
            codes[split] = said.code or ExitCode.FAILED
            text = said.message if said.message or said.code > 1 else str(failed.get("message"))
            self._launcher.says(self.stage.name, split, text)
        return codes

    def _together(self, main: Object) -> dict[int, int]:
        """Of a training, whose nodes succeed and fail together."""
        if condition(main, "Succeeded", "Complete"):
            return {0: 0}
        # A Job has Failed only once its last pod has ended: one whose node hangs never does.
        failed = condition(main, "Failed", "FailureTarget")
        if failed is None and is_suspended(main):
            return {}
        ended = [pod for pod in self._pods.values() if has_ended(pod)]
        cause = pod_end.first_cause(list(self._pods.values()) if failed else ended)
        if failed is None and cause is None:
            well = [pod for pod in ended if (said := pod_end.verdict(pod)) and said.code == 0]
            return {0: 0} if len(well) >= max(self.stage.nodes, 1) else {}
        if self._failing_since is None:
            self._failing_since = monotonic()
        final = cause is not None and not is_retryable(cause[1].code)
        if self._running() and not final and monotonic() - self._failing_since < _SETTLE:
            return {}
        self._end(tidy=True)
        if cause is None:
            text = f"{(failed or {}).get('reason')}: {(failed or {}).get('message')}"
            return self._all(ExitCode.RETRYABLE, text)
        return self._all(cause[1].code, cause[1].message)

    def _with_trouble(self, main: Object, codes: dict[int, int]) -> dict[int, int]:
        """Say why it does not run, and end it where that has lasted too long."""
        trouble, before = self._trouble(main, codes), self.message
        self.message = trouble.text if trouble else None
        if trouble is None:
            self._trouble_since.clear()
            return codes
        if trouble.text != before:
            log.warning("stage %s: %s", self.stage.name, trouble.text)
        if trouble.waits and (held := self._holds_in_vain(main)):
            text = f"{held} while the others found none: {trouble.text}"
            self._end(tidy=False)
            self.gave_back = True
            return self._all(ExitCode.PREEMPTED, text)
        if self._goes_on(main):  # other splits: what they do is not thrown away
            self._went_on = monotonic()
            self._trouble_since.clear()
            return codes
        key = "waits" if trouble.waits else "fails"
        if trouble.waits:  # what failed before has come right
            self._trouble_since.pop("fails", None)
        since = self._trouble_since.setdefault(key, monotonic())
        lasted = max(monotonic() - since, age(trouble.since) or 0.0)
        lasted = min(lasted, monotonic() - self._went_on)
        patience = self._launcher.patience
        limit = patience.start * (_FAULTS if trouble.may_pass else 1)
        if lasted < (patience.pending if trouble.waits else limit):
            return codes
        self._end(tidy=False)
        code = ExitCode.DEADLINE if trouble.waits else ExitCode.BAD_INPUT
        return self._all(code, trouble.text) | codes

    def _goes_on(self, main: Object) -> bool:
        """Whether some splits run while others do not; a training does not go on with a part."""
        pods = pods_of(main, self._launcher.pods.objects().values())
        return self.stage.name != "train" and any(is_running(pod) for pod in pods)

    def _holds_in_vain(self, main: Object) -> str | None:
        """What a training gives back that has a part of its nodes and has waited for the rest.

        Two trainings that each hold what the other lacks would wait for ever; one that lets go lets
        the other begin. How long each waits is spread by half, so that not both let go.
        """
        nodes, objects = self.stage.nodes, self._launcher.pods.objects().values()
        placed = [t for pod in pods_of(main, objects) if (t := since_placed(pod)) is not None]
        if self.stage.name != "train" or not 0 < len(placed) < nodes:
            return None
        spread = 1 + zlib.crc32(self.uid.encode()) / 2**33
        if min(placed) < self._launcher.patience.partial * spread:
            return None
        return f"gave {len(placed)} of its {nodes} nodes back after {min(placed):.0f} s"

    def _trouble(self, main: Object, codes: Mapping[int, int]) -> explain.Trouble | None:
        if is_suspended(main):
            return self._queue_trouble(main)
        present = pods_of(main, self._launcher.pods.objects().values())
        found = [one for pod in present if (one := explain.pod_trouble(pod))]
        if found:  # what will not come right by itself says more
            return min(found, key=lambda one: (one.waits, one.may_pass))
        if monotonic() - self._due < _EVENTS_AFTER:
            return None
        if self._lacks_pods(present, codes):
            none = self._event_trouble(self.uid) or self._without_maker()
            return none or self._tried_again(codes)
        for pod in present:
            if not has_started(pod) and not has_ended(pod):
                return self._event_trouble(pod["metadata"]["uid"])
        return None

    def _lacks_pods(self, present: Sequence[Object], codes: Mapping[int, int]) -> bool:
        """Whether a pod is still to be made: the first of a split, or one that replaces it."""
        if self.stage.name == "train":
            return len(self._pods) < self.stage.nodes
        there = {split_index(pod) for pod in present if not has_ended(pod)}
        return any(split not in there and split not in codes for split in self.splits)

    def _without_maker(self) -> explain.Trouble | None:
        """Whether it has had no pod at all since it may have some, and no event says why."""
        if self._pods.keys() - self._put_out or monotonic() - self._due < _MAKER_AFTER:
            return None
        return explain.without_maker(self._kind)

    def _tried_again(self, codes: Mapping[int, int]) -> explain.Trouble | None:
        """A split that failed and that its Job starts again, after a pause that grows each time."""
        last = {split_index(pod): pod for pod in sorted(self._pods.values(), key=_created)}
        for split, pod in last.items():
            said = pod_end.verdict(pod)
            if said and said.code and split not in codes and self.stage.name != "train":
                why = said.message or code_text(said.code)
                return explain.Trouble(f"split {split}: {why}; its Job starts it again", waits=True)
        return None

    def _queue_trouble(self, main: Object) -> explain.Trouble | None:
        looked, trouble = self._queued
        if monotonic() - looked > _QUEUE_EVERY:
            trouble = explain.suspended(main, workloads(self._launcher.cluster, main))
            self._queued = (monotonic(), trouble)
        return trouble

    def _event_trouble(self, uid: str) -> explain.Trouble | None:
        looked, of, trouble = self._events
        if of != uid or monotonic() - looked > _EVENTS_EVERY:
            events = events_of(self._launcher.cluster, uid)
            pods = self._launcher.pods.objects().values()
            drivers = [pod for pod in pods if Label.STAGE not in pod["metadata"]["labels"]]
            trouble = explain.event_trouble(events, drivers)
            self._events = (monotonic(), uid, trouble)
        return trouble

    def _is_late(self) -> bool:
        limit = self.stage.deadline_seconds
        return limit is not None and self.spent() > limit

    def _all(self, code: int, message: str | None) -> dict[int, int]:
        for split in self.splits:
            self._launcher.says(self.stage.name, split, message)
        return dict.fromkeys(self.splits, int(code))

    def _current(self) -> Object | None:
        """The stage's object as it is now; None where somebody deleted it."""
        found = self._launcher.watcher(self._kind).objects().get(self._name)
        if found is not None and found["metadata"]["uid"] == self.uid:
            self._main = {"kind": self._kind, **found}
            return self._main
        # A list that was on its way when the object was made does not have it.
        found = self._launcher.cluster.get(self._kind, self._name)
        if found is None or found["metadata"]["uid"] != self.uid:
            return None
        self._main = found
        return found

    def _end(self, tidy: bool) -> None:
        """Delete what still runs.

        Args:
            tidy: its controller ends it by itself and gets some seconds for it: what is not
                deleted can still be looked at.
        """
        if self._stopped:
            return
        launcher, end = self._launcher, monotonic() + _TIDY
        while tidy and self._running() and monotonic() < end:
            launcher.logs.look()
            launcher.wait(0.5)
        if self._running() or not (tidy or is_finished(self._main)):
            launcher.cluster.delete(self._kind, self._name, uid=self.uid)
            let_end(launcher, self._running)
        self._stopped = True

    def _running(self) -> list[Object]:
        pods = pods_of(self._main, self._launcher.pods.objects().values())
        return [pod for pod in pods if not has_ended(pod)]


def let_end(host: StageHost, running: Callable[[], Sequence[Object]]) -> None:
    """Wait until pods that were told to end have done so: as long as they get for it, no longer."""
    end = monotonic() + host.patience.stop
    # A node that does not answer ends nothing; before the next attempt it is waited for.
    while any(not explain.overdue(pod) for pod in running()) and monotonic() < end:
        host.logs.look()
        host.wait(0.5)


def spent_on(item: Object, pods: Iterable[Object]) -> float:
    """Seconds since the first pod of a stage got its node, and what earlier attempts took.

    Time in a queue does not count.
    """
    return float(annotation(item, Annotation.SPENT, "0")) + _longest_placed(pods_of(item, pods))


def _longest_placed(pods: Iterable[Object]) -> float:
    times = (since_placed(pod) for pod in pods)
    return max((seconds for seconds in times if seconds is not None), default=0.0)


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")
