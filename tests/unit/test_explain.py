"""What the events of a pod or a Job say about why it does not run."""

from __future__ import annotations

from typing import Any

import pytest

from rvk8s.explain import event_trouble


def event(reason: str, second: int, message: str = "", kind: str = "") -> dict[str, Any]:
    warns = reason.startswith("Failed")
    return {
        "type": kind or ("Warning" if warns else "Normal"),
        "reason": reason,
        "message": message,
        "firstTimestamp": "2026-11-24T10:00:00Z",
        "lastTimestamp": f"2026-11-24T13:15:{second:02}Z",
    }


NO_ADDRESS = "Failed to create pod sandbox: failed to assign an IP"


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([event("FailedCreatePodSandBox", 1, NO_ADDRESS)], "a pod cannot start: Failed to create"),
        ([event("FailedCreatePodSandBox", 1, NO_ADDRESS), event("Pulling", 4)], None),
        ([event("Pulling", 4), event("FailedCreatePodSandBox", 1, NO_ADDRESS)], None),
        ([event("Pulled", 1), event("FailedMount", 9, "secret x not found")], "secret x not found"),
        ([event("FailedMount", 9, "timed out"), event("Started", 9)], None),
        ([event("Scheduled", 9), event("FailedMount", 1, "timed out")], "timed out"),
        ([event("FailedCreate", 3, "exceeded quota: gpus")], "quota is used up"),
        ([event("FailedCreate", 3, "exceeded quota: gpus"), event("SuccessfulCreate", 5)], None),
        ([event("FailedCreate", 3, "admission webhook says no")], "no pod can be made"),
        ([event("FailedScheduling", 3, "0/5 nodes")], None),
        ([], None),
    ],
)
def test_a_warning_counts_until_things_went_on(
    events: list[dict[str, Any]], says: str | None
) -> None:
    trouble = event_trouble(events)
    assert (trouble is None) == (says is None)
    if trouble:
        assert says is not None
        assert says in trouble.text
        assert trouble.since is None, "an event's first time may be of an earlier trouble"
