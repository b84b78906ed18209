"""Every pod of ours keeps the `restricted` pod security standard, and some rules of our own.

The standard's rules: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from chart import cases, rendering

from rvk8s.contract import Label

_ALLOWED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def _objects(case: str) -> list[rendering.Object]:
    chart, release, values = cases.CASES[case]
    return rendering.everything(rendering.objects(values, release, chart))


def _templates() -> Iterator[Any]:
    for case in cases.CASES:
        for where, template in rendering.pod_templates(_objects(case)):
            yield pytest.param(template, id=f"{case}:{where}")


TEMPLATES = list(_templates())


def containers(template: rendering.Object) -> list[rendering.Object]:
    spec = template["spec"]
    return [*spec["containers"], *spec.get("initContainers", [])]


def test_there_are_templates_of_all_kinds() -> None:
    kinds = {str(p.id).split(":")[1].split("/")[0] for p in TEMPLATES}
    assert kinds == {"Job", "CronJob", "PyTorchJob", "Deployment"}


@pytest.mark.parametrize("template", TEMPLATES)
def test_restricted(template: rendering.Object) -> None:
    spec = template["spec"]
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"))
    for volume in spec.get("volumes", []):
        (kind,) = set(volume) - {"name"}
        assert kind in _ALLOWED_VOLUMES
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.get("sysctls")
    for container in containers(template):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not own.get("privileged")
        assert own.get("runAsUser") != 0
        assert "hostPort" not in json.dumps(container.get("ports", []))
    annotations = template["metadata"].get("annotations", {})
    assert not any("apparmor" in key for key in annotations)


@pytest.mark.parametrize("template", TEMPLATES)
def test_root_file_system_is_read_only_and_tmp_is_not(template: rendering.Object) -> None:
    volumes = {v["name"]: v for v in template["spec"]["volumes"]}
    for container in containers(template):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
        assert "emptyDir" in mounts["/tmp"]
        env = {e["name"]: e.get("value") for e in container["env"]}
        assert env["HOME"] == "/tmp"


@pytest.mark.parametrize("template", TEMPLATES)
def test_only_the_driver_has_a_token(template: rendering.Object) -> None:
    driver = template["metadata"]["labels"].get(Label.COMPONENT) == "driver"
    assert template["spec"]["automountServiceAccountToken"] is driver
    assert (template["spec"]["serviceAccountName"] == "rvk8s-driver") is driver


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_container_says_what_it_needs(template: rendering.Object) -> None:
    component = template["metadata"]["labels"][Label.COMPONENT]
    for container in containers(template):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]
        if component == "stage":
            shm = next(v for v in template["spec"]["volumes"] if v["name"] == "shm")
            assert shm["emptyDir"]["medium"] == "Memory"
            assert shm["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("case", cases.CASES)
def test_names_are_short_and_everything_has_labels(case: str) -> None:
    for o in _objects(case):
        assert len(o["metadata"]["name"]) <= 63
        labels = o["metadata"]["labels"]
        name = "rvk8s-platform" if case.startswith("platform") else "rvk8s"
        assert labels["app.kubernetes.io/name"] == name
        assert labels["app.kubernetes.io/managed-by"] in ("Helm", "rvk8s")
        assert all(len(value) <= 63 for value in labels.values())
        if name == "rvk8s":
            assert labels[Label.COMPONENT] in ("driver", "stage", "run")
            assert labels[Label.EXPERIMENT] == "potsdam"
        for _, template in rendering.pod_templates([o]):
            own = template["metadata"]["labels"]
            assert {k: own[k] for k in own if k in labels} == {
                k: labels[k] for k in own if k in labels
            }
            assert Label.COMPONENT in own


@pytest.mark.parametrize("case", cases.CASES)
def test_no_secret_has_a_value(case: str) -> None:
    """Keys come by reference: no object of ours is a Secret or has a key's value anywhere."""
    for o in _objects(case):
        assert o["kind"] != "Secret"
    for _, template in rendering.pod_templates(_objects(case)):
        for container in containers(template):
            for entry in container["env"]:
                if any(word in entry["name"] for word in ("SECRET", "TOKEN", "ACCESS_KEY")):
                    assert "value" not in entry
                    assert entry["valueFrom"]["secretKeyRef"]["name"] == "rvk8s-storage"
            args = " ".join(container.get("args", []))
            assert not any(w in args.lower() for w in ("secret", "token", "password", "access_key"))
            assert "command" not in container  # the image's first process forwards signals


def test_the_storage_secret_reaches_stages_and_driver() -> None:
    found = 0
    for _, template in rendering.pod_templates(_objects("storage")):
        env = rendering.environment(template)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert env[key] == {"secretKeyRef": {"name": "rvk8s-storage", "key": key}}
        assert env["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
        assert env["AWS_ENDPOINT_URL"] == "http://s3.storage.svc:7070"
        assert env["RVK8S_S3_PATH_STYLE"] == "1"
        assert env["AWS_REQUEST_PAYER"] == "requester"
        assert env["AWS_REGION"] == env["AWS_DEFAULT_REGION"] == "eu-central-1"
        assert env["AWS_CA_BUNDLE"] == "/etc/rvk8s/ca/ca.crt"
        found += 1
    assert found == 8


@pytest.mark.parametrize("case", ["gpus", "launcher-job", "schedule"])
def test_the_pods_of_a_run_are_reached_by_their_own_only(case: str) -> None:
    chart, release, values = cases.CASES[case]
    applied = rendering.objects(values, release, chart)
    spec = rendering.only(applied, "NetworkPolicy")["spec"]
    selected = spec["podSelector"]["matchLabels"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"from": [{"podSelector": {"matchLabels": selected}}]}]
    for _, template in rendering.pod_templates(rendering.everything(applied)):
        labels = template["metadata"]["labels"]
        if case == "schedule" or labels[Label.COMPONENT] == "stage":
            assert selected.items() <= labels.items()


def test_the_platform_denies_what_no_run_allows() -> None:
    applied = rendering.objects({}, "p", "rvk8s-platform")
    spec = rendering.only(applied, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert "ingress" not in spec
    assert spec["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "rvk8s"}
