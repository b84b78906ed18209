"""Notes about pods stay the same from one try to the next."""

from __future__ import annotations

import pytest

from rvk8s.explain import event_trouble

EVENT = {"type": "Warning", "lastTimestamp": "2026-11-24T13:15:03Z"}
LIMIT = "maximum memory usage per Container is 1Gi, but limit is 2Gi"


@pytest.mark.parametrize(
    ("reason", "name", "texts", "wanted"),
    [
        (
            "FailedCreate",
            "run-chip",
            [
                f'Error creating: pods "run-chip-{i}" is forbidden: {LIMIT}'
                for i in ("x5kqz", "2bcdf")
            ],
            LIMIT,
        ),
        (
            "FailedCreate",
            "run-chip",
            [
                'Error creating: pods "run-chip-3-x5kqz" is forbidden: [a is 1, b is 2]',
                'Error creating: pods "run-chip-0-7hjkl" is forbidden: [b is 2, a is 1]',
            ],
            "[a is 1, b is 2]",
        ),
        (
            "FailedCreate",
            "run-chip",
            [
                f'admission webhook "k" denied the request: Pod/ns/run-chip-{i} was blocked'
                for i in ("x5kqz", "0-2bcdf")
            ],
            "Pod/ns/run-chip-* was blocked",
        ),
        (
            "FailedMount",
            "run-chip-0-x5kqz",
            [
                f'volume "kube-api-access-{i}": object "ns/ca" not registered'
                for i in ("7xk2p", "zzzzz")
            ],
            "kube-api-access",
        ),
        (
            "FailedCreate",
            "run-20261123-131501-7f3a",
            ['Error creating: configmap "run-20261123-131501-7f3a-source" not found'] * 2,
            "run-20261123-131501-7f3a-source",
        ),
    ],
)
def test_a_note_does_not_change_with_the_names_of_pods(
    reason: str, name: str, texts: list[str], wanted: str
) -> None:
    found = []
    for text in texts:
        trouble = event_trouble(
            [{**EVENT, "reason": reason, "message": text, "involvedObject": {"name": name}}]
        )
        assert trouble is not None
        found.append(trouble.text)
    assert len(set(found)) == 1
    assert wanted in found[0]
