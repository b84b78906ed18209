"""What an administrator installs: quotas, queues, whom pods may reach."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
from chart import rendering

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def _flavors(*flavors: dict[str, Any]) -> dict[str, Any]:
    return {"kueue": {"enabled": True, "flavors": list(flavors)}}


def test_a_flavor_has_the_labels_and_taints_of_its_nodes() -> None:
    """Else Kueue lets in what does not bear the taints, and it finds no node."""
    labels = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    cpu = {"name": "cpu", "quotas": {"cpu": 8}}
    gpu = {"name": "gpu", "nodeLabels": labels, "taints": [TAINT], "quotas": {"cpu": 8}}
    tainted = {"name": "spot", "taints": [TAINT], "quotas": {"cpu": 8}}
    found = {
        one["metadata"]["name"]: one.get("spec")
        for one in rendering.objects(_flavors(cpu, gpu, tainted), "p", "rvk8s-platform")
        if one["kind"] == "ResourceFlavor"
    }
    assert found == {
        "cpu": None,
        "gpu": {"nodeLabels": labels, "nodeTaints": [TAINT]},
        "spot": {"nodeTaints": [TAINT]},
    }


@pytest.mark.parametrize("taint", [{"key": "a", "effect": "never"}, {"effect": "NoSchedule"}])
def test_what_is_no_taint(taint: dict[str, str]) -> None:
    flavor = {"name": "gpu", "taints": [taint], "quotas": {"cpu": 8}}
    with pytest.raises(helm_python.HelmValuesError, match="/kueue/flavors/0/taints/0"):
        rendering.text(_flavors(flavor), "p", "rvk8s-platform")


def test_the_queue_is_not_the_one_that_takes_the_drivers() -> None:
    """Kueue gives the LocalQueue called default to all Jobs that name none."""
    values = {"kueue": {"enabled": True, "localQueue": "default"}}
    with pytest.raises(
        helm_python.HelmRenderError, match=r"values\.kueue\.localQueue: default is .*another name"
    ):
        rendering.text(values, "p", "rvk8s-platform")


def test_a_quota_of_limits_needs_a_default_for_pods_that_name_none() -> None:
    """The driver and the TensorBoard, which the API server would refuse."""
    quota = {"hard": {"limits.cpu": 64, "limits.memory": "1Ti"}}
    with pytest.raises(
        helm_python.HelmRenderError, match=r"values\.quota\.hard: limits\.cpu keeps"
    ):
        rendering.text({"quota": quota}, "p", "rvk8s-platform")
    default = {"limitRange": {"default": {"cpu": "1"}}}
    found = rendering.objects({"quota": quota, **default}, "p", "rvk8s-platform")
    (limits,) = rendering.only(found, "LimitRange")["spec"]["limits"]
    assert limits["default"] == {"cpu": "1", "memory": "1Gi"}
    own = {"limitRange": {"enabled": False}}  # the namespace has one of the administrator's
    found = rendering.objects({"quota": quota, **own}, "p", "rvk8s-platform")
    assert rendering.only(found, "ResourceQuota")["spec"]["hard"]["limits.cpu"] == "64"


def test_name_servers_are_reached_where_they_listen() -> None:
    """A policy sees the port of the pod behind a Service, which on OpenShift is 5353."""
    values = {"networkPolicy": {"egress": {"enabled": True}}}
    found = rendering.objects(values, "p", "rvk8s-platform")
    (policy,) = [one for one in found if one["metadata"]["name"] == "rvk8s-egress"]
    names = policy["spec"]["egress"][0]
    assert set(names) == {"ports"}
    assert {(one["protocol"], one["port"]) for one in names["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)
    }
