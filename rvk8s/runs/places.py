"""Where runs are looked for: below a root URI, in a namespace, or both at once.

The storage knows what has happened, the cluster what goes on now. Each alone gives an answer: a
laptop may not reach a cluster's storage, and a run's objects may be deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rvk8s import explain
from rvk8s.cluster import Cluster, Object, load_library
from rvk8s.cluster.conditions import ENDED, state_of
from rvk8s.cluster.kinds import Forbidden
from rvk8s.cluster.objects import events_of
from rvk8s.cluster.preconditions import check_namespace
from rvk8s.cluster.queues import workloads
from rvk8s.contract import Label, State
from rvk8s.errors import ClusterUnavailable, InputError, Rvk8sError
from rvk8s.parallel import Abandoned, within
from rvk8s.progress import Progress
from rvk8s.runs import cluster_runs, status
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import LOST, NoSuchRun, RunStatus, SeveralRuns, StageStatus

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds that storage may take where the cluster has an answer already.
_PATIENCE = 8.0
#: Seconds that a cluster which nobody named may take for its first answer, and for later ones.
_FIRST, _LATER = 1.0, 20.0
#: Runs that cannot be read of which each has a line.
_MOST_NAMED = 10


@dataclass
class Places:
    """Where runs are looked for; at least one of the two is given.

    Attributes:
        root_uri: runs are below it; None: where the driver's Jobs say.
        cluster: runs are in its namespace.
        guess: nobody named a cluster: runs may be in the kubeconfig's.
        faults: why the storage could not be read, by its URI; it is not asked again.
        unasked: why the cluster that was guessed could not be asked.
        unreadable: why runs below root_uri are not in the list, by name.
    """

    root_uri: str | None = None
    cluster: Cluster | None = None
    guess: bool = False
    faults: dict[str, str] = field(default_factory=dict)
    unasked: str | None = None
    unreadable: dict[str, str] = field(default_factory=dict)

    def runs(self, labels: str = "") -> list[RunStatus]:
        """All runs, the newest first.

        Args:
            labels: a selector; only runs of the cluster that it picks: storage has no labels.
        """
        in_storage: dict[str, RunStatus] = {}
        in_cluster = self._ask(lambda cluster: cluster_runs.list_runs(cluster, labels)) or []
        if self.guess:
            in_cluster = [run for run in in_cluster if run.root_uri == self.root_uri]
        if self.root_uri is not None:
            root = self.root_uri
            stored = self.stored(root, lambda: status.list_runs(root, self.unreadable)) or []
            in_storage = {run.run_id: run for run in stored}
        found = []
        for run in in_cluster:
            self.unreadable.pop(run.run_id, None)  # the cluster's answer is shown
            found.append(replace(merged(run, in_storage.get(run.run_id)), stages=()))
        shown = {run.run_id for run in found}
        if not labels:
            found += [run for run in in_storage.values() if run.run_id not in shown]
        return sorted(found, key=lambda r: (r.record.plan.created, r.run_id), reverse=True)

    def find(self, run: str) -> tuple[RunStatus, ClusterRun | None]:
        """A run, and what the namespace has of it.

        Args:
            run: a run's id, or the beginning of one and only one.

        Raises:
            InputError: there is no such run, or more than one.
        """
        only = self.root_uri if self.guess else None  # as in runs()
        there = self._ask(lambda cluster: cluster_runs.find(cluster, run, only))
        if self.cluster is None:
            stored = status.run_status(str(self.root_uri), run)
            return replace(stored, notes=(*stored.notes, *self.notes())), None
        if there is None:
            return self._only_stored(run), None
        root, run_id = there.root_uri, there.run_id
        stored_run = self.stored(root, lambda: status.read_status(f"{root}/{run_id}"))
        return self.noted(self.cluster, merged(there, stored_run), there), there

    def stored(self, uri: str, read: Callable[[], _T]) -> _T | None:
        """What storage says; None, and a fault, where it cannot be read from here.

        Without a cluster, its errors are raised.
        """
        if self.cluster is None:
            return read()
        if uri in self.faults or not uri:
            return None
        try:
            return within(_PATIENCE, read)
        except Abandoned:
            self.faults[uri] = "it does not answer"
        except (NoSuchRun, SeveralRuns):
            raise
        except Rvk8sError as error:
            self.faults[uri] = str(error)
        return None

    def notes(self) -> list[str]:
        """A line for each place that cannot be read."""
        notes = [
            f"{uri} cannot be read from here ({why}): this is what the cluster says"
            for uri, why in self.faults.items()
        ]
        if self.unreadable:
            shown = sorted(self.unreadable.items())[:_MOST_NAMED]
            for name, why in shown:
                notes.append(f"{self.root_uri}/{name} is not shown: run.json: {why}")
            others = len(self.unreadable) - len(shown)
            if others:
                notes.append(f"{others} more of {self.root_uri} are not shown for such reasons")
        if self.unasked:
            what = f"the kubeconfig's cluster was not asked ({self.unasked})"
            notes.append(f"{what}: this is what the storage says")
        return notes

    def noted(self, cluster: Cluster, run: RunStatus, there: ClusterRun) -> RunStatus:
        """A run with what keeps it from being seen whole, and its pods from running.

        Args:
            there: the same with its pods.
        """
        faults = self.notes() if there.root_uri in self.faults else ()
        return replace(run, notes=(*run.notes, *faults, *troubles(cluster, there)))

    def _only_stored(self, run: str) -> RunStatus:
        assert self.cluster is not None
        where = f"namespace {self.cluster.namespace}"
        if self.root_uri is None:
            check_namespace(self.cluster)
            fix = (
                "`rvk8s list` shows the runs; -n looks in another namespace, --root-uri in storage"
            )
            raise InputError(f"no run {run} in {where}", fix=fix)
        root = self.root_uri
        fix = "`rvk8s list` shows the runs; -n and --root-uri look elsewhere"
        try:
            found = self.stored(root, lambda: status.run_status(root, run))
        except NoSuchRun as error:
            raise InputError(f"no run {run} in {where} or {root}", fix=fix) from error
        if found is None:
            what = f"no run {run} in {where}, and {root} cannot be read from here"
            raise InputError(f"{what} ({self.faults[root]})", fix=fix)
        return found

    def _ask(self, look: Callable[[Cluster], _T]) -> _T | None:
        """What the cluster says; None where there is none, or one that was guessed cannot say."""
        if self.cluster is not None:
            return look(self.cluster)
        if not self.guess:
            return None

        def ask() -> tuple[Cluster, _T]:
            cluster = Cluster.connect(patience=0.0)
            return cluster, look(cluster)

        load_library()  # that is no matter of the cluster
        try:
            self.cluster, said = within(_FIRST, ask)
        except SeveralRuns:
            raise
        except Abandoned:
            self.unasked = f"no answer within {_FIRST} s, -n waits longer"
        except Forbidden as error:  # nothing was submitted there
            log.debug("%s", error)
        except (ClusterUnavailable, InputError) as error:
            self.unasked = str(error)
        else:
            self.cluster.patience = _LATER
            return said
        return None


def merged(run: ClusterRun, stored: RunStatus | None) -> RunStatus:
    """What the cluster and the storage say of a run, together."""
    return replace(_merged(run, stored), namespace=run.namespace)


def _merged(run: ClusterRun, stored: RunStatus | None) -> RunStatus:
    own = run.record()
    if stored is None:
        stages = tuple(StageStatus(stage, str(stage.state), Progress()) for stage in own.stages)
        return RunStatus(own.plan.run_uri, own, str(own.state), stages)
    record = stored.record
    if own.state in ENDED and record.state not in ENDED:
        # The driver could not write it: killed too often, storage away.
        changed = replace(record, state=own.state, message=own.message)
        return replace(stored, record=changed, state=str(own.state))
    started_anew = record.state in ENDED and str(record.ended or "") < run.created
    if own.state not in ENDED and started_anew:
        return replace(stored, record=replace(record, state=own.state), state=str(own.state))
    if stored.state == LOST and own.state not in ENDED:
        # Its driver is alive, or is being started again.
        known = tuple(replace(s, state=str(s.record.state)) for s in stored.stages)
        return replace(stored, state=str(State.RUNNING), stages=known)
    return stored


def troubles(cluster: Cluster, run: ClusterRun) -> list[str]:
    """Why the pods of a run do not run, or run although it has ended; a line for each cause."""
    if run.has_ended:
        stop = f"goes on without a driver; `rvk8s cancel {run.run_id}` stops it"
        return [f"{stage}: {stop}" for stage in run.left_behind]
    found: dict[str, str] = {}
    items = {"driver": run.driver} | {i["metadata"]["labels"][Label.STAGE]: i for i in run.stages}
    pods: dict[str, list[Object]] = {}
    for pod in run.pods:
        labels = pod["metadata"]["labels"]
        pods.setdefault(labels.get(Label.STAGE) or "driver", []).append(pod)
    for name in dict.fromkeys((*items, *pods)):
        own, item = pods.get(name, ()), items.get(name)
        seen = next((one for pod in own if (one := explain.overdue(pod))), None)
        if seen is None and item is not None and state_of(item)[0] == State.PENDING:
            seen = _why_pending(cluster, item, own, pods.get("driver", ()))
        if seen is not None:
            found.setdefault(seen.text, name)
    return [f"{name}: {text}" for text, name in found.items()]


def _why_pending(
    cluster: Cluster, item: Object, pods: Sequence[Object], drivers: Sequence[Object]
) -> explain.Trouble | None:
    seen = explain.suspended(item, workloads(cluster, item))
    for pod in pods:
        seen = seen or explain.pod_trouble(pod)
    for unit in (*pods, item) if seen is None else ():
        seen = seen or explain.event_trouble(events_of(cluster, unit["metadata"]["uid"]), drivers)
    return seen


def record_of(found: RunStatus) -> RunRecord:
    """The record of a status, for displays: with the states as they are shown."""
    state = State(found.state) if found.state != LOST else found.record.state
    return replace(found.record, state=state)
