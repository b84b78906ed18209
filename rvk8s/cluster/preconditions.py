"""What a run needs of a cluster, looked at before anything is created."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.kinds import Forbidden, NotFound
from rvk8s.cluster.queues import queue_of
from rvk8s.errors import ClusterUnavailable, InputError, InputErrors
from rvk8s.parallel import in_threads
from rvk8s.yaml_loader import load_all

_PLATFORM = "helm install rvk8s-platform helm/rvk8s-platform -n"


def check(cluster: Cluster, manifests: Sequence[Object], skip_kinds: Iterable[str] = ()) -> None:
    """Ask the cluster for what the manifests name, and whether it would take them.

    Then, where nothing is missing, whether it would take what the driver will make. What the user
    may not look at or try is left out: the driver and `rvk8s status` say it later.

    Args:
        skip_kinds: manifests of these kinds are not sent for a trial.

    Raises:
        InputErrors: the namespace, a service account, the launcher's kind, the queue, a Secret or
            one of its keys, a ConfigMap is missing; a manifest is refused. A line for each.
        ClusterUnavailable: the API server, or a webhook that it asks, does not answer.
    """
    try:
        _check(cluster, manifests, set(skip_kinds))
    except ClusterUnavailable as error:
        raise ClusterUnavailable(f"{error}; nothing was created: try again later") from error


def _check(cluster: Cluster, manifests: Sequence[Object], skipped: set[str]) -> None:
    namespace = cluster.namespace
    if _seen(partial(cluster.get, "Namespace", namespace)) is None:
        raise InputErrors([_no_namespace(namespace)])
    stages = [document for manifest in manifests for document in _stage_manifests(manifest)]
    pods = [pod for manifest in (*manifests, *stages) for pod in _pod_specs(manifest)]
    looks: list[Callable[[], list[InputError]]] = [
        *(partial(_account, cluster, name) for name in _accounts(pods)),
        *(partial(_secret, cluster, name, keys) for name, keys in _secrets(pods).items()),
        *(partial(_config_map, cluster, name) for name in _config_maps(pods)),
        *(partial(_kind, cluster, kind) for kind in sorted({one["kind"] for one in stages})),
        *(partial(_queue, cluster, name) for name in _queues([*manifests, *stages])),
        *(
            partial(_trial, cluster, manifest)
            for manifest in manifests
            if manifest["kind"] not in skipped
        ),
    ]
    later: list[Callable[[], list[InputError]]] = [
        partial(_stage_trial, cluster, one) for one in _tried(stages) if one["kind"] not in skipped
    ]
    for some in (looks, later):
        errors = [error for found in in_threads(lambda look: look(), some) for error in found]
        if errors:
            raise InputErrors(list({str(error): error for error in errors}.values()))


def check_namespace(cluster: Cluster) -> None:
    """See that the namespace is there, where the user may look at it.

    Raises:
        InputError: it is not.
    """
    if cluster.namespace and _seen(partial(cluster.get, "Namespace", cluster.namespace)) is None:
        raise _no_namespace(cluster.namespace)


def _no_namespace(namespace: str) -> InputError:
    fix = f"create it, or give another one with -n: `{_PLATFORM} {namespace} --create-namespace`"
    return InputError(f"there is no namespace {namespace}", fix=fix)


def _account(cluster: Cluster, name: str) -> list[InputError]:
    if _seen(partial(cluster.get, "ServiceAccount", name)) is not None:
        return []
    fix = f"`{_PLATFORM} {cluster.namespace}` makes it, or name another in values.serviceAccounts"
    return [InputError(f"no service account {name} in namespace {cluster.namespace}", fix=fix)]


def _secret(cluster: Cluster, name: str, keys: set[str]) -> list[InputError]:
    secret = _seen(partial(cluster.get, "Secret", name))
    if secret is None:
        words = ["kubectl create secret generic", name, "-n", cluster.namespace]
        words += [f"--from-literal={key}=..." for key in sorted(keys)]
        fix = f"`{' '.join(words)}`" if keys else "create it"
        return [InputError(f"no Secret {name} in namespace {cluster.namespace}", fix=fix)]
    # One that the user may not read is {}; a real one has a kind.
    missing = sorted(keys - set(secret.get("data") or ())) if "kind" in secret else []
    if not missing:
        return []
    fix = f"`kubectl edit secret {name} -n {cluster.namespace}` adds what is missing"
    return [InputError(f"Secret {name} has no {' and no '.join(missing)}", fix=fix)]


def _config_map(cluster: Cluster, name: str) -> list[InputError]:
    if _seen(partial(cluster.get, "ConfigMap", name)) is not None:
        return []
    what = f"no ConfigMap {name} in namespace {cluster.namespace}"
    return [InputError(what, fix="create it, or correct the pool's envFrom")]


def _kind(cluster: Cluster, kind: str) -> list[InputError]:
    """Whether the API has a kind: an object of any name is asked for."""
    try:
        cluster.get(kind, "rvk8s")
    except Forbidden:
        return []
    except InputError as error:
        return [error]
    return []


def _queues(manifests: Iterable[Object]) -> list[str]:
    return sorted({queue_of(manifest) for manifest in manifests} - {""})


def _queue(cluster: Cluster, name: str) -> list[InputError]:
    try:
        if _seen(partial(cluster.get, "LocalQueue", name)) is not None:
            return []
    except InputError as error:
        return [error]
    fix = "name another in values.queue or values.driver.queue, or have it made: "
    fix += "helm/rvk8s-platform, kueue.enabled"
    return [InputError(f"no LocalQueue {name} in namespace {cluster.namespace}", fix=fix)]


def _trial(cluster: Cluster, manifest: Object) -> list[InputError]:
    try:
        cluster.apply(manifest, dry_run=True)
    except NotFound:
        return [_no_namespace(cluster.namespace)]
    except InputError as error:
        return [error]
    return []


def _stage_trial(cluster: Cluster, manifest: Object) -> list[InputError]:
    """The driver makes it; the user need not be allowed to."""
    return [error for error in _trial(cluster, manifest) if not isinstance(error, Forbidden)]


def _tried(stages: Iterable[Object]) -> Iterator[Object]:
    """The stages' manifests, and for a PyTorchJob a Job of its pods, too.

    The definition of PyTorchJobs takes pods that could never be made, such as one whose request is
    above its limit.
    """
    for manifest in stages:
        yield manifest
        if manifest["kind"] == "PyTorchJob":
            template = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
            head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"]}
            yield {**head, "spec": {"template": template}}


def _seen(get: Callable[[], Object | None]) -> Object | None:
    """What get() gives; something that is neither None nor an object where it is forbidden."""
    try:
        return get()
    except Forbidden:
        return {}


def _stage_manifests(manifest: Object) -> Iterator[Object]:
    """What the driver will create: the .yaml keys of the run's ConfigMap."""
    if "plan.json" in (manifest.get("data") or {}):
        for key, text in manifest["data"].items():
            if key.endswith(".yaml"):
                yield from load_all(text)


