"""The driver's pod: `rvk8s-driver` runs a plan stage by stage and ends with the run's exit code.

It keeps nothing on its own disk: what it must know after it was killed is in run.json and in the
stages' objects, so that the next pod of its Job, or a driver on another machine, goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.objects import owner_of
from rvk8s.contract import (
    CONTRACT_VERSION,
    DRIVER,
    STAGES,
    Annotation,
    Env,
    ExitCode,
    State,
    is_retryable,
    now,
)
from rvk8s.drive import Driver
from rvk8s.engines.driver_log import DriverLog
from rvk8s.engines.kubernetes import KubernetesLauncher
from rvk8s.engines.lease import Lease
from rvk8s.engines.leaving import Leaving
from rvk8s.engines.saver import BackgroundSaver
from rvk8s.engines.scheduled import copied, labelled, read_files
from rvk8s.engines.stage_objects import StageObjects, annotation
from rvk8s.engines.stage_run import Patience
from rvk8s.errors import ClusterUnavailable, HandedOver, InputError, Interrupted, Rvk8sError
from rvk8s.heartbeat import OtherDriver
from rvk8s.launcher import Manners
from rvk8s.parallel import Abandoned, within
from rvk8s.plan import Plan
from rvk8s.runs.record import RunRecord
from rvk8s.storage import write_json

log = logging.getLogger("rvk8s.driver")

#: How often a stage that lost its node is started again beside its retries.
DISRUPTIONS = 20
#: Seconds between two heartbeats, and between two looks when nothing happens.
_HEARTBEAT, _TICK = 10.0, 1.0
#: Seconds that logs get at the end to arrive in storage; of the stages, and the driver's own.
_LAST_LOGS, _LAST_LINES = 30.0, 5.0
#: Seconds that the last heartbeat of a driver that leaves its run gets to arrive in storage.
_LAST_BEAT = 2.0
#: Seconds for which an API server that knew this driver may refuse it.
_REFUSED = 120.0
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_FOR_EVER = 10.0 * 365 * 86400


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        run_id: the run, and the name of the driver's Job and Lease.
        pod: who drives; unique among the drivers of a run.
        stages: the folder of the run's ConfigMap.
        copy: of a schedule: the ConfigMap that its run copies them to; empty for one by submit.
        namespace: None: the kubeconfig's.
        storage: seconds for which storage may be away.
        cluster: likewise the API server.
    """

    run_id: str
    pod: str
    stages: Path
    copy: str
    namespace: str | None
    patience: Patience
    storage: float
    cluster: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read and check the environment.

        Raises:
            InputError: something is missing or not a number.
        """
        spoken = environ.get(Env.CONTRACT, str(CONTRACT_VERSION))
        if spoken != str(CONTRACT_VERSION):
            what = f"the chart speaks contract {spoken}, this image {CONTRACT_VERSION}"
            raise InputError(what, where=Env.CONTRACT, fix="use a driver image of its version")
        for name in (Env.RUN_ID, Env.STAGES_DIR):
            if not environ.get(name):
                raise InputError("is not set", where=name, fix="the chart helm/rvk8s sets it")
        default = Patience()
        return cls(
            run_id=environ[Env.RUN_ID],
            pod=environ.get(Env.POD) or f"{socket.gethostname()}-{os.getpid()}",
            stages=Path(environ[Env.STAGES_DIR]),
            copy=environ.get(Env.STAGES_COPY, ""),
            namespace=environ.get(Env.NAMESPACE) or None,
            patience=Patience(
                start=_seconds(environ, Env.START_PATIENCE, default.start),
                pending=_seconds(environ, Env.PENDING_DEADLINE, default.pending),
                partial=_seconds(environ, Env.PARTIAL_PATIENCE, default.partial),
            ),
            storage=_seconds(environ, Env.STORAGE_PATIENCE, 3600.0),
            cluster=_seconds(environ, Env.CLUSTER_PATIENCE, 900.0),
        )


class _Session:
    """One driver from its lease to its end.

    Args:
        leaving: tells that it shall end.
        job: the driver's Job.
        files: plan.json and STAGE.yaml.
        lines: the driver's own log.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        leaving: Leaving,
        job: Object,
        files: Mapping[str, str],
        lines: DriverLog,
    ):
        self._lines = lines
        self._settings, self._cluster, self._leaving = settings, cluster, leaving
        self._news, self._job = leaving.news, job
        self._objects = StageObjects(files, settings.run_id)
        self._plan = self._objects.plan(str(job["metadata"]["creationTimestamp"]))
        self._owner = owner_of(job)
        self._lease = Lease(
            cluster,
            settings.run_id,
            settings.pod,
            labels=_labels(job),
            owner=self._owner,
            give_up=leaving.asked,
            changed=self._news.tell,
        )
        cluster.guard = self._lease.confirm
        self._launcher = KubernetesLauncher(
            cluster,
            self._plan,
            self._objects,
            owner=self._owner,
            patience=settings.patience,
            check=self._check,
            wait=self._news.wait,
            changed=self._news.tell,
        )

    def run(self) -> RunRecord:
        """Drive the run to its end.

        Raises:
            Rvk8sError: as Driver.drive() says.
        """
        with ExitStack() as stack:
            stack.enter_context(self._lease)
            stack.enter_context(self._launcher)
            saver = stack.enter_context(BackgroundSaver(self._settings.storage))
            beats = stack.enter_context(BackgroundSaver(_FOR_EVER))
            who = {"host": self._settings.pod, "namespace": self._cluster.namespace}
            heartbeat = stack.enter_context(_Heartbeat(self._plan, who, beats))

            def begun() -> None:
                self._lines.start(self._plan.layout.log(DRIVER))
                heartbeat.start()

            try:
                return self._drive(saver, begun)
            except OtherDriver:
                self._lines.abandon()
                raise
            except HandedOver:
                with suppress(ClusterUnavailable, InputError):  # who cannot know says nothing
                    if self._is_deleted() and not self._lease.lost():
                        heartbeat.leave()
                raise
            finally:
                self._launcher.logs.settle(0.0 if self._leave() else _LAST_LOGS)
                if self._lease.lost():
                    self._lines.abandon()

    def _drive(self, saver: BackgroundSaver, begun: Callable[[], None]) -> RunRecord:
        patience = self._settings.patience
        manners = Manners(
            retries_splits=frozenset(STAGES) - {"train"},
            disruptions=DISRUPTIONS,
            give_backs=int(patience.pending // max(patience.partial, 1)),
            keeps_deadlines=True,
            session=self._job["metadata"]["uid"],
            saver=saver,
            begun=begun,
            patience=self._settings.storage,
            wait=self._news.wait,
            leave=self._leave,
            notice=self._launcher.notice,
            found=self._launcher.found,
            why=self._launcher.why,
        )
        driver = Driver(
            self._plan,
            self._launcher,
            engine="kubernetes",
            cancelled=self._is_cancelled,
            tick=_TICK,
            manners=manners,
        )
        try:
            record = driver.drive()
        except Interrupted:
            self._launcher.stop_all()
            raise
        if record.state == State.CANCELLED:  # an earlier driver did not come to its end
            self._launcher.stop_all()
        return record

    def _is_cancelled(self) -> bool:
        job = self._launcher.jobs.get(self._settings.run_id)
        if job is None or job["metadata"]["uid"] != self._owner["uid"]:
            return False
        return bool(annotation(job, Annotation.CANCEL))

    def _is_deleted(self) -> bool:
        """Whether the driver's Job was deleted: no other driver of it will come."""
        job = self._launcher.watcher("Job").objects(0.0).get(self._settings.run_id)
        metadata = job["metadata"] if job else {}
        return metadata.get("uid") != self._owner["uid"] or "deletionTimestamp" in metadata

    def _leave(self) -> HandedOver | None:
        return self._leaving.asked() or self._lease.lost()

    def _check(self) -> None:
        if error := self._leave():
            raise error
        if self._is_cancelled():
            raise Interrupted("cancelled")


class _Heartbeat:
    """Says in the run's folder that a driver lives: for rvk8s/heartbeat.py. A context manager.

    Args:
        who: the pod and its namespace.
    """

    def __init__(self, plan: Plan, who: Mapping[str, str], saver: BackgroundSaver):
        self._uri, self._who, self._saver = plan.layout.heartbeat(DRIVER), who, saver
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> _Heartbeat:
        return self

    def start(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def leave(self) -> None:
        """Say that nobody drives the run any more."""
        self._stopped.set()
        if not self._thread.ident:
            return
        last = {**self._beat(), "left": True}
        with suppress(Abandoned, Rvk8sError, OSError):
            within(_LAST_BEAT, lambda: write_json(self._uri, last))

    def _beat(self) -> dict[str, object]:
        return {"at": now(), "pid": os.getpid(), **self._who}

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._saver.save(self._uri, self._beat())
            self._stopped.wait(_HEARTBEAT)


def run(environ: Mapping[str, str], leaving: Leaving, lines: DriverLog) -> int:
    """Drive the run that the environment names.

    Returns:
        The exit code of the driver's pod: final codes end its Job, others start the next driver.
    """
    settings = Settings.of(environ)
    cluster = Cluster.connect(namespace=settings.namespace, patience=settings.cluster)
    cluster.cancelled = lambda: leaving.asked() is not None
    cluster.forgives = _REFUSED
    began = time.monotonic()
    job = cluster.get("Job", settings.run_id)
    if job is None:  # nothing would own what this driver makes, and it would stay for ever
        what = f"there is no Job {settings.run_id}: the run was deleted"
        raise InputError(what, where=f"namespace {cluster.namespace}", fix="submit it again")
    files = read_files(settings.stages)
    job = labelled(cluster, job, settings.run_id)
    if settings.copy:
        files = copied(cluster, files, settings.copy, job)
    try:
        record = _Session(settings, cluster, leaving, job, files, lines).run()
    finally:
        minutes = (time.monotonic() - began) / 60
        log.info(
            "%d API requests in %.1f minutes; %s of memory", cluster.requests, minutes, _memory()
        )
    log.info("Run %s: %s %s", settings.run_id, record.state, record.message or "")
    return _final(int(record.exit_code or 0))


def main() -> None:
    """Entry point of the driver's container."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=_FORMAT)
    lines = DriverLog(_FORMAT)
    logging.getLogger().addHandler(lines)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    leaving = Leaving()
    leaving.install()
    try:
        code = run(os.environ, leaving, lines)
    except Rvk8sError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        # A refusal is final; storage or cluster away is for the next driver.
        code = int(error.exit_code)
    lines.finish(_LAST_LINES)
    logging.shutdown()
    # Threads may hang in reads of minutes.
    os._exit(code)


def _final(code: int) -> int:
    """The exit code of a run that is over: one after which no further driver is started."""
    passes = is_retryable(code) and code != ExitCode.INTERRUPTED
    return int(ExitCode.FAILED) if passes else code


def _memory() -> str:
    """The most memory that this process had; getrusage() counts its parent's, too."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return f"{int(line.split()[1]) // 1024} MiB"
    return "? MiB"


def _labels(job: Object) -> dict[str, str]:
    """Those of the driver's Job, of what the driver itself makes."""
    labels = job["metadata"].get("labels") or {}
    return {**labels, "app.kubernetes.io/managed-by": "rvk8s"}


def _seconds(environ: Mapping[str, str], name: Env, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    with suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise InputError(f"{text!r} is not a number of seconds", where=name, fix="give one, or none")


if __name__ == "__main__":
    main()
