"""The training operator, installed by the project's own kustomization."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from cluster import processes
from cluster.controlplane import kubectl
from cluster.nodeimages import OPERATOR
from cluster.programs import built, version

KUSTOMIZATION = Path(__file__).parents[2] / "manifests" / "training-operator"
UPSTREAM = "https://github.com/kubeflow/training-operator//manifests/overlays/standalone?ref="
NAMESPACE = "kubeflow"

# Upstream asks for the first time after 10 seconds, and then every 15.
_LOOK_OFTEN = """
patches:
  - target: {kind: Deployment, name: training-operator}
    patch: |
      - op: add
        path: /spec/template/spec/containers/0/readinessProbe
        value:
          httpGet: {path: /readyz, port: 8081}
          periodSeconds: 1
          timeoutSeconds: 5
          failureThreshold: 12
"""


def install(config: Path, scratch: Path) -> None:
    """Apply the kustomization, with upstream's manifests taken from the locked Go module.

    The module is what upstream tagged, so both are the same files; a different tag in the
    kustomization is an error. It does not wait: `wait_for` does.
    """
    folder = scratch / "training-operator"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = (KUSTOMIZATION / "kustomization.yaml").read_text()
    remote = UPSTREAM + version("training-operator")
    assert remote in text, f"manifests/training-operator does not pin {remote}"
    local = built("training-operator") / "manifests" / "overlays" / "standalone"
    text = text.replace(remote, os.path.relpath(local.resolve(), folder.resolve()))
    name, tag = OPERATOR.rsplit(":", 1)
    mirror = "newName: ghcr.io/kubeflow/training-v1/training-operator"
    assert mirror in text
    text = text.replace(mirror, f"newName: {name}\n    newTag: {tag}")
    (folder / "kustomization.yaml").write_text(text + _LOOK_OFTEN)
    kubectl(config, "apply", "--server-side", "--force-conflicts", "-k", str(folder))


def replace_pending(config: Path) -> None:
    """Delete the operator's pods that have not started.

    A pod whose image was missing asks for it again only after up to five minutes; its Deployment's
    next one does so at once.
    """
    pending = "--field-selector=status.phase=Pending"
    kubectl(config, "-n", NAMESPACE, "delete", "pods", pending, "--ignore-not-found")


def wait_for(config: Path, seconds: float = 180) -> None:
    """Wait until a PyTorchJob can be created: the operator's webhook answers.

    Raises:
        processes.NotReady: it does not in time.
    """
    processes.wait("the training operator", lambda: _accepts(config), seconds)


def _accepts(config: Path) -> bool:
    container = {"name": "pytorch", "image": "docker.io/local/none:1"}
    replicas = {"Worker": {"replicas": 1, "template": {"spec": {"containers": [container]}}}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"pytorchReplicaSpecs": replicas},
    }
    try:
        kubectl(config, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(job), seconds=15)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True
