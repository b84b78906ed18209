"""Kueue on the test cluster, for as long as a test wants it: its webhooks see every Job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import nodeimages, processes
from cluster.controlplane import kubectl, kubectl_json, succeeds
from cluster.kind import Kind
from cluster.programs import built
from cluster.testbed import Testbed, state_folder

from rvk8s import yaml_loader

NAMESPACE = "kueue-system"
#: What docs/guide/cluster.md tells an administrator to enable.
FRAMEWORKS = ["batch/job", "kubeflow.org/pytorchjob"]
#: As upstream's kustomization names its image.
_UPSTREAM = "us-central1-docker.pkg.dev/k8s-staging-images/kueue/kueue"
_MANAGER = "deployment/kueue-controller-manager"
_WEBHOOKS = "validatingwebhookconfigurations,mutatingwebhookconfigurations"
_OURS = "app.kubernetes.io/name=kueue"
_QUEUES = ("workloads", "localqueues", "clusterqueues", "resourceflavors")


@contextmanager
def installed(bed: Testbed) -> Iterator[None]:
    """Kueue works while the block lasts; nothing of it is left afterwards.

    Raises:
        processes.NotReady: its webhook does not answer in time.
    """
    folder = _write_kustomization(state_folder() / "scratch" / "kueue")
    nodeimages.restore(bed.node or Kind(state_folder()), [nodeimages.KUEUE])
    try:
        install(bed.kubeconfig, folder)
        yield
    finally:
        remove(bed.kubeconfig, folder)


def install(config: Path, folder: Path) -> None:
    """Apply the kustomization and wait until a Job with a queue is held back."""
    kubectl(config, "apply", "--server-side", "--force-conflicts", "-k", str(folder), seconds=120)
    # The manager writes its certificates into a Secret that its pod mounts, and the kubelet looks
    # at that again only after a minute. A pod that starts now has them from the start.
    processes.wait("Kueue's certificates", lambda: _has_certificates(config), 120)
    of_kueue = ("-n", NAMESPACE)
    kubectl(config, *of_kueue, "delete", "pods", "--all", "--grace-period=1", seconds=60)
    processes.wait("Kueue", lambda: _holds_back(config), 120)


def remove(config: Path, folder: Path) -> None:
    """Take Kueue off the cluster, whatever state it is in."""
    # First of all: a webhook whose pod is gone refuses every Job of the cluster.
    kubectl(config, "delete", _WEBHOOKS, "-l", _OURS, "--ignore-not-found")
    waiting = ("jobs,pytorchjobs", "-A", "-l", "kueue.x-k8s.io/queue-name")
    kubectl(config, "delete", *waiting, "--ignore-not-found", seconds=120)
    for kind in _QUEUES:
        _delete_all(config, kind)
    kubectl(config, "delete", "-k", str(folder), "--ignore-not-found", seconds=180)


def workloads(config: Path, namespace: str) -> list[dict[str, Any]]:
    """Kueue's Workloads in a namespace."""
    found = kubectl_json(config, "-n", namespace, "get", "workloads.kueue.x-k8s.io")
    items: list[dict[str, Any]] = found["items"]
    return items


def condition(workload: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a Workload; {} where it has none of the kind."""
    conditions = (workload.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def _write_kustomization(folder: Path) -> Path:
    """Upstream's own, from the locked Go module, with the image that is built here."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    upstream = built("kueue") / "config"
    file = "controller_manager_config.yaml"
    settings = yaml_loader.load((upstream / "components" / "manager" / file).read_text())
    settings["integrations"]["frameworks"] = FRAMEWORKS
    settings["leaderElection"]["leaderElect"] = False
    name, tag = nodeimages.KUEUE.rsplit(":", 1)
    pull = [{"name": "manager", "imagePullPolicy": "IfNotPresent"}]
    patches = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kueue-manager-config", "namespace": NAMESPACE},
            "data": {file: yaml.safe_dump(settings)},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "kueue-controller-manager", "namespace": NAMESPACE},
            "spec": {"template": {"spec": {"containers": pull}}},
        },
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath((upstream / "default").resolve(), folder.resolve())],
        "images": [{"name": _UPSTREAM, "newName": name, "newTag": tag}],
        "patches": [{"patch": json.dumps(patch)} for patch in patches],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def _has_certificates(config: Path) -> bool:
    found = kubectl_json(config, "-n", NAMESPACE, "get", "secret", "kueue-webhook-server-cert")
    return "tls.crt" in (found.get("data") or {})


def _holds_back(config: Path) -> bool:
    """Whether the webhooks answer: a Job that names a queue becomes suspended."""
    container = {"name": "none", "image": "docker.io/local/none:1"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "probe", "labels": {"kueue.x-k8s.io/queue-name": "none"}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }
    create = ("create", "--dry-run=server", "-n", "default", "-o", "json", "-f", "-")
    try:
        made = json.loads(kubectl(config, *create, stdin=json.dumps(job), seconds=15))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return bool(made["spec"].get("suspend"))


def _delete_all(config: Path, kind: str) -> None:
    """Delete the objects of a kind; those that their controller does not let go, without it."""
    name = f"{kind}.kueue.x-k8s.io"
    if not succeeds(config, "get", "crd", name):
        return
    kubectl(config, "delete", name, "--all", "-A", "--wait=false")
    end = time.monotonic() + 30
    while left := kubectl_json(config, "get", name, "-A")["items"]:
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    for item in left:
        metadata = item["metadata"]
        where = ("-n", metadata["namespace"]) if "namespace" in metadata else ()
        change = json.dumps({"metadata": {"finalizers": None}})
        kubectl(config, *where, "patch", name, metadata["name"], "--type=merge", "-p", change)
