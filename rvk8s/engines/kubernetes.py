"""Stages as Jobs and PyTorchJobs: makes them, or finds those that an earlier driver made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from time import monotonic

from rvk8s import explain
from rvk8s.cluster import Cluster, Object, quota
from rvk8s.cluster.api_server import NOTED_AFTER
from rvk8s.cluster.kinds import NoSuchKind
from rvk8s.cluster.pod_state import has_ended, pods_of
from rvk8s.cluster.watch import Watcher
from rvk8s.contract import Annotation, Label
from rvk8s.engines.image_digests import digests, pinned
from rvk8s.engines.log_collector import PodLogs
from rvk8s.engines.patience import Patience
from rvk8s.engines.stage_objects import (
    MAIN_KINDS,
    StageObjects,
    annotation,
    is_finished,
    spec_hash,
    stamped,
)
from rvk8s.engines.stage_run import StageRun, let_end, spent_on
from rvk8s.errors import Conflict, InputError, WaitedTooLong
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import StageRecord

log = logging.getLogger(__name__)

#: Seconds between two tries to make an object that a quota forbids.
_QUOTA_PAUSE = 10.0
#: Seconds between two looks whether something is gone, and where its node does not answer.
_LOOK, _LONG_LOOK = 1.0, 10.0


class KubernetesLauncher:
    """The launcher.Launcher of the driver. A context manager: it watches while its block lasts.

    Args:
        cluster: where.
        plan: the run.
        objects: what to make.
        owner: the driver's Job as an ownerReference.
        patience: see there.
        check: raises what ends the run, or this driver; asked while something is waited for.
        wait: sleeps so many seconds, less where something happened.
        changed: called from other threads when something happened.
        noted: told what is waited for before a stage has begun; None once it is over.
        away: why the API server does not answer; None where it does.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        objects: StageObjects,
        *,
        owner: Object,
        patience: Patience,
        check: Callable[[], None],
        wait: Callable[[float], object],
        changed: Callable[[], None],
        noted: Callable[[str | None], object] = lambda text: None,
        away: Callable[[], str | None] = lambda: None,
    ):
        self.cluster, self.plan, self.objects, self.owner = cluster, plan, objects, owner
        self.patience, self.check, self.wait = patience, check, wait
        self._changed, self._noted, self._away = changed, noted, away
        self._selector = f"{Label.RUN}={plan.run_id}"
        self.pods = self._watcher("Pod")
        self._watchers = {"Job": self._watcher("Job")}
        self._reasons: dict[tuple[str, int], str] = {}
        self._run: StageRun | None = None
        self._found: set[str] = set()
        self._digests: dict[str, str] = {}
        self._stack = ExitStack()
        self.logs = PodLogs(cluster, plan.layout, self.pods.objects)

    def __enter__(self) -> KubernetesLauncher:
        for one in (self.pods, self._watchers["Job"], self.logs):
            self._stack.enter_context(one)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def jobs(self) -> Mapping[str, Object]:
        """The run's Jobs, the driver's among them."""
        return self._watchers["Job"].objects()

    def watcher(self, kind: str) -> Watcher:
        """The objects of a kind; a kind that few stages need is watched from its first use on."""
        if kind not in self._watchers:
            self._watchers[kind] = self._stack.enter_context(self._watcher(kind))
        return self._watchers[kind]

    def start(self, stage: Stage, splits: Sequence[int], attempt: int = 1) -> StageRun:
        self._reasons = {key: text for key, text in self._reasons.items() if key[0] != stage.name}
        self._found.discard(stage.name)
        spent, main = 0.0, None
        for manifest in self.objects.of(stage):
            item = self._ensure(manifest, attempt, spent)
            if item["kind"] in MAIN_KINDS:
                main = item
                self.watcher(item["kind"]).put(item)
        assert main is not None, "StageObjects.of() has seen to it"
        self._run = StageRun(self, stage, splits, main)
        return self._run

    def notice(self, record: StageRecord) -> bool:
        """Bring the record of the running stage up to date; whether it changed."""
        self.logs.look()
        if self._run is None or self._run.stage.name != record.name:
            return False
        # Where nothing is heard of the pods, what was heard last may be over.
        message = self._waits_for() or self._run.message or self.logs.waits()
        images = tuple(self._run.images)
        changed = (record.message, record.images) != (message, images or record.images)
        record.message, record.images = message, images or record.images
        return changed

    def _waits_for(self) -> str | None:
        """Why nothing is heard of the run's objects, where that has lasted for ten seconds."""
        troubles = (self._away(), *(one.trouble for one in (self.pods, *self._watchers.values())))
        why = next((text for text in troubles if text), None)
        return waiting_for_server(why) if why else None

    def found(self, stage: str) -> bool:
        """Whether an earlier driver made what the stage last ran as."""
        return stage in self._found

    def why(self, stage: str, split: int) -> str | None:
        """A sentence for the exit code of a split; None where only the code is known."""
        return self._reasons.get((stage, split))

    def says(self, stage: str, split: int, message: str | None) -> None:
        """Remember what why() gives."""
        if message:
            self._reasons[stage, split] = message

    def stop_all(self) -> None:
        """End every stage of this run, whoever made it, and wait until its pods are gone."""
        kinds = {"Job", *(self.objects.kind(stage) for stage in self.plan.stages)}
        for kind in sorted(kinds):
            selector = f"{self._selector},{Label.STAGE}"
            try:
                items = self.cluster.list_all(kind, selector)
            except NoSuchKind as error:  # a cluster without PyTorchJobs has none to end
                log.debug("%s", error)
                continue
            for item in items:
                if not is_finished(item):
                    metadata = item["metadata"]
                    self.cluster.delete(kind, metadata["name"], uid=metadata["uid"])
        let_end(self, self._pods_left)

    def _pods_left(self) -> list[Object]:
        """Pods of stages that have not ended, also of objects that an earlier driver deleted."""
        pods = self.pods.objects().values()
        stages = [pod for pod in pods if Label.STAGE in pod["metadata"]["labels"]]
        return [pod for pod in stages if not has_ended(pod)]

    def _watcher(self, kind: str) -> Watcher:
        return Watcher(self.cluster, kind, self._selector, self._changed)

    def _ensure(self, manifest: Object, attempt: int, spent: float) -> Object:
        """Make an object, or find the one that an earlier driver of this run made.

        Raises:
            InputError: the name is taken by something else, or the server refuses the object.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        if kind in MAIN_KINDS:
            self._wait_for_end(lambda: self._left_behind(manifest), f"{kind} {name} of before")
        known, end = self._known(), monotonic() + self.patience.start
        while True:
            self.check()
            try:
                # The hash is that of the manifest as it was given: by that it is found again.
                wanted, images = pinned(stamped(manifest, self.owner, attempt, spent), known)
                item = self.cluster.create(wanted)
                log.info("Made %s %s", kind, name)
                for image, by_digest in images.items():
                    log.info("%s has %s as the run began with it: %s", name, image, by_digest)
                return {"kind": kind, **item}
            except Conflict:
                found = self.cluster.get(kind, name)
            except InputError as error:
                # A quota of Jobs: those that have ended count, the run's own among them.
                if not quota.is_exceeded(str(error)) or monotonic() > end:
                    raise
                log.warning("%s; trying again", error)
                self._noted(f"{error}; trying again")
                self.wait(_QUOTA_PAUSE)
                continue
            if found is None:
                continue  # it went away in between
            if self._is_wanted(found, manifest, attempt):
                log.info("Found %s %s, made before", kind, name)
                self._found.add(found["metadata"]["labels"].get(Label.STAGE, ""))
                return found
            spent = max(spent, self._spent_on(found))
            self._clear(found, attempt)

    def _known(self) -> Mapping[str, str]:
        """Images by digest as this Job's pods got them; an earlier Job's may be out of date.

        They are remembered, since a pod goes with its node.
        """
        job = self.jobs.get(self.owner["name"])
        if job is not None and job["metadata"]["uid"] == self.owner["uid"]:
            since = job["metadata"]["creationTimestamp"]
            self._digests = digests(self.pods.objects().values(), since) | self._digests
        return self._digests

    def _spent_on(self, found: Object) -> float:
        """What a stage has taken of its deadline, also before a queue ended it."""
        if self._run is not None and self._run.uid == found["metadata"]["uid"]:
            return self._run.spent()
        return spent_on(found, self.pods.objects().values())

    def _is_wanted(self, found: Object, manifest: Object, attempt: int) -> bool:
        if found["metadata"].get("deletionTimestamp") or not self._is_ours(found):
            return False
        if annotation(found, Annotation.SPEC_HASH) != spec_hash(manifest):
            return False
        if found["kind"] not in MAIN_KINDS:
            return True
        return int(annotation(found, Annotation.ATTEMPT, "1")) >= attempt

    def _is_ours(self, found: Object) -> bool:
        """Whether this driver's Job owns it; an earlier Job of the run has another uid."""
        owners = found["metadata"].get("ownerReferences") or ()
        return any(one["uid"] == self.owner["uid"] for one in owners)

    def _has_label(self, found: Object) -> bool:
        labels = found["metadata"].get("labels") or {}
        return bool(labels.get(Label.RUN) == self.plan.run_id)

    def _clear(self, found: Object, attempt: int) -> None:
        """Delete an earlier attempt, or what an earlier submit of the run left; wait until gone.

        Raises:
            InputError: it is neither.
        """
        kind, metadata = found["kind"], found["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        earlier = int(annotation(found, Annotation.ATTEMPT, "1")) < attempt
        old = earlier or is_finished(found) or not self._is_ours(found) or kind not in MAIN_KINDS
        if not self._has_label(found) or not old:
            what = f"there is a {kind} {name} already, of another run or another specification"
            fix = f"delete it: kubectl delete {kind.lower()} {name} -n {self.cluster.namespace}"
            raise InputError(what, where=f"namespace {self.cluster.namespace}", fix=fix)
        if not metadata.get("deletionTimestamp"):
            self.logs.settle(10.0, self.check)
            log.info("Deleting %s %s of an earlier attempt", kind, name)
            self.cluster.delete(kind, name, uid=uid)
        self.wait_until_gone(kind, name, uid)

    def wait_until_gone(self, kind: str, name: str, uid: str) -> None:
        """Wait until an object that was deleted and its pods are gone.

        Raises:
            InputError, WaitedTooLong: see _wait_for_end().
        """
        item: Object = {"metadata": {"uid": uid}}
        left = lambda: pods_of(item, self.pods.objects().values())  # noqa: E731
        self._wait_for_end(left, f"{kind} {name}", lambda: self._is_there(kind, name, uid))

    def _left_behind(self, manifest: Object) -> list[Object]:
        """Pods of an earlier object of a stage that have not ended.

        They may still write, and those of a training have the names, and the rendezvous, that the
        next ones would have.
        """
        stage = manifest["metadata"]["labels"].get(Label.STAGE)
        left = [p for p in self._pods_left() if p["metadata"]["labels"][Label.STAGE] == stage]
        found = self.cluster.get(manifest["kind"], manifest["metadata"]["name"]) if left else None
        kept = pods_of(found, left) if found else []
        return [pod for pod in left if pod not in kept]

    def _wait_for_end(
        self,
        left: Callable[[], Sequence[Object]],
        what: str,
        is_there: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until pods, and what made them, are gone.

        Raises:
            InputError: they are still there after patience.stop seconds.
            WaitedTooLong: they are on a node that does not answer for patience.pending seconds.
        """
        began, said = monotonic(), ""
        while (pods := left()) or is_there():
            self.logs.look()
            late = next((one for pod in pods if (one := explain.overdue(pod))), None)
            passed = monotonic() - began
            if late is None and passed > self.patience.stop:
                names = ", ".join(pod["metadata"]["name"] for pod in pods)
                text = f"{what} was deleted but does not go ({names})"
                where = f"namespace {self.cluster.namespace}"
                fix = "delete what is left of it, or the finalizer that keeps it"
                raise InputError(text, where=where, fix=fix)
            if late is not None and passed > self.patience.pending:
                raise WaitedTooLong(late.text)
            text = late.text if late else f"waits until {what} and its pods have ended"
            if text != said and (late or passed > NOTED_AFTER):
                said = text
                log.warning("%s: %s", what, said)
                self._noted(said)
            self.check()
            self.wait(_LOOK if late is None else _LONG_LOOK)

    def _is_there(self, kind: str, name: str, uid: str) -> bool:
        if kind in self._watchers:
            found = self._watchers[kind].objects().get(name)
        else:
            found = self.cluster.get(kind, name)
        return found is not None and found["metadata"]["uid"] == uid


def waiting_for_server(why: str) -> str:
    """The note of a stage while the API server does not answer the driver, or refuses it."""
    fix = ""
    if "not allowed" in why or "credentials" in why:
        fix = "; is the driver's RoleBinding there (helm/rvk8s-platform)?"
    return f"the driver waits for the API server, stages run on: {why.partition('; ')[0]}{fix}"
