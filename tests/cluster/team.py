"""A project, a namespace and a bucket on the test cluster, as a team would have them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from cluster.controlplane import kubectl, kubectl_json
from cluster.programs import program
from cluster.testbed import Testbed, lock
from forked import run_client

from rvk8s import storage
from rvk8s.cluster import Cluster
from rvk8s.contract import RunLayout, split_of
from rvk8s.values import deep_merged

TINY = Path(__file__).parents[1] / "pipeline" / "tiny"

#: More than any of these tests' runs takes on two shared cores.
PATIENCE = 900.0
#: Two cores are shared by all pods: they may use both, and all find room.
_RESOURCES = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "2"}}


@dataclass(frozen=True)
class Site:
    """What a user has: a folder with rvk8s.yaml, a kubeconfig, a namespace, storage.

    Attributes:
        bed: the cluster.
        folder: of rvk8s.yaml.
        forked: whether commands are forks of a process that has imported all.
    """

    bed: Testbed
    folder: Path
    namespace: str
    forked: bool = True

    @property
    def root_uri(self) -> str:
        return f"{self.bed.bucket}/{self.namespace}"

    def write_tiny(self, values: Mapping[str, Any], name: str = "tiny") -> None:
        """Write a project with the tiny experiment, whose scenes are in the bucket."""
        shutil.copy(TINY / "experiment.py", self.folder)
        args: dict[str, Any] = {"raw_uri": f"{self.bed.bucket}/tiny", "arch": "deeplabv3"}
        args |= {"backbone": "squeezenet1_1", "batch_sz": 8}  # two chips for each of four ranks
        experiment = {"module": "experiment.py", "args": args}
        variants = {"long": {"args": {"epochs": 6}}}
        self.write_project({name: {**experiment, "variants": variants}}, values)

    def write_project(
        self, experiments: Mapping[str, Any], values: Mapping[str, Any] | None = None
    ) -> None:
        """Write rvk8s.yaml; values are merged into those of the site."""
        file = {
            "apiVersion": "rvk8s/v1",
            "rootUri": self.root_uri,
            "image": self.bed.images[0],
            "namespace": self.namespace,
            "values": deep_merged(self.values(), values or {}),
            "experiments": dict(experiments),
        }
        (self.folder / "rvk8s.yaml").write_text(yaml.safe_dump(file, sort_keys=False))

    def values(self) -> dict[str, Any]:
        """The chart's values that this cluster needs."""
        stages = ("configure", "analyze", "chip", "train", "predict", "eval", "bundle")
        return {
            "image": {"driver": self.bed.images[1], "pullPolicy": "Never"},
            "storage": {
                "endpoint": self.bed.endpoint,
                "region": "us-east-1",
                "pathStyle": True,
                "secretName": "s3",
            },
            "pools": {"gpu": {"gpusPerNode": 2}},
            # What is wrong with a pod is wrong from the start here.
            "driver": {"patience": {"start": 20}},
            "stages": {stage: {"resources": _RESOURCES} for stage in stages},
        }

    def rvk8s(
        self, *args: str, check: bool = True, timeout: float = PATIENCE, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the client as a user would, in the project's folder."""
        env = self.environ | environ
        done = run_client(args, cwd=self.folder, env=env, timeout=timeout, forked=self.forked)
        assert not check or done.returncode == 0, f"rvk8s {' '.join(args)}: {done.stderr}"
        return done

    @property
    def kubeconfig(self) -> Path:
        return self.bed.kubeconfig

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, **storage_environ(self.bed), "KUBECONFIG": str(self.kubeconfig)}

    @cached_property
    def cluster(self) -> Cluster:
        """For what is asked again and again: each kubectl is a process."""
        return Cluster.connect(file=str(self.kubeconfig), namespace=self.namespace)

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return kubectl(self.kubeconfig, "-n", self.namespace, *args, stdin=stdin)

    def objects(self, kind: str, selector: str) -> list[dict[str, Any]]:
        found = kubectl_json(self.kubeconfig, "-n", self.namespace, "get", kind, "-l", selector)
        items: list[dict[str, Any]] = found["items"]
        return items

    def submit(self, *args: str) -> str:
        """Submit a run; its id."""
        name = self.rvk8s("submit", *args, "-o", "name").stdout.split()[-1]
        return name.rpartition("/")[2]

    def wait(self, run: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for a run's end; its run.json."""
        self.rvk8s("wait", run, "--for=ended", f"--timeout={timeout:.0f}s", check=False)
        record = self.run_json(run)
        assert record["state"] not in ("Pending", "Running"), self.report(run)
        return record

    def run_json(self, run: str) -> dict[str, Any]:
        """run.json of a run; {} where there is none yet."""
        return self.read_json(f"{self.root_uri}/{run}/run.json") or {}

    def read_json(self, uri: str) -> dict[str, Any] | None:
        return storage.read_json(uri)

    def scores(self, run: str, root: str | None = None) -> dict[str, Any]:
        """Scores of a run, here or under another root."""
        scores = self.read_json(f"{root or self.root_uri}/{run}/eval/scores.json")
        assert scores is not None, f"{run} has no scores"
        return scores

    def check_whole(self, run: str) -> None:
        """It has succeeded and left its bundle, predictions, scores, logs and markers in S3."""
        record = self.run_json(run)
        assert record["state"] == "Succeeded", self.report(run)
        assert record["engine"] == "kubernetes"
        files = storage.list_files(f"{self.root_uri}/{run}")
        assert any(name.startswith("bundle/") and name.endswith(".zip") for name in files)
        assert any(name.startswith("predict/") for name in files)
        assert "eval/scores.json" in files
        for stage in record["stages"]:
            assert stage["state"] in ("Succeeded", "Skipped"), stage
        # A stage that is skipped has no pod, unless its pod found it done.
        ran = [stage for stage in record["stages"] if stage["state"] == "Succeeded"]
        logs = {stage["name"]: self.stored_logs(run, stage["name"]) for stage in ran}
        assert all(text for texts in logs.values() for text in texts), logs
        said = [text.count("no GPU: training on the CPU") for text in logs["train"]]
        (train,) = (stage for stage in ran if stage["name"] == "train")
        assert sum(said) == train["attempts"], "a training on processors says so, once"

    def stored_logs(self, run: str, stage: str) -> list[str]:
        """The logs of a stage in storage, one of each split or node."""
        layout, record = RunLayout(f"{self.root_uri}/{run}"), self.run_json(run)
        splits = next(one["splits"] for one in record["stages"] if one["name"] == stage)
        nodes = next(one["nodes"] for one in record["plan"]["stages"] if one["name"] == stage)
        uris = [
            layout.log(stage, split_of(splits, split), node)
            for split in range(splits)
            for node in range(nodes)
        ]
        return [storage.read_bytes(uri).decode() for uri in uris]

    def report(self, run: str) -> str:
        """Everything that helps to see why a run is not where it should be."""
        texts = [
            json.dumps(self.run_json(run), indent=1)[-3000:],
            self.kubectl("get", "pods,jobs,pytorchjobs", "-o", "wide"),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp")[-4000:],
            self.rvk8s("logs", run, check=False).stdout[-6000:],
        ]
        return "\n".join(texts)

    def pods(self, run: str, stage: str | None = None) -> list[dict[str, Any]]:
        more = f",rvk8s.io/stage={stage}" if stage else ""
        return self.cluster.list_all("Pod", f"rvk8s.io/run={run}{more}")

    def has_checkpoint(self, run: str) -> bool:
        """Whether a training can go on from what is in storage: its first epoch is over."""
        return storage.exists(f"{self.root_uri}/{run}/train/last.pt")

    def running(self, run: str, stage: str) -> list[str]:
        """The names of a stage's pods that run."""
        pods = self.pods(run, stage)
        return [p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"]

    def driver_pod(self, run: str) -> str | None:
        """The name of the driver's pod that runs; None where none does."""
        labels = f"rvk8s.io/run={run},app.kubernetes.io/component=driver"
        found = self.cluster.list_all("Pod", labels)
        running = [pod for pod in found if pod["status"].get("phase") == "Running"]
        return running[-1]["metadata"]["name"] if running else None

    def until(
        self, condition: Callable[[], Any], what: str, timeout: float = 120.0, every: float = 0.3
    ) -> Any:
        """Ask until the answer is true, and give it.

        Args:
            every: seconds between two questions; each costs CPU time, which the pods that are
                waited for lack.
        """
        end = time.monotonic() + timeout
        while True:
            answer = condition()
            if answer:
                return answer
            if time.monotonic() > end:
                pods = self.kubectl("get", "pods", "-o", "wide")
                raise AssertionError(f"after {timeout:.0f} s still not: {what}\n{pods}")
            time.sleep(every)

    def goes_on(self, run: str, stage: str) -> bool:
        """Whether pods of a stage are there that nobody has told to end."""
        return any(
            pod["status"].get("phase") in ("Pending", "Running")
            and "deletionTimestamp" not in pod["metadata"]
            for pod in self.pods(run, stage)
        )

    def nothing_runs(self, run: str) -> None:
        """Wait until no pod of a run is there or yet to come."""

        def left() -> bool:
            phases = ("Pending", "Running")
            return any(pod["status"].get("phase") in phases for pod in self.pods(run))

        self.until(lambda: not left(), f"no pod of {run} runs", 90)

    def kill_process(self, pod: str, pattern: str, when: Callable[[], Any] = lambda: True) -> None:
        """SIGKILL the processes in a pod whose command lines hold a pattern.

        Args:
            when: the moment; what kills waits in the pod until then, so that it comes at once.
        """
        # No ps in the image; the first process (tini) is spared: the container ends by itself.
        script = (
            "import os,signal\n"
            "input()\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try: line = open(f'/proc/{pid}/cmdline').read()\n"
            "    except OSError: continue\n"
            f"    if {pattern!r} in line and int(pid) not in (1, os.getpid()):\n"
            "        os.kill(int(pid), signal.SIGKILL)\n"
        )
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", "-n", self.namespace]
        command += ["exec", "-i", pod, "--", "python3", "-c", script]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stderr=pipe, text=True) as process:
            self.until(when, f"it is time to kill {pattern} in {pod}", 600)
            _, said = process.communicate("\n", timeout=60)
        # 137: the container has ended, and its end took this along.
        assert process.returncode in (0, 137), said

    def evict(self, pod: str) -> None:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def make_secret(self, name: str, key: str, secret: str) -> None:
        data = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        encoded = {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "data": encoded,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


def shape(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """GPUs, nodes and ranks of a run's training."""
    train = next(stage for stage in record["plan"]["stages"] if stage["name"] == "train")
    return train["gpus"], train["nodes"], train["ranks"]


@contextmanager
def gang() -> Iterator[None]:
    """For a run that trains with all of the node's GPUs, in several pods that wait for each other:
    beside another one, each would get half of them and wait forever."""
    with lock("gang"):
        yield


def storage_environ(bed: Testbed) -> dict[str, str]:
    """What makes this machine's rvk8s use the cluster's storage as the user who may write."""
    return {
        "AWS_ENDPOINT_URL": bed.endpoint,
        "AWS_ACCESS_KEY_ID": bed.writer[0],
        "AWS_SECRET_ACCESS_KEY": bed.writer[1],
        "AWS_REGION": "us-east-1",
        "RVK8S_S3_PATH_STYLE": "1",
    }
