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
        helm_python.HelmRenderError, match=r"values\.kueue\.localQueue: default .*another name"
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


def test_the_most_of_a_resource_is_not_everyone_s_default() -> None:
    """Kubernetes fills in max where there is no default: each driver would ask for the GPUs."""
    bound = {"limitRange": {"max": {"cpu": 64, "memory": "256Gi", "nvidia.com/gpu": 8}}}
    with pytest.raises(helm_python.HelmRenderError, match=r"limitRange\.max: nvidia\.com/gpu "):
        rendering.text(bound, "p", "rvk8s-platform")
    none = {"nvidia.com/gpu": 0}
    bound["limitRange"] |= {"default": none, "defaultRequest": none}
    found = rendering.objects(bound, "p", "rvk8s-platform")
    (limits,) = rendering.only(found, "LimitRange")["spec"]["limits"]
    assert limits["max"]["nvidia.com/gpu"] == 8


def test_no_run_pushes_a_service_away() -> None:
    """Pods without a class have 0; below -10 the cluster autoscaler adds no node for a pod."""
    found = rendering.objects({}, "p", "rvk8s-platform")
    values = [one["value"] for one in found if one["kind"] == "PriorityClass"]
    assert values == [-10, -1]


def test_what_pods_may_reach_is_bounded_by_itself() -> None:
    values = {"networkPolicy": {"enabled": False, "egress": {"enabled": True}}}
    found = rendering.objects(values, "p", "rvk8s-platform")
    names = [one["metadata"]["name"] for one in found if one["kind"] == "NetworkPolicy"]
    assert names == ["rvk8s-egress"]


def test_where_the_tensorboard_runs() -> None:
    board = {"enabled": True, "image": "x", "rootUri": "s3://b/r", "secretName": "keys"}
    tolerations = [{"key": "dedicated", "operator": "Exists"}]
    board |= {"nodeSelector": {"kubernetes.io/arch": "amd64"}, "tolerations": tolerations}
    board |= {"annotations": {"linkerd.io/inject": "enabled", "team": "a"}}
    found = rendering.objects({"tensorboard": board}, "p", "rvk8s-platform")
    ((_, template),) = rendering.pod_templates(found)
    spec, annotations = template["spec"], template["metadata"]["annotations"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    assert spec["tolerations"] == tolerations
    assert annotations == {
        "linkerd.io/inject": "enabled",
        "sidecar.istio.io/inject": "false",
        "team": "a",
    }
    environ = {one["name"]: one for one in spec["containers"][0]["env"]}
    assert environ["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"]
    assert environ["NVIDIA_VISIBLE_DEVICES"]["value"] == "void"


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
