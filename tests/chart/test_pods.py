"""What stands on pods: annotations of their pool, requests beside limits."""

from __future__ import annotations

from typing import Any

import pytest
from chart import cases, rendering
from chart.cases import merged, run, train

from rvk8s.contract import Label

_MESHES = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
#: What the cluster autoscaler and Karpenter read before they move a pod to save a node.
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def _annotations(values: cases.Values) -> dict[str, dict[str, str]]:
    """Stage, or driver -> the annotations of its pods."""
    applied = rendering.objects(values, "r")
    found = {}
    for _, template in rendering.pod_templates(rendering.everything(applied)):
        labels = template["metadata"]["labels"]
        found[labels.get(Label.STAGE, "driver")] = template["metadata"]["annotations"]
    return found


@pytest.mark.parametrize("case", ["gpus", "launcher-job", "schedule"])
def test_nothing_joins_pods_and_stages_stay_where_they_are(case: str) -> None:
    found = _annotations(cases.RUNS[case])
    assert found.pop("driver") == _MESHES  # it goes on elsewhere at no cost
    assert len(found) == 7
    assert all(one == _MESHES | _STAY for one in found.values())


def test_annotations_of_a_pool_are_stronger() -> None:
    own = {"karpenter.sh/do-not-disrupt": "4h", "example.com/bill": "maps: 1 & 2"}
    found = _annotations(merged(train(gpus=2), {"pools": {"gpu": {"annotations": own}}}))
    assert found["train"] == {**_MESHES, **_STAY, **own}
    assert found["chip"] == {**_MESHES, **_STAY}
    found = _annotations(run(pools={"cpu": {"annotations": own}}))
    assert found["driver"] == {**_MESHES, **own}
    assert found["chip"] == {**_MESHES, **_STAY, **own}


@pytest.mark.parametrize(
    ("given", "limits", "requests"),
    [
        ({"limits": {"cpu": "500m"}}, {"cpu": "500m"}, {"cpu": "500m"}),
        ({"requests": {"cpu": "500m"}}, {"cpu": "2"}, {"cpu": "500m"}),
        (
            {"limits": {"memory": "16Gi"}, "requests": {"memory": "4Gi"}},
            {"memory": "16Gi"},
            {"memory": "4Gi"},
        ),
        ({"limits": {"example.com/x": 2}}, {"example.com/x": "2"}, {"example.com/x": "2"}),
    ],
)
def test_a_limit_without_a_request_is_the_request(
    given: dict[str, Any], limits: dict[str, str], requests: dict[str, str]
) -> None:
    applied = rendering.objects(train(resources=given), "r")
    ((_, template),) = rendering.pod_templates(rendering.stages(applied)["train"])
    (container,) = template["spec"]["containers"]
    of_pool = {"cpu": "2", "memory": "8Gi"}
    assert container["resources"] == {
        "limits": {**of_pool, **limits},
        "requests": {**of_pool, **requests},
    }
