"""What is said of a stage that waits in a queue of Kueue, from its Workload."""

from __future__ import annotations

from typing import Any

import pytest
from said import says

from rvk8s import explain
from rvk8s.cluster.conditions import state_of
from rvk8s.contract import State

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
SINCE = "2026-11-24T10:00:00Z"
#: As Kueue 0.15 words it where the flavor `cpu` has no GPUs and others have those of `gpu`.
BUSY = (
    "couldn't assign flavors to pod set worker: insufficient quota for nvidia.com/gpu in flavor "
    "cpu, previously considered podsets requests (0) + current podset request (4) > maximum "
    "capacity (0), insufficient unused quota for nvidia.com/gpu in flavor gpu, 4 more needed"
)


def training(suspend: bool = True, **labels: str) -> dict[str, Any]:
    return {
        "kind": "PyTorchJob",
        "metadata": {"name": "one-train", "labels": labels},
        "spec": {"runPolicy": {"suspend": suspend}},
    }


def workload(message: str, status: str = "False", active: bool = True) -> dict[str, Any]:
    held = {"type": "QuotaReserved", "status": status, "message": message}
    conditions = [{**held, "lastTransitionTime": SINCE}]
    return {"spec": {"active": active}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([], "…queue gpus…suspended…"),
        ([{"spec": {}}], "…queue gpus…suspended…"),
        ([workload("", "True")], "…queue gpus…suspended…"),
        (
            [workload(BUSY)],
            "…queue gpus: insufficient unused quota for nvidia.com/gpu in flavor gpu, "
            "4 more needed",
        ),
        ([workload("ClusterQueue team is inactive")], "…queue gpus: ClusterQueue team is inactive"),
    ],
)
def test_what_a_queue_waits_for(found: list[dict[str, Any]], text: str) -> None:
    seen = explain.suspended(training(**QUEUE), found)
    assert seen
    assert seen.waits
    assert says(seen.text, text)


def test_since_when_it_waits() -> None:
    seen = explain.suspended(training(**QUEUE), [workload(BUSY)])
    assert seen
    assert seen.since == SINCE


def test_more_than_a_queue_ever_has() -> None:
    message = BUSY.partition(", insufficient unused")[0]
    seen = explain.suspended(training(**QUEUE), [workload(message)])
    assert seen
    assert says(seen.text, "…never…quota raised")


def test_what_was_put_out_by_hand() -> None:
    seen = explain.suspended(training(**QUEUE), [workload(BUSY, active=False)])
    assert seen
    assert says(seen.text, "…Workload…not active…")


def test_what_is_not_suspended_does_not_wait() -> None:
    assert explain.suspended(training(suspend=False, **QUEUE), [workload(BUSY)]) is None


def test_a_training_that_is_suspended_before_it_has_conditions() -> None:
    state, text = state_of(training())
    assert state == State.PENDING
    assert says(str(text), "…waits…queue…")