def _pod_specs(value: Any) -> Iterator[Object]:
    """Everything below an object that is a pod's spec."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        else:
            for below in value.values():
                yield from _pod_specs(below)


def _accounts(pods: Iterable[Object]) -> list[str]:
    return sorted({pod.get("serviceAccountName") or "default" for pod in pods})


def _config_maps(pods: Iterable[Object]) -> list[str]:
    """Those that pods cannot start without, but for the run's own."""
    containers = [container for pod in pods for container in pod["containers"]]
    entries = [entry for one in containers for entry in one.get("envFrom") or ()]
    refs = [entry["configMapRef"] for entry in entries if "configMapRef" in entry]
    return sorted({ref["name"] for ref in refs if not ref.get("optional")})


def _secrets(pods: Iterable[Object]) -> dict[str, set[str]]:
    """Name -> keys of the Secrets that pods cannot start without."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            for entry in container.get("env") or ():
                ref = (entry.get("valueFrom") or {}).get("secretKeyRef")
                if ref and not ref.get("optional"):
                    found.setdefault(ref["name"], set()).add(ref["key"])
            for entry in container.get("envFrom") or ():
                ref = entry.get("secretRef")
                if ref and not ref.get("optional"):
                    found.setdefault(ref["name"], set())
        for volume in pod.get("volumes") or ():
            secret = volume.get("secret")
            if secret and not secret.get("optional"):
                keys = {item["key"] for item in secret.get("items") or ()}
                found.setdefault(secret["secretName"], set()).update(keys)
        for ref in pod.get("imagePullSecrets") or ():
            found.setdefault(ref["name"], set())
    return found
