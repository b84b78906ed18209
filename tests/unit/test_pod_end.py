"""What a stage's own last line makes of its pod's end."""

from __future__ import annotations

from typing import Any

import pytest

from rvk8s.pod_end import verdict

SAID = "s3://bucket/runs: access denied (InvalidAccessKeyId)"


def pod(code: int, reason: str, message: str, container: str = "stage") -> dict[str, Any]:
    over = {"exitCode": code, "reason": reason, "message": message}
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": container, "image": "i"}]},
        "status": {
            "phase": "Failed",
            "containerStatuses": [{"name": container, "state": {"terminated": over}}],
        },
    }


@pytest.mark.parametrize("container", ["stage", "pytorch"])
@pytest.mark.parametrize(
    ("code", "reason", "kept", "words"),
    [
        (2, "Error", 2, SAID),
        (1, "Error", 1, SAID),
        (138, "Error", 138, SAID),
        # A worker was killed for want of memory, and the stage could still say so.
        (12, "OOMKilled", 12, SAID),
        (137, "OOMKilled", 12, "killed for want of memory"),
        (128, "StartError", 138, "could not start it"),
    ],
)
def test_a_termination_message_is_shown(
    container: str, code: int, reason: str, kept: int, words: str
) -> None:
    found = verdict(pod(code, reason, f"{SAID}\n", container))
    assert found is not None
    assert found.code == kept
    assert words in str(found.message)


def test_the_end_of_a_driver_s_log_is_no_message() -> None:
    found = verdict(pod(2, "Error", "10:00 INFO begins\n10:01 ERROR no", "driver"))
    assert found is not None
    assert found.message is None
