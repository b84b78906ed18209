"""Single pods on the test cluster, as the restricted standard lets them in."""

from __future__ import annotations

import json
from typing import Any

from cluster.controlplane import kubectl, kubectl_json
from cluster.testbed import Testbed

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(
    bed: Testbed, name: str, *args: str, env: dict[str, str] | None = None, gpus: int = 0
) -> dict[str, Any]:
    """A pod of the driver's image that the restricted standard lets in."""
    container: dict[str, Any] = {
        "name": "main",
        "image": bed.images[1],
        "imagePullPolicy": "IfNotPresent",
        "args": list(args),
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": RESTRICTED,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def create(bed: Testbed, namespace: str, *objects: dict[str, Any]) -> None:
    for item in objects:
        kubectl(bed.kubeconfig, "-n", namespace, "create", "-f", "-", stdin=json.dumps(item))


def phase(bed: Testbed, namespace: str, name: str) -> str:
    found = kubectl_json(bed.kubeconfig, "-n", namespace, "get", "pod", name)
    return str(found["status"].get("phase"))


def output(bed: Testbed, namespace: str, name: str, seconds: int = 60) -> str:
    """What a pod printed, once it has succeeded."""
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    wait = ("wait", succeeded, f"pod/{name}", f"--timeout={seconds}s")
    try:
        kubectl(bed.kubeconfig, "-n", namespace, *wait, seconds=seconds + 30)
    finally:
        said = kubectl(bed.kubeconfig, "-n", namespace, "logs", name)
    return said
