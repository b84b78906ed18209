"""What became of a pod that has ended, and which of several that failed is the cause.

Pure functions of objects as the API server sends them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rvk8s.cluster.pod_state import (
    CONTAINERS,
    condition_of,
    container_of,
    has_ended,
    terminated,
)
from rvk8s.contract import ExitCode, is_retryable

Object = Mapping[str, Any]

#: What runc and crun say of an image's program that cannot be run, and of one of the node's own.
_NO_PROGRAM = re.compile(
    r"executable file|open executable|exec format error"
    r"|(?<!/)\bexec:? \S+: .*(no such file or directory|permission denied)",
    re.IGNORECASE,
)
_OF_THE_NODE = re.compile(r"nvidia-c|hook|retrieve OCI runtime error", re.IGNORECASE)
#: Reasons of a failed pod whose node, not whose program, is at fault.
_NODE_REASONS = {
    "Evicted",
    "Preempting",
    "NodeLost",
    "NodeShutdown",
    "Shutdown",
    "Terminated",
    "NodeAffinity",
    "UnexpectedAdmissionError",
    "DeletionByTaintManager",
    "DeletionByPodGC",
}
#: How a message begins where a node ran short, not a pod: of what all of its pods use together.
_NODE_SHORT = "The node was low on resource"
_LESS_DISK = "give the pool more ephemeralStorage or shm, or use fewer chips"
#: The chart's volume below the project's files, which a relative path is written to.
_PROJECT = 'volume "project"'
_NOT_THERE = "write below /tmp instead: the folder of the project's files takes 1 MiB"


@dataclass(frozen=True)
class Verdict:
    """What became of a pod.

    Attributes:
        code: exit code in the words of contract.ExitCode.
        message: why, where the stage itself cannot have said it.
        disrupted: whether its node, not its program, is at fault.
    """

    code: int
    message: str | None = None
    disrupted: bool = False

    def as_full_disk(self) -> Verdict:
        """The same of a pod that fills the disk of each node that it gets."""
        return Verdict(ExitCode.DISK_FULL, f"{self.message}; give nodes more disk, or {_LESS_DISK}")


def verdict(pod: Object) -> Verdict | None:
    """What became of a pod; None while it has not ended."""
    status = pod.get("status", {})
    phase = status.get("phase")
    if phase == "Succeeded":
        return Verdict(0)
    ended = terminated(pod)
    if phase != "Failed":
        # The kubelet takes a moment to bring the phase after the container's end.
        return Verdict(0) if ended and ended.get("exitCode") == 0 else None
    reason, text = status.get("reason") or "", _line(status.get("message"))
    over = "ephemeral" in text or "EmptyDir" in text or "emptyDir" in text
    if reason == "Evicted" and over and not text.startswith(_NODE_SHORT):
        fix = _NOT_THERE if _PROJECT in text else _LESS_DISK
        return Verdict(ExitCode.DISK_FULL, f"its node ended it: {text}; {fix}")
    why_not = condition_of(pod, "DisruptionTarget")
    if why_not and why_not.get("status") == "True":
        return _lost_node(why_not)
    if ended is None or reason in _NODE_REASONS or reason.startswith("OutOf"):
        return Verdict(ExitCode.PREEMPTED, f"lost its node: {reason} {text}".strip(), True)
    return _of_container(pod, ended)


def _lost_node(condition: Object) -> Verdict:
    text = _line(condition.get("message")) or condition.get("reason", "")
    return Verdict(ExitCode.PREEMPTED, f"lost its node: {text}", disrupted=True)


def disk_was_full(pod: Object) -> bool:
    """Whether a pod had to go because its node's disk was full, of its own data or of others'."""
    status = pod.get("status", {})
    text = _line(status.get("message"))
    full = tuple(f"{_NODE_SHORT}: {what}" for what in ("ephemeral-storage", "inodes"))
    return status.get("reason") == "Evicted" and text.startswith(full)


def _of_container(pod: Object, ended: Object) -> Verdict:
    code, reason = int(ended.get("exitCode", 1)), ended.get("reason") or ""
    said = _said(pod, ended)
    if said and code < ExitCode.KILLED:
        return Verdict(code, said)
    if reason == "OOMKilled" and code:
        limit = (_container(pod).get("resources", {}).get("limits") or {}).get("memory")
        bound = f" (its limit is {limit})" if limit else ""
        fix = "give the pool more memory, or use smaller batches, chips or fewer workers"
        return Verdict(ExitCode.OUT_OF_MEMORY, f"was killed for want of memory{bound}; {fix}")
    if reason in ("StartError", "ContainerCannotRun"):
        return _not_started(pod, _line(ended.get("message")))
    if reason == "ContainerStatusUnknown":
        return Verdict(ExitCode.PREEMPTED, "lost its node: nobody saw it end", disrupted=True)
    return Verdict(code, said)


def _said(pod: Object, ended: Object) -> str | None:
    """Why a stage's container ended, as rvk8s-stage says it in the termination message."""
    is_ours = ended.get("reason") in ("Error", "OOMKilled", None) and container_of(pod) != "driver"
    return (str(ended.get("message") or "").strip() or None) if is_ours else None


def _not_started(pod: Object, text: str) -> Verdict:
    if not _NO_PROGRAM.search(text) or _OF_THE_NODE.search(text):
        what = f"its node {pod['spec'].get('nodeName')} could not start it: {text}"
        return Verdict(ExitCode.RETRYABLE, what)
    fix = "the image must have rvk8s-stage and rvk8s-driver on its PATH: build it as docker/ does"
    what = f"image {_container(pod).get('image')} does not start: {text}; {fix}"
    return Verdict(ExitCode.BAD_INPUT, what)


def first_cause(pods: Sequence[Object]) -> tuple[Object, Verdict] | None:
    """Of pods that fail together: the one that the others failed of.

    A final code says why. After it come a lost node and whatever was killed; 138 of a training
    often means that another rank is gone. A pod whose node does not answer never ends by itself.
    """
    found = [(pod, said) for pod in pods if (said := verdict(pod) or _leaving(pod)) and said.code]

    def order(item: tuple[Object, Verdict]) -> tuple[int, str]:
        pod, said = item
        ended = terminated(pod) or {}
        rank = 0 if not is_retryable(said.code) else 1 if said.disrupted else 2
        if said.code in (ExitCode.RETRYABLE, ExitCode.PREEMPTED) and not said.disrupted:
            rank = 3
        return rank, str(ended.get("finishedAt") or "")

    return min(found, key=order) if found else None


def _leaving(pod: Object) -> Verdict | None:
    """What becomes of a pod that Kubernetes takes off its node; None where it does not."""
    why = condition_of(pod, "DisruptionTarget")
    if has_ended(pod) or not pod["metadata"].get("deletionTimestamp") or why is None:
        return None
    return _lost_node(why) if why.get("status") == "True" else None


def last_words(pod: Object) -> str | None:
    """The error that a driver's pod ended with, as the end of its log says it; None without one."""
    ended = terminated(pod) or {}
    lines = str(ended.get("message") or "").strip().splitlines()
    said = [line.partition(" ERROR ")[2].strip() for line in lines]
    return next((text for text in reversed(said) if text), None)


def _container(pod: Object) -> Object:
    """Ours."""
    found = pod.get("spec", {}).get("containers", ())
    return next((one for one in found if one["name"] in CONTAINERS), {})


def _line(text: object) -> str:
    return " ".join(str(text or "").split()).rstrip(".")
