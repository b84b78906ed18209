"""The driver's pod: `rvk8s-driver` runs a plan stage by stage and ends with the run's exit code.

It keeps nothing on its own disk: what it must know after it was killed is in run.json and in the
stages' objects, so that the next pod of its Job, or a driver on another machine, goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from rvk8s import storage
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import Forbidden, Unauthorized
from rvk8s.cluster.objects import owner_of
from rvk8s.contract import (
    DRIVER,
    STAGES,
    Annotation,
    ExitCode,
    State,
    is_retryable,
    now,
)
from rvk8s.drive import Driver
from rvk8s.engines.driver_log import DriverLog
from rvk8s.engines.driver_settings import Settings
from rvk8s.engines.kubernetes import KubernetesLauncher, waiting_for_server
from rvk8s.engines.lease import Lease
from rvk8s.engines.leaving import Leaving
from rvk8s.engines.saver import BackgroundSaver
from rvk8s.engines.scheduled import copied, labelled, read_files
from rvk8s.engines.stage_objects import StageObjects, annotation
from rvk8s.errors import ClusterUnavailable, HandedOver, InputError, Interrupted, Rvk8sError
from rvk8s.heartbeat import OtherDriver
from rvk8s.launcher import Manners
from rvk8s.parallel import Abandoned, within
from rvk8s.plan import Plan
from rvk8s.runs.record import RunRecord

log = logging.getLogger("rvk8s.driver")

#: How often a stage that lost its node is started again beside its retries.
DISRUPTIONS = 20
#: Seconds between two heartbeats, and between two looks when nothing happens.
_HEARTBEAT, _TICK = 10.0, 1.0
#: Seconds that logs get at the end to arrive in storage; of the stages, and the driver's own.
_LAST_LOGS, _LAST_LINES = 30.0, 5.0
#: Seconds that the last heartbeat of a driver that leaves its run gets to arrive in storage.
_LAST_BEAT = 2.0
#: Seconds between two requests of a driver that is refused from its beginning.
_ASK_AGAIN = 5.0
#: Seconds for which an API server that knew this driver may refuse it.
_REFUSED = 120.0
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_FOR_EVER = 10.0 * 365 * 86400


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
        self._driver: Driver | None = None
        cluster.waits = self._note_server
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
            noted=self._note,
            away=lambda: self._lease.trouble,
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
            except HandedOver as error:
                deleted = False
                with suppress(ClusterUnavailable, InputError):  # who cannot know says nothing
                    deleted = self._is_deleted() and not self._lease.lost()
                if not deleted:
                    raise
                heartbeat.leave()
                what = "the run's Job was deleted: its stages end, no other driver comes"
                raise HandedOver(what) from error
            finally:
                with suppress(Rvk8sError):  # how the run ended says more
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
        driver = self._driver = Driver(
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

    def _note(self, text: str | None) -> None:
        """Have the running stage's note say what is waited for; only the loop's own thread may."""
        if self._driver is not None and threading.current_thread() is threading.main_thread():
            self._driver.note(text)

    def _note_server(self, text: str | None) -> None:
        self._note(waiting_for_server(text) if text else None)

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
            within(_LAST_BEAT, lambda: storage.write_json(self._uri, last))

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
    job = _job(cluster, settings)
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


def _job(cluster: Cluster, settings: Settings) -> Object | None:
    """The driver's Job; None where there is none.

    A server that refuses the first driver of a run is not set up for it. One that has known an
    earlier one is waited for: its stages run on.
    """
    try:
        return cluster.get("Job", settings.run_id)
    except (Forbidden, Unauthorized) as error:
        if not _has_begun(settings):
            raise
        log.warning("%s; an earlier driver was not refused: waiting", error)
        raise_after = time.monotonic() + settings.cluster
        while True:
            time.sleep(_ASK_AGAIN)
            try:
                return cluster.get("Job", settings.run_id)
            except (Forbidden, Unauthorized) as again:
                if time.monotonic() > raise_after or cluster.cancelled():
                    raise ClusterUnavailable(str(again)) from again


def _has_begun(settings: Settings) -> bool:
    """Whether an earlier driver has begun the run, as far as storage says it."""
    try:
        plan = StageObjects(read_files(settings.stages), settings.run_id).plan("")
        record = storage.read_json(plan.layout.run_json) or {}
    except (Rvk8sError, OSError):
        return False
    return record.get("state") == State.RUNNING and record.get("engine") == "kubernetes"


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


if __name__ == "__main__":
    main()
