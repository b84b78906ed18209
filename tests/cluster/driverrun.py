"""A run whose driver is real and whose pods are played: for tests against an API server alone.

The Job controller is real, too. There is no kubelet and no training operator: a thread here says
what becomes of pods, as the kubelet would, makes the workers of PyTorchJobs, and leaves the markers
that rvk8s-stage would leave.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from cluster.controlplane import ControlPlane
from forked import DRIVER, Forked

from rvk8s import chart, storage
from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import path_of
from rvk8s.cluster.watch import Watcher
from rvk8s.contract import Env, RunLayout, now, split_of

COMMANDS = ["analyze", "chip", "train", "predict", "eval", "bundle"]
ACCOUNT = "rvk8s-stage"
#: What becomes of a pod: an exit code, a status as the kubelet writes it, None: it runs on.
Fate = int | Mapping[str, Any] | None
#: Of a stage, split or node, and attempt (0 for the first).
Act = Callable[[str, int, int], Fate]


def succeed(stage: str, index: int, attempt: int) -> Fate:
    return 0


class Play:
    """A run in a namespace. A context manager.

    Args:
        plane: the control plane.
        namespace: of the run; its own.
        folder: for the run's files.
        act: what becomes of each pod.
        root: the root URI; a folder unless it is given.
        seconds: that each pod runs.
        values: of the chart, beside what every run here has.
        schedule: the name of a schedule whose run it is; it is made where it does not exist.
    """

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        act: Act = succeed,
        *,
        run_id: str = "run-1",
        root: str | None = None,
        seconds: float = 0.1,
        values: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        schedule: str | None = None,
    ):
        self.schedule = schedule
        self.plane, self.namespace, self.folder, self.act = plane, namespace, folder, act
        self.run_id, self.seconds = run_id, seconds
        self.root = root or str(folder / "root")
        self.layout = RunLayout(f"{self.root}/{run_id}")
        self.values, self._environ = dict(values or {}), dict(environ or {})
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        self.cluster = Cluster.connect(namespace=namespace, patience=60)
        labels = f"rvk8s.io/run={run_id}"
        self.pods = Watcher(self.cluster, "Pod", labels, self._look)
        self.jobs = Watcher(self.cluster, "Job", labels, self._look)
        self.trainings = Watcher(self.cluster, "PyTorchJob", labels, self._look)
        self.made: dict[str, set[str]] = {}  # name -> uids of the stage objects that there were
        self.times: dict[tuple[str, str], float] = {}  # (stage, "made" | "ended") -> when, first
        self.stages, self.starts = folder / "stages", 0
        #: What a node says of the image of a stage's pod.
        self.image_id: Callable[[str], str] = lambda stage: "registry.example.com/rvk8s@sha256:0"
        self._drivers: list[Forked] = []
        self._known: set[str] = set()
        self._staying: set[str] = set()  # pods that never end by themselves
        self._attempts: dict[str, int] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()

    def __enter__(self) -> Play:
        make_account(self.plane, self.namespace)
        self.apply()
        for one in (self.pods, self.jobs, self.trainings):
            one.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for driver in self._drivers:
            driver.kill()
            driver.wait()
        for one in (self.pods, self.jobs, self.trainings):
            one.__exit__()

    def apply(self) -> None:
        """Make the driver's Job and the files that its pod would have mounted."""
        if self.schedule:
            make_account(self.plane, self.namespace, "rvk8s-driver")
            self.upgrade(self.values)
            made_by = f"--from=cronjob/{self.schedule}"
            self.plane.kubectl("-n", self.namespace, "create", "job", self.run_id, made_by)
            return
        rendered = self._rendered(self.values)
        job = rendered.find("Job")
        assert job is not None
        job["spec"]["suspend"] = True  # the tests start drivers themselves
        self.cluster.apply(job)

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """Apply the schedule with values, as `helm upgrade` does."""
        cron = {"schedule": {"cron": "0 3 * * *", "suspend": True}}
        rendered = self._rendered({**values, **cron})
        for item in rendered.manifests:
            self.cluster.apply(item)
        job = rendered.find("CronJob")
        assert job is not None
        (driver,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        copies = [one["value"] for one in driver["env"] if one["name"] == Env.STAGES_COPY]
        self._environ[str(Env.STAGES_COPY)] = copies[0]

    def _rendered(self, values: Mapping[str, Any]) -> chart.Rendered:
        """The chart's objects; what the driver's pod would mount lies in the folder `stages`."""
        name = self.schedule or self.run_id
        uri = self.root if storage.is_s3(self.root) else "s3://bucket/runs"
        rendered = chart.render(
            {
                "run": {"id": name, "created": "" if self.schedule else "2026-11-24T13:15:01Z"},
                "experiment": {"name": "one", "module": "lib.one"},
                "rootUri": uri,
                "image": {"stage": "registry.example.com/rvk8s:1"},
                **values,
            },
            name,
            self.namespace,
        )
        self.stages.mkdir(exist_ok=True)
        for item in rendered.manifests:
            if item["kind"] == "ConfigMap" and (self.schedule or "plan.json" in item["data"]):
                for key, text in item["data"].items():
                    (self.stages / key).write_text(text.replace("s3://bucket/runs", self.root))
        return rendered

    def drive(self, pod: str = "driver-1", **environ: str) -> Forked:
        """Start a driver; `pod` is who it is for the Lease."""
        self.starts += 1
        environ = {
            **os.environ,
            "KUBECONFIG": str(self.plane.kubeconfig),
            "TMPDIR": str(self.folder),  # else what a killed one leaves would stay
            "RVK8S_RUN_ID": self.run_id,
            "RVK8S_NAMESPACE": self.namespace,
            "RVK8S_POD": pod,
            "RVK8S_STAGES_DIR": str(self.stages),
            **self._environ,
            **environ,
        }
        with self.log.open("ab") as log:
            process = Forked(DRIVER, (), cwd=Path.cwd(), env=environ, log=log)
        self._drivers.append(process)
        return process

    def finish(self, process: Forked, seconds: float = 60) -> int:
        """The exit code of a driver."""
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver goes on: {self.said()}") from None

    @property
    def log(self) -> Path:
        return self.folder / "driver.log"

    def said(self) -> str:
        """What the drivers have logged."""
        return self.log.read_text() if self.log.exists() else ""

    def record(self) -> dict[str, Any]:
        value = storage.read_json(self.layout.run_json)
        assert value is not None, self.said()
        return value

    def stage(self, name: str) -> dict[str, Any]:
        return next(one for one in self.record()["stages"] if one["name"] == name)

    def until(self, what: Callable[[], object], seconds: float = 30) -> None:
        """Wait until something is so."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"it did not come so far: {self.said()}"
            time.sleep(0.02)

    def stage_pods(self, stage: str) -> list[Object]:
        pods = self.pods.objects().values()
        return [pod for pod in pods if pod["metadata"]["labels"].get("rvk8s.io/stage") == stage]

    def running(self, stage: str) -> bool:
        pods = self.stage_pods(stage)
        return any(pod.get("status", {}).get("phase") == "Running" for pod in pods)

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object as it is now; whether there was one."""
        found = self.cluster.get(kind, name)
        return found is not None and self.cluster.delete(kind, name, uid=found["metadata"]["uid"])

    def cancel(self) -> None:
        self.cluster.patch(
            "Job", self.run_id, {"metadata": {"annotations": {"rvk8s.io/cancel": now()}}}
        )

    def left(self) -> list[str]:
        """Pods of stages that have not ended."""
        pods = self.cluster.list_all("Pod", f"rvk8s.io/run={self.run_id},rvk8s.io/stage")
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def set_status(self, kind: str, item: Object, status: Mapping[str, Any]) -> None:
        name = item["metadata"]["name"]
        path = path_of(self.namespace, kind, name) + "/status"
        body = {"status": dict(status)}
        self.cluster._maybe("PATCH", path, None, body, "application/merge-patch+json")

    def _look(self) -> None:
        if self._over.is_set():
            return
        with self._lock:
            for watcher in (self.jobs, self.trainings):
                for item in list(watcher._objects.values()):
                    self._see(watcher.kind, item)
            for pod in list(self.pods._objects.values()):
                uid, labels = pod["metadata"]["uid"], pod["metadata"]["labels"]
                if uid not in self._known and labels.get("rvk8s.io/stage"):
                    self._known.add(uid)
                    self.times.setdefault((labels["rvk8s.io/stage"], "pod"), time.monotonic())
                    threading.Thread(target=self._play, args=(pod,), daemon=True).start()

    def _see(self, kind: str, item: Object) -> None:
        stage, uid = item["metadata"]["labels"].get("rvk8s.io/stage"), item["metadata"]["uid"]
        if stage is None or uid in self._known:
            return
        self._known.add(uid)
        self.made.setdefault(item["metadata"]["name"], set()).add(uid)
        self.times.setdefault((stage, "made"), time.monotonic())
        if kind == "PyTorchJob":
            threading.Thread(target=self._operate, args=(item,), daemon=True).start()

    def _play(self, pod: Object) -> None:
        """Be the kubelet of a pod."""
        labels = pod["metadata"]["labels"]
        stage, index = labels["rvk8s.io/stage"], _index(pod)
        with self._lock:
            key = f"{stage}/{index}"
            attempt = self._attempts.get(key, 0)
            self._attempts[key] = attempt + 1
        fate = self.act(stage, index, attempt)
        if isinstance(fate, Mapping) and "phase" not in fate:
            self.set_status("Pod", pod, fate)  # it does not start
            return
        if fate is None:
            self._staying.add(pod["metadata"]["uid"])
        container = pod["spec"]["containers"][0]
        begun = {"phase": "Running", "startTime": now(), "conditions": [_scheduled()]}
        state = {"name": container["name"], "image": container["image"], "ready": True}
        state |= {"imageID": self.image_id(stage), "restartCount": 0}
        begun["containerStatuses"] = [{**state, "state": {"running": {"startedAt": now()}}}]
        self.set_status("Pod", pod, begun)
        if fate is None or self._over.wait(self.seconds):
            return
        if isinstance(fate, Mapping):
            self.set_status("Pod", pod, fate)
            return
        if fate == 0:
            self.mark(stage, index)
        ended = deepcopy(begun)
        reason = "Completed" if fate == 0 else "Error"
        over = {"exitCode": fate, "reason": reason, "startedAt": now(), "finishedAt": now()}
        ended["phase"] = "Succeeded" if fate == 0 else "Failed"
        ended["containerStatuses"] = [{**state, "ready": False, "state": {"terminated": over}}]
        self.times[stage, "ended"] = time.monotonic()
        self.set_status("Pod", pod, ended)

    def mark(self, stage: str, index: int = 0) -> None:
        """Leave the done-marker of a split."""
        plan = storage.read_json(self.layout.run_json)
        assert plan is not None, "a stage reads the plan"
        splits = next(one["splits"] for one in plan["stages"] if one["name"] == stage)
        extra = {"commands": COMMANDS, "split_commands": ["chip", "predict"]}
        split = None if stage == "train" else split_of(splits, index)
        storage.write_json(self.layout.done(stage, split), {"inputs": "i", "at": now(), **extra})

    def _operate(self, job: Object) -> None:
        """Be the training operator of a PyTorchJob."""
        spec = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": name, "uid": uid}
        for index in range(spec["replicas"]):
            pod = deepcopy(spec["template"])
            pod["metadata"]["labels"]["training.kubeflow.org/replica-index"] = str(index)
            pod["metadata"]["name"] = f"{name}-worker-{index}"
            pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
            self.cluster.create({"apiVersion": "v1", "kind": "Pod", **pod})
        while not self._over.wait(0.05):
            pods = [pod for pod in self.pods.objects().values() if _owned(pod, uid)]
            phases = {_phase_to_operator(pod) for pod in pods}
            kind = next((one for one in ("Failed", "Succeeded") if one in phases), None)
            if kind is None:
                if uid not in {one["metadata"]["uid"] for one in self.trainings.objects().values()}:
                    return
                continue
            condition = {"type": kind, "status": "True", "reason": f"PyTorchJob{kind}"}
            condition |= {"message": f"PyTorchJob {name} has {kind.lower()}."}
            condition |= {"lastUpdateTime": now(), "lastTransitionTime": now()}
            self.set_status("PyTorchJob", job, {"conditions": [condition]})
            for pod in pods:
                # The exit code of one that ends by itself in this moment is not lost.
                staying = pod["metadata"]["uid"] in self._staying
                if staying and pod.get("status", {}).get("phase") == "Running":
                    self.cluster.delete("Pod", pod["metadata"]["name"], uid=pod["metadata"]["uid"])
            return


def make_account(plane: ControlPlane, namespace: str, name: str = ACCOUNT) -> None:
    text = plane.kubectl("-n", namespace, "get", "serviceaccounts", "-o", "name")
    if f"serviceaccount/{name}" not in text.split():
        plane.kubectl("-n", namespace, "create", "serviceaccount", name)


def stop(process: Forked, number: signal.Signals = signal.SIGKILL) -> int:
    process.send_signal(number)
    return process.wait(timeout=30)


def _scheduled() -> dict[str, str]:
    return {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}


def _index(pod: Object) -> int:
    metadata = pod["metadata"]
    for key in ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index"):
        for values in (metadata.get("annotations") or {}, metadata.get("labels") or {}):
            if key in values:
                return int(values[key])
    return 0


def _phase_to_operator(pod: Object) -> str | None:
    """One that runs and is told to end has failed, as training-operator 1.9 has it."""
    phase: str | None = pod.get("status", {}).get("phase")
    told = pod["metadata"].get("deletionTimestamp")
    return "Failed" if phase == "Running" and told else phase


def _owned(pod: Object, uid: str) -> bool:
    return any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences") or ())
