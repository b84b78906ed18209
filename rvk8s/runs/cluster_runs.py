"""Runs as a namespace has them: found by labels, their states read off their objects."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rvk8s import pod_end
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.conditions import ENDED, run_state, state_of
from rvk8s.cluster.kinds import Forbidden, NoSuchKind
from rvk8s.cluster.pod_state import pods_of
from rvk8s.contract import STAGES, Annotation, Label, State
from rvk8s.parallel import in_threads
from rvk8s.plan import Plan, Stage, created_in
from rvk8s.runs.record import RunRecord, StageRecord, code_text
from rvk8s.runs.status import SeveralRuns, check_given
from rvk8s.times import parse

log = logging.getLogger(__name__)

#: On everything of ours; runs and schedules.
OURS = "app.kubernetes.io/name=rvk8s"


@dataclass(frozen=True)
class ClusterRun:
    """What a namespace has of a run.

    Attributes:
        run_id: its id.
        driver: the driver's Job.
        stages: the stages' Jobs and PyTorchJobs, in the order of the stages.
        pods: of the driver and of the stages; only where they were asked for.
        plan: the plan that the driver reads; None where it was not asked for, or is gone.
    """

    run_id: str
    driver: Object
    stages: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    plan: Plan | None = None

    @property
    def experiment(self) -> str:
        return str(self.driver["metadata"]["labels"].get(Label.EXPERIMENT, ""))

    @property
    def namespace(self) -> str:
        return _namespace(self.driver)

    @property
    def root_uri(self) -> str:
        """Where the run is written, as the driver's Job says."""
        return _root_uri(self.driver)

    @property
    def created(self) -> str:
        """When its driver was last asked for: later than the run's beginning where it goes on."""
        return str(self.driver["metadata"]["creationTimestamp"])

    @property
    def state(self) -> State:
        return run_state(self.driver)[0]

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def left_behind(self) -> list[str]:
        """Stages that go on although the driver has ended: it was killed too often."""
        going = [stage for stage in self.stages if state_of(stage)[0] not in ENDED]
        going = [stage for stage in going if not self._is_done(stage)]
        return [stage["metadata"]["labels"][Label.STAGE] for stage in going if self.has_ended]

    def _is_done(self, stage: Object) -> bool:
        """Whether all pods of a stage have done their work; who says so of it may be away."""
        phases = [(pod.get("status") or {}).get("phase") for pod in pods_of(stage, self.pods)]
        return phases.count("Succeeded") >= _pods_in(stage)

    def record(self) -> RunRecord:
        """What run.json would say, as far as the objects tell: the storage may be out of reach."""
        plan = self.plan or Plan(
            run_id=self.run_id,
            experiment=self.experiment,
            module="",
            project_dir="",
            args={},
            root_uri=self.root_uri,
            stages=tuple(Stage(name) for name in STAGES),
        )
        if self.plan is None or not plan.created:  # a schedule's says nothing of one run
            plan = replace(plan, created=created_in(self.run_id) or self.created)
        record = RunRecord.of_plan(plan, "kubernetes")
        record.state, record.message = run_state(self.driver)
        if record.state in (State.RUNNING, State.SUCCEEDED):
            record.message = None
        for item in self.stages:
            _fill(record.stage(item["metadata"]["labels"][Label.STAGE]), item)
        if record.state == State.FAILED:
            record.exit_code, record.message = self._failure(record.message)
        if record.state in ENDED:
            _end(record.stages, record.state)
        return record

    def _failure(self, message: str | None) -> tuple[int | None, str | None]:
        """Exit code and message, as the pods say them."""
        labels = [pod["metadata"]["labels"] for pod in self.pods]
        own = [p for p, of in zip(self.pods, labels, strict=True) if of.get(Label.STAGE) is None]
        newest = sorted(own, key=_created, reverse=True)
        said = [pod_end.verdict(p) for p in newest]
        code = next((one.code for one in said if one is not None), None)
        words = next((text for p in newest if (text := pod_end.last_words(p))), None)
        cause = pod_end.first_cause([p for p in self.pods if p not in own])
        if code is not None:
            message = words or f"the run {code_text(code)}"
        if cause is not None:
            pod, verdict = cause
            stage = pod["metadata"]["labels"][Label.STAGE]
            message = f"stage {stage}: {verdict.message or code_text(verdict.code)}"
        return code, message


def _pods_in(stage: Object) -> int:
    """How many pods of a stage have to do their work."""
    spec = stage.get("spec") or {}
    replicas = spec.get("pytorchReplicaSpecs") or {}
    if replicas:
        return sum(int(one.get("replicas", 1)) for one in replicas.values())
    return int(spec.get("completions") or 1)


def list_runs(cluster: Cluster, labels: str = "") -> list[ClusterRun]:
    """The runs of a cluster's namespace, the newest first; without pods and plans.

    Args:
        labels: a selector; only runs whose driver's Job it picks.
    """
    asked = [("Job", OURS), ("PyTorchJob", OURS)]
    asked += [("Job", f"{OURS},{Label.COMPONENT}=driver,{labels}")] if labels else []
    jobs, training, *picked = _together(cluster, asked)
    stages: dict[tuple[str, str], list[Object]] = {}
    drivers: dict[tuple[str, str], Object] = {}
    for item in (*jobs, *training):
        name = (_namespace(item), _run_id(item))
        if _component(item) == "driver":
            drivers[name] = item
        elif Label.STAGE in item["metadata"]["labels"]:
            stages.setdefault(name, []).append(item)
    if picked:
        drivers = {(_namespace(item), _run_id(item)): item for item in picked[0]}
    runs = [
        ClusterRun(name[1], driver, in_order(stages.get(name, ())))
        for name, driver in drivers.items()
    ]
    return sorted(runs, key=lambda r: (created_in(r.run_id) or r.created, r.run_id), reverse=True)


