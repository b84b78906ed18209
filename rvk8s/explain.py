"""Why is a pod not running: one sentence and the fix.

Pure functions of objects as the API server sends them. The driver puts what they say into run.json,
`rvk8s status` shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rvk8s.cluster import quota
from rvk8s.cluster.pod_state import (
    CONTAINERS,
    age,
    condition_of,
    has_ended,
)
from rvk8s.cluster.queues import is_suspended, queue_of

Object = Mapping[str, Any]

#: Reasons for which an image is not there yet, and those for which it never will be.
_PULLING = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}
_NO_IMAGE = {"InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_NO_IMAGE |= {"SignatureValidationFailed"}
#: What registries say of an image that they will not give, and of one to ask for later.
_REFUSED = re.compile(
    r"not found|unauthorized|denied|forbidden|no basic auth|manifest unknown|no match for platform"
    r"|x509",
    re.IGNORECASE,
)
_TOO_MANY = re.compile(r"too ?many ?requests", re.IGNORECASE)
#: What the API server says where not the object but something behind it is at fault.
_SERVER_FAULT = re.compile(
    r"internal error occurred|failed calling webhook|etcdserver: |timed out|too many requests"
    r"|connection refused",
    re.IGNORECASE,
)
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
#: The run's own ConfigMaps: its manifests and the project's files.
_OWN_FILES = re.compile(r'configmap "([^"]+)-(?:stages|source)" not found')
#: The random end of a pod's name, as Kubernetes makes it.
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]{5}"
_ACCESS = re.compile(rf"kube-api-access-{_RANDOM}\b")
#: How admission begins, also a LimitRange's, and the list of all that it has against a pod.
_FORBIDDEN = re.compile(r'pods "[^"]*" is forbidden')
_SEVERAL = re.compile(r"are forbidden: \[(.*)\]")
#: Events after which an earlier warning is of the past.
_WENT_ON = {"SuccessfulCreate", "SuccessfulCreatePod", "Pulling", "Pulled", "Created", "Started"}
#: Seconds after a pod should be gone from which its node is taken not to answer.
_OVERDUE = 30.0
#: Kueue's words for what others have at the moment, and for what a queue never has.
_LACKING = re.compile(r"insufficient unused quota for \S+ in flavor [^\s,]+, \S+ more needed")
_TOO_MUCH = "> maximum capacity"


@dataclass(frozen=True)
class Trouble:
    """Why something does not run.

    Attributes:
        text: one sentence and the fix.
        waits: whether waiting helps, as in a queue; else it would wait for ever.
        since: since when, as Kubernetes writes times; None where nothing says it.
        may_pass: whether it may be a fault that passes, where `waits` is not known to be true.
    """

    text: str
    waits: bool
    since: str | None = None
    may_pass: bool = False


def overdue(pod: Object) -> Trouble | None:
    """Why a pod that was told to end has not long ended; None where that is not so.

    Kubernetes does not know whether it still runs, and its Job gets no other one until somebody
    says that it does not: kubernetes.io/docs/concepts/cluster-administration/node-shutdown. To
    delete the pod by force is of no use: it keeps the Job's finalizer.
    """
    # The time to end that a pod gets is counted in.
    late, node = age(pod["metadata"].get("deletionTimestamp")), pod.get("spec", {}).get("nodeName")
    if late is None or late < _OVERDUE or not node or has_ended(pod):
        return None
    name = pod["metadata"]["name"]
    what = f"node {node} does not answer, so nobody knows whether pod {name} still runs"
    taint = f"`kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`"
    fix = f"once that machine is off, `kubectl delete node {node}` lets the run go on, or {taint}"
    return Trouble(f"{what}; {fix} where it is to come back", waits=True)


def pod_trouble(pod: Object) -> Trouble | None:
    """Why a pod does not run; None where nothing is wrong, or not yet."""
    if late := overdue(pod):
        return late
    status = pod.get("status", {})
    if status.get("phase") not in (None, "Pending"):
        return None
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        return _unscheduled(pod, scheduled)
    # Clusters put init containers of their own into pods.
    kinds = (status.get("initContainerStatuses") or (), status.get("containerStatuses") or ())
    for container in chain(*kinds):
        waiting = container.get("state", {}).get("waiting") or {}
        reason, text = waiting.get("reason") or "", _line(waiting.get("message"))
        if reason in _PULLING or reason in _NO_IMAGE:
            return _no_image(container.get("image"), reason, text)
        if reason in _CONFIG:
            fix = "make what is missing here, or correct storage.secretName or the pool's envFrom"
            if "not found" not in text:
                fix = "look at the image, and at `kubectl describe pod`"
            return Trouble(f"a pod cannot start: {text or reason}; {fix}", waits=False)
    return None


def _no_image(image: object, reason: str, text: str) -> Trouble:
    what = f"the image {image} cannot be pulled ({text or reason})"
    if _TOO_MANY.search(text):
        fix = "wait until the registry takes requests again, or log in to it (image.pullSecrets)"
        return Trouble(f"{what}; {fix}", waits=True)
    fix = "is its name right (--image), has the registry it"
    if "@" in str(image):
        fix += " still (a run keeps to what its tags were first; where that is gone submit it anew)"
    fix += ", and may the cluster pull it (image.pullSecrets)?"
    may_pass = reason in _PULLING and not _REFUSED.search(text)
    return Trouble(f"{what}; {fix}", waits=False, may_pass=may_pass)


def _unscheduled(pod: Object, scheduled: Object) -> Trouble:
    text, since = _line(scheduled.get("message")), scheduled.get("lastTransitionTime")
    if scheduled.get("reason") == "SchedulingGated":
        return Trouble("waits for admission by the cluster's queue", waits=True, since=since)
    if "pod affinity rules" in text:
        fix = "wait for room in the zone of the training, or set the pool's oneZone: preferred"
    elif "Insufficient" in text and (wants := gpus(pod)):
        fix = f"each pod wants {wants}: wait until some are free, or give fewer --gpus-per-node"
    elif "affinity" in text or "selector" in text or "taint" in text:
        fix = "do the pool's nodeSelector and tolerations fit its nodes?"
    else:
        fix = "wait until a node has room, or ask for less (pools, resources)"
    return Trouble(f"no node has room: {text or 'not scheduled yet'}; {fix}", True, since)


def gpus(pod: Object) -> str:
    """The GPUs, or parts of them, that a pod asks for: "2 nvidia.com/gpu"; empty for none."""
    for container in pod.get("spec", {}).get("containers", ()):
        for name, count in (container.get("resources", {}).get("limits") or {}).items():
            resource = name.rpartition("/")[2]
            if "gpu" in resource or resource.startswith("mig-"):
                return f"{count} {name}"
    return ""


def event_trouble(events: Iterable[Object], beside: Iterable[Object] = ()) -> Trouble | None:
    """Why something is not made or mounted; None where it went on after the last warning.

    Args:
        events: about it.
        beside: the pods of the run's driver, which stay while a stage waits.
    """
    for event in sorted(events, key=_event_order, reverse=True):
        reason, text = event.get("reason") or "", _steady(event)
        if reason in _WENT_ON:
            return None
        if event.get("type") != "Warning":
            continue
        if quota.is_exceeded(text):
            return _refused_by_quota(text, beside)
        if "violates PodSecurity" in text:
            fix = "the namespace's pod security standard forbids what a value asks for"
            return Trouble(f"a pod is refused: {text}; {fix}", waits=False)
        if reason == "FailedCreatePodSandBox":  # of the node and its network, not of the pod
            fix = "wait until its node can, or look at `kubectl describe pod`"
            return Trouble(f"a pod cannot start: {text}; {fix}", waits=True)
        if reason in ("FailedMount", "FailedAttachVolume"):
            fix = "make what is missing, or look at `kubectl describe pod`"
            if own := _OWN_FILES.search(text):
                again = f"`rvk8s submit ... --run-id {own[1]}`"
                fix = f"{again} makes the run's files anew; install a schedule again"
            may_pass = "timed out" in text or "deadline exceeded" in text
            return Trouble(f"a pod cannot start: {text}; {fix}", waits=False, may_pass=may_pass)
        if reason.startswith("FailedCreate"):
            return _not_made(text)
    return None


def _not_made(text: str) -> Trouble:
    fix, waits = "look at the namespace's quotas, limits and admission policies", False
    if "serviceaccount" in text and "not found" in text:
        fix = "install helm/rvk8s-platform, or set serviceAccounts"
    elif "because it is being terminated" in text:
        fix = "the namespace is being deleted: submit the run in another one"
    elif "object is being deleted" in text:  # an earlier one of the same name
        fix, waits = "wait until that one is gone", True
    elif _SERVER_FAULT.search(text):
        fix, waits = "the cluster's administrator can mend that; it is waited for", True
    return Trouble(f"no pod can be made: {text}; {fix}", waits)


def without_maker(kind: str) -> Trouble:
    """What has no pods although nothing says why; what makes them of this kind does not run."""
    if kind == "PyTorchJob":
        maker, fix = "the training operator", "start it, or train with --launcher job"
    else:
        maker, fix = "the cluster's Job controller", "look at kube-controller-manager"
    return Trouble(f"nothing makes its pods: does {maker} run? {fix}", waits=True)


def _refused_by_quota(text: str, beside: Iterable[Object]) -> Trouble:
    if quota.never_fits(text, [pod for pod in beside if not has_ended(pod)]):
        fix = "ask for less, or have the quota raised"
        return Trouble(f"the namespace's quota never allows that much: {text}; {fix}", waits=False)
    fix = "wait until others have ended, ask for less, or have the quota raised"
    return Trouble(f"the namespace's quota is used up: {text}; {fix}", waits=True)


def suspended(item: Object, workloads: Iterable[Object] = ()) -> Trouble | None:
    """Why a stage's object waits before it has pods; None where it does not.

    Args:
        workloads: what Kueue has of it.
    """
    if not is_suspended(item):
        return None
    what = f"waits in queue {queue}" if (queue := queue_of(item)) else "waits"
    for workload in workloads:
        reason, since = _not_admitted(workload)
        if reason:
            return Trouble(f"{what}: {reason}", waits=True, since=since)
    return Trouble(f"{what} for admission (it is suspended)", waits=True)


def _not_admitted(workload: Object) -> tuple[str, str | None]:
    """Why Kueue does not let something in, in its words, and since when; empty without a reason."""
    if workload.get("spec", {}).get("active") is False:
        return "its Workload is not active; set spec.active to true to let it go on", None
    held = condition_of(workload, "QuotaReserved")
    if held is None or held.get("status") != "False":
        return "", None
    text, since = _line(held.get("message")), held.get("lastTransitionTime")
    # Of flavors that could have it and of those that never could, the first say what is waited for.
    lacking = _LACKING.findall(text)
    if lacking:
        return ", ".join(lacking), since
    if _TOO_MUCH in text:
        return f"{text}; it never has that much: ask for less, or have its quota raised", since
    return text, since


def images(pods: Iterable[Object]) -> list[str]:
    """What pods of ours ran, by digest where the node knows it, sorted, each once."""
    found = set()
    for pod in pods:
        for status in pod.get("status", {}).get("containerStatuses") or ():
            if status.get("name") in CONTAINERS and status.get("imageID"):
                found.add(str(status["imageID"]))
    return sorted(found)


def _event_order(event: Object) -> tuple[str, bool]:
    """By time, in whole seconds; of one second, what went well last."""
    time = str(event.get("lastTimestamp") or event.get("eventTime") or "")
    return time[:19], event.get("reason") in _WENT_ON


def _steady(event: Object) -> str:
    """An event's message without what is different for each pod: a note must not change with it."""
    text = _FORBIDDEN.sub("its pods are forbidden", _line(event.get("message")))
    text = _ACCESS.sub("kube-api-access", text)
    if several := _SEVERAL.search(text):  # in the order of a Go map
        ordered = ", ".join(sorted(several[1].split(", ")))
        text = text.replace(several[1], ordered)
    name = (event.get("involvedObject") or {}).get("name")
    if name:
        # Of a Job its pods' names begin with its own, that of a pod has its own end.
        base = re.sub(rf"(-\d+)?-{_RANDOM}$", "", name)
        text = re.sub(rf"{re.escape(base)}(-\d+)?-{_RANDOM}\b", f"{base}-*", text)
    return text


def _line(text: object) -> str:
    return " ".join(str(text or "").split()).rstrip(".")
