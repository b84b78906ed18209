"""What stands on pods: annotations of their pool, requests beside limits, GPUs, the network's."""

from __future__ import annotations

from typing import Any

import pytest
from chart import cases, rendering
from chart.cases import merged, run, train

from rvk8s import yaml_loader
from rvk8s.contract import Label

LINUX = {"kubernetes.io/os": "linux"}
_MESHES = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
#: What the cluster autoscaler and Karpenter read before they move a pod to save a node.
_STAY = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def _pods(values: cases.Values) -> dict[str, rendering.Object]:
    """Stage, or driver -> its pods' template."""
    templates = rendering.pod_templates(rendering.everything(rendering.objects(values, "r")))
    return {one["metadata"]["labels"].get(Label.STAGE, "driver"): one for _, one in templates}


def _annotations(values: cases.Values) -> dict[str, dict[str, str]]:
    """Stage, or driver -> the annotations of its pods."""
    return {name: pod["metadata"]["annotations"] for name, pod in _pods(values).items()}


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


def test_a_pod_that_asks_for_no_gpu_gets_none() -> None:
    """By its image's own NVIDIA_VISIBLE_DEVICES: all, where NVIDIA's runtime is the default."""
    name = "NVIDIA_VISIBLE_DEVICES"
    shape = {"train": {"gpus": 2}, "predict": {"gpus": 1, "splits": 2}}
    found = {stage: rendering.environment(pod) for stage, pod in _pods(run(stages=shape)).items()}
    with_gpus = {stage for stage, env in found.items() if name not in env}
    assert with_gpus == {"train", "predict"}, "there the device plugin sets it"
    assert {env[name] for env in found.values() if name in env} == {"void"}
    assert name in found["driver"]
    found = {
        stage: rendering.environment(pod)
        for stage, pod in _pods(run(pools={"cpu": {"env": {name: "all"}}})).items()
    }
    assert (found["train"][name], found["driver"][name]) == ("all", "void")


@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
def test_the_network_between_nodes_is_asked_for_by_those_who_use_it(launcher: str) -> None:
    extra = {"vpc.amazonaws.com/efa": 4, "hugepages-2Mi": "5120Mi"}
    pools = {"gpu": {"gpusPerNode": 8, "extraResources": extra}}
    expected = {"vpc.amazonaws.com/efa": "4", "hugepages-2Mi": "5120Mi"}

    def asked(**train: int) -> dict[str, dict[str, str]]:
        stages = {"train": train, "predict": {"gpus": 1, "splits": 16}}
        found = {}
        for stage, pod in _pods(run(pools=pools, stages=stages, launcher=launcher)).items():
            (container,) = pod["spec"]["containers"]
            limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
            found[stage] = {key: limits[key] for key in extra if key in limits}
            assert stage == "driver" or limits == requests
        return {stage: limits for stage, limits in found.items() if limits}

    assert asked(gpus=16) == {"train": expected}
    assert asked(gpus=8) == asked(gpus=1) == {}, "one node"
    assert asked(nodes=2) == {}, "no GPUs"


@pytest.mark.parametrize("preset", ["eks", "gke", "aks", "nvidia"])
def test_presets_name_the_image_s_processors_and_null_takes_that_away(preset: str) -> None:
    """Karpenter brings ARM nodes where nothing else is said."""
    arch, values = "kubernetes.io/arch", cases.CASES[f"preset-{preset}"][2]
    for pod in _pods(values).values():
        assert pod["spec"]["nodeSelector"][arch] == "amd64"
    null = {"nodeSelector": {arch: None}}
    file = cases.ROOT / f"helm/rvk8s/presets/{preset}.yaml"
    given = yaml_loader.load(file.read_text())["pools"]
    found = _pods(merged(values, {"pools": {"cpu": null, "gpu": null}}))
    assert found["driver"]["spec"]["nodeSelector"] == LINUX
    left = {key: value for key, value in given["gpu"]["nodeSelector"].items() if key != arch}
    assert left
    assert found["train"]["spec"]["nodeSelector"] == left | LINUX
    arm = {"pools": {"cpu": {"nodeSelector": {arch: "arm64"}}}}
    assert _pods(merged(values, arm))["driver"]["spec"]["nodeSelector"] == {arch: "arm64"} | LINUX
    assert _pods(run())["driver"]["spec"]["nodeSelector"] == LINUX
