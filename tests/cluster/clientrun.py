"""A project and the program rvk8s, for tests of the client against a real API server."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cluster.controlplane import ControlPlane
from cluster.programs import program
from forked import CLIENT, Forked, run_client

from rvk8s import yaml_loader

_KINDS = "jobs,configmaps,networkpolicies,services,pytorchjobs"
_NOW = "2026-11-24T10:00:00Z"
_MODULE = '''"""An experiment."""
from lib.helper import NAME


def get_config(runner, root_uri, test=False, depth="1"):
    raise NotImplementedError(NAME)
'''
_FILE = """apiVersion: rvk8s/v1
rootUri: s3://bucket/runs
image: registry.example.com/rvk8s:1
values:
  pools: {gpu: {gpusPerNode: 2}}
experiments:
  one:
    module: experiments/one.py
    splits: {chip: 2}
    variants: {deep: {args: {depth: "2"}}}
"""


@dataclass
class Client:
    """Runs `rvk8s` in a project of its own.

    Attributes:
        folder: the project.
        environ: what its processes get beside what is there.
        forked: whether they are forks of a process that has imported all.
    """

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    forked: bool = True

    @classmethod
    def make(cls, folder: Path, **environ: str) -> Client:
        (folder / "experiments").mkdir(parents=True)
        (folder / "lib").mkdir()
        (folder / "experiments" / "one.py").write_text(_MODULE)
        (folder / "lib" / "helper.py").write_text('NAME = "helper"\n')
        (folder / "rvk8s.yaml").write_text(_FILE)
        # No storage is reached: nothing listens there.
        nowhere = {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": "us-east-1",
        }
        return cls(folder, {**nowhere, **environ})

    def start(self, *args: str) -> Forked:
        return Forked(CLIENT, args, cwd=self.folder, env={**os.environ, **self.environ})

    def __call__(self, *args: str, timeout: float = 60) -> tuple[int, str, str]:
        """The exit code, stdout and stderr."""
        env = {**os.environ, **self.environ}
        done = run_client(args, cwd=self.folder, env=env, timeout=timeout, forked=self.forked)
        return done.returncode, done.stdout, done.stderr

    def ok(self, *args: str, timeout: float = 60) -> str:
        """stdout of a command that must succeed."""
        code, out, err = self(*args, timeout=timeout)
        assert code == 0, (args, code, out, err)
        return out

    def error(self, *args: str, code: int = 2) -> str:
        """The message of a command that must fail with a code."""
        found, out, err = self(*args)
        assert found == code, (args, found, out, err)
        assert "Traceback" not in err
        return err


@pytest.fixture
def client(tmp_path: Path, apiserver: ControlPlane, namespace: str) -> Client:
    """rvk8s in a project, with a namespace that has what runs need."""
    accounts = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        for name in ("rvk8s-driver", "rvk8s-stage")
    ]
    stream = "".join(f"---\n{json.dumps(account)}\n" for account in accounts)
    apiserver.kubectl("create", "-n", namespace, "-f", "-", stdin=stream)
    made = Client.make(tmp_path / "project", KUBECONFIG=str(apiserver.kubeconfig))
    file = made.folder / "rvk8s.yaml"
    file.write_text(file.read_text() + f"namespace: {namespace}\n")
    return made


def objects(apiserver: ControlPlane, namespace: str) -> list[str]:
    """What there is of runs in a namespace, as kubectl names it."""
    found = apiserver.kubectl(
        "get", _KINDS, "-n", namespace, "-l", "app.kubernetes.io/name=rvk8s", "-o", "name"
    )
    return sorted(found.split())


def set_status(
    apiserver: ControlPlane, namespace: str, name: str, status: dict[str, object]
) -> None:
    """Play the kubelet or a controller."""
    patch = json.dumps({"status": status})
    apiserver.kubectl(
        "patch", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch
    )


def end_run(apiserver: ControlPlane, namespace: str, run: str, code: int = 0) -> None:
    """The driver's pod ends with a code; the Job follows by itself."""
    pod = apiserver.kubectl(
        "get", "pods", "-n", namespace, "-l", f"job-name={run}", "-o", "name"
    ).split()[0]
    state = {"terminated": {"exitCode": code, "startedAt": _NOW, "finishedAt": _NOW}}
    container = {"name": "driver", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    phase = "Failed" if code else "Succeeded"
    statuses = [{**container, "state": state}]
    set_status(apiserver, namespace, pod, {"phase": phase, "containerStatuses": statuses})
    condition = "Failed" if code else "Complete"
    apiserver.kubectl(
        "wait", f"job/{run}", "-n", namespace, f"--for=condition={condition}", "--timeout=30s"
    )


def submit(client: Client, *args: str) -> str:
    """The id of a new run."""
    name = client.ok("submit", "one", "-o", "name", *args).strip()
    return name.removeprefix("job.batch/")


def late_schedule(client: Client, apiserver: ControlPlane, namespace: str) -> str:
    """A schedule that is late, and so starts a run at once.

    Returns:
        Its CronJob, as kubectl names it.
    """
    (client.folder / "cron.yaml").write_text('schedule: {cron: "* * * * *"}\n')
    rendered = client.ok("render", "one", "--values", "cron.yaml")
    apiserver.kubectl("apply", "-n", namespace, "-f", "-", stdin=rendered)
    (name,) = apiserver.kubectl("get", "cronjobs", "-n", namespace, "-o", "name").split()
    status = {"lastScheduleTime": (datetime.now(UTC) - timedelta(minutes=5)).isoformat()}
    set_status(apiserver, namespace, name, status)
    return name


def become_submitter(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    """The client's user has from now on nothing but the role that helm/rvk8s-platform makes."""
    for account in ("rvk8s-driver", "rvk8s-stage"):  # the chart makes them
        apiserver.kubectl("delete", "serviceaccount", account, "-n", namespace)
    apiserver.kubectl("create", "serviceaccount", "alice", "-n", namespace)
    subject = {"kind": "ServiceAccount", "name": "alice"}
    values = client.folder.parent / "platform.yaml"
    values.write_text(yaml.safe_dump({"submitters": [subject], "priorityClasses": []}))
    chart = Path(__file__).parents[2] / "helm" / "rvk8s-platform"
    command = [program("helm"), "template", "platform", chart, "-n", namespace, "-f", values]
    rendered = client.folder.parent / "platform-objects.yaml"
    rendered.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    apiserver.kubectl("apply", "-n", namespace, "-f", str(rendered))
    config = yaml_loader.load(apiserver.kubeconfig.read_text())
    token = apiserver.kubectl("create", "token", "alice", "-n", namespace).strip()
    config["users"][0]["user"] = {"token": token}
    path = client.folder / "alice.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    client.environ["KUBECONFIG"] = str(path)