def find(cluster: Cluster, run: str, root_uri: str | None = None) -> ClusterRun | None:
    """A run with its pods and its plan; None where the namespace has none.

    Args:
        run: a run's id, or the beginning of one and only one.
        root_uri: only a run that is written there.

    Raises:
        SeveralRuns: several begin so.
        InputError: `run` is empty.
    """
    check_given(run)
    driver = _driver(cluster, run, root_uri)
    if driver is None:
        return None
    run_id = _run_id(driver)
    labels = f"{Label.RUN}={run_id}"
    schedule = driver["metadata"]["labels"].get(Label.SCHEDULE)
    asked = [(kind, labels) for kind in ("Job", "PyTorchJob", "Pod", "ConfigMap")]
    if schedule:
        # The driver's pod is of the schedule, and has its Job's name; the run's own ConfigMap is
        # there once its driver has begun.
        asked.append(("Pod", f"batch.kubernetes.io/job-name={driver['metadata']['name']}"))
        asked.append(("ConfigMap", f"{Label.SCHEDULE}={schedule}"))
    jobs, training, pods, maps, *more = _together(cluster, asked)
    if more:
        names = {pod["metadata"]["name"] for pod in pods}
        pods += [pod for pod in more[0] if pod["metadata"]["name"] not in names]
        maps += more[1]
    stages = in_order(i for i in (*jobs, *training) if Label.STAGE in i["metadata"]["labels"])
    return ClusterRun(run_id, driver, stages, tuple(pods), _plan(maps, run_id))


def _driver(cluster: Cluster, run: str, root_uri: str | None) -> Object | None:
    def drivers(labels: str) -> dict[str, Object]:
        jobs = cluster.list_all("Job", f"{labels},{Label.COMPONENT}=driver")
        wanted = (job for job in jobs if root_uri in (None, _root_uri(job)))
        return {_run_id(job): job for job in wanted}

    if is_label(run) and (exact := drivers(f"{Label.RUN}={run}")):
        return exact[run]
    found = drivers(OURS)
    names = sorted(name for name in found if name.startswith(run))
    if run in names or len(names) == 1:
        return found[run if run in names else names[0]]
    if names:
        some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise SeveralRuns(f"{len(names)} runs begin with {run}", fix=f"name one of {some}")
    return None


def is_label(run: str) -> bool:
    """Whether the API takes it as a label's value."""
    return 0 < len(run) < 64 and run.replace("-", "").isalnum() and run[-1] != "-"


def _together(cluster: Cluster, asked: Sequence[tuple[str, str]]) -> list[list[Object]]:
    """Several lists at once; no PyTorchJobs where the cluster or the user's role lacks them."""

    def look(one: tuple[str, str]) -> list[Object]:
        try:
            return cluster.list_all(*one)
        except (Forbidden, NoSuchKind) as error:
            if one[0] != "PyTorchJob":
                raise
            log.debug("no PyTorchJobs: %s", error)
            return []

    return in_threads(look, asked)


def _plan(maps: Iterable[Object], run_id: str) -> Plan | None:
    for item in maps:
        text = (item.get("data") or {}).get("plan.json")
        if text:
            from rvk8s.contract import RUN_ID_TOKEN

            return Plan.from_dict(json.loads(text.replace(RUN_ID_TOKEN, run_id)))
    return None


def _created(item: Object) -> str:
    return str(item["metadata"]["creationTimestamp"])


def _component(item: Object) -> str:
    return str(item["metadata"]["labels"].get(Label.COMPONENT, ""))


def _namespace(item: Object) -> str:
    return str(item["metadata"].get("namespace", ""))


def _root_uri(driver: Object) -> str:
    return str((driver["metadata"].get("annotations") or {}).get(Annotation.ROOT_URI, ""))


def _run_id(item: Object) -> str:
    """A run of a schedule is named as its driver's Job."""
    return str(item["metadata"]["labels"].get(Label.RUN) or item["metadata"]["name"])


def in_order(items: Iterable[Object]) -> tuple[Object, ...]:
    """Stages' objects in the order in which stages run."""
    known = (item for item in items if item["metadata"]["labels"].get(Label.STAGE) in STAGES)
    return tuple(sorted(known, key=lambda i: STAGES.index(i["metadata"]["labels"][Label.STAGE])))


def _fill(stage: StageRecord, item: Object) -> None:
    """What a stage's object says of it."""
    status: Mapping[str, str] = item.get("status") or {}
    stage.state, sentence = state_of(item)
    stage.attempts = 1
    stage.started = status.get("startTime") or item["metadata"]["creationTimestamp"]
    stage.ended = status.get("completionTime") or _when(item, stage.state)
    if stage.ended and stage.started:
        took = parse(stage.ended) - parse(stage.started)
        stage.seconds = max(took.total_seconds(), 0.0)
    if stage.state in (State.FAILED, State.PENDING):
        stage.message = sentence


def _when(item: Object, state: State) -> str | None:
    """When a failed object failed."""
    if state != State.FAILED:
        return None
    conditions = (item.get("status") or {}).get("conditions") or ()
    times = [c.get("lastTransitionTime") for c in conditions if c["type"] == "Failed"]
    return times[0] if times else None


def _end(stages: Iterable[StageRecord], state: State) -> None:
    """A run that has ended has no stage that goes on."""
    for stage in stages:
        if stage.state == State.RUNNING or (stage.state == State.PENDING and stage.attempts):
            stage.state = State.CANCELLED if state == State.CANCELLED else state
