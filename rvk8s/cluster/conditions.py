"""The words of Kubernetes and of its operators -> ours: one table, a sentence for each."""

from __future__ import annotations

from collections.abc import Mapping

from rvk8s.cluster import Object
from rvk8s.cluster.queues import is_suspended
from rvk8s.contract import Annotation, State

#: Condition of a Job -> state, and what it means. The first that is true counts.
JOB: Mapping[str, tuple[State, str]] = {
    "Complete": (State.SUCCEEDED, "all of its pods have done their work"),
    "SuccessCriteriaMet": (State.SUCCEEDED, "its work is done, its last pods are ending"),
    "Failed": (State.FAILED, "a pod failed for good, or too often"),
    "FailureTarget": (State.FAILED, "it has failed, its last pods are ending"),
    "Suspended": (State.PENDING, "it waits to be let in by its queue"),
}
#: Condition of a PyTorchJob (training operator v1) -> the same.
PYTORCH_JOB: Mapping[str, tuple[State, str]] = {
    "Succeeded": (State.SUCCEEDED, "one of its workers has ended well"),
    "Failed": (State.FAILED, "a worker failed"),
    "Suspended": (State.PENDING, "it waits to be let in by its queue"),
    "Restarting": (State.RUNNING, "a worker is being started again"),
    "Running": (State.RUNNING, "its workers are running"),
    "Created": (State.PENDING, "its pods are being created"),
}
_TABLES = {"Job": JOB, "PyTorchJob": PYTORCH_JOB}
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def state_of(item: Object) -> tuple[State, str]:
    """The state of a Job or PyTorchJob, and why, in a few words."""
    status = item.get("status") or {}
    true = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    for condition, (state, sentence) in _TABLES[item["kind"]].items():
        if condition in true:
            if state == State.FAILED and true[condition].get("message"):
                sentence = true[condition]["message"]
            return state, sentence
    if item["kind"] == "Job" and status.get("ready"):
        return State.RUNNING, "its pods are running"
    if status.get("active"):
        return State.PENDING, "its pods are not running yet"
    if is_suspended(item):
        return JOB["Suspended"]
    return State.PENDING, "it has no pods yet"


def run_state(driver: Object) -> tuple[State, str]:
    """The state of a run by its driver's Job, and why, in a few words."""
    state, sentence = state_of(driver)
    cancelled = (driver["metadata"].get("annotations") or {}).get(Annotation.CANCEL)
    suspended = bool((driver.get("spec") or {}).get("suspend"))
    if cancelled and (state == State.FAILED or suspended):
        return State.CANCELLED, f"cancelled at {cancelled}"
    return state, sentence


def run_has_ended(driver: Object) -> bool:
    """Whether nothing of a run goes on by itself."""
    return run_state(driver)[0] in ENDED
