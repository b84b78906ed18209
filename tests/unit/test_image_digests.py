"""Images by digest: what nodes say of those of a run's pods, and what later pods get of it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from rvk8s.engines.image_digests import digests, pinned

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SINCE = "2026-11-24T13:15:00Z"


def pod(image: str, image_id: str, second: int = 0, container: str = "stage") -> dict[str, Any]:
    status = {"name": container, "image": "shown by another name", "imageID": image_id}
    return {
        "metadata": {"creationTimestamp": f"2026-11-24T13:15:{second:02}Z"},
        "spec": {"containers": [{"name": container, "image": image}]},
        "status": {"containerStatuses": [{"name": "istio-proxy", "imageID": f"x@{B}"}, status]},
    }


@pytest.mark.parametrize(
    ("image", "image_id", "found"),
    [
        ("a.example/rvk8s:1", f"a.example/rvk8s@{A}", f"a.example/rvk8s@{A}"),
        ("a.example/rvk8s:1", f"docker-pullable://a.example/rvk8s@{A}", f"a.example/rvk8s@{A}"),
        ("registry:5000/t/rvk8s", f"registry:5000/t/rvk8s@{A}", f"registry:5000/t/rvk8s@{A}"),
        ("localhost/rvk8s:1", f"localhost/rvk8s@{A}", f"localhost/rvk8s@{A}"),
        ("rvk8s:1", f"docker.io/library/rvk8s@{A}", f"docker.io/library/rvk8s@{A}"),
        ("docker.io/rvk8s:1", f"docker-pullable://rvk8s@{A}", f"rvk8s@{A}"),
        ("team/rvk8s:1", f"docker.io/team/rvk8s@{A}", f"docker.io/team/rvk8s@{A}"),
        # Loaded into the node; by kind, under the name of an import; the same under another name.
        ("rvk8s:1", A, None),
        ("rvk8s:1", f"docker://{A}", None),
        ("rvk8s:1", f"docker.io/library/import-2026-11-24@{A}", None),
        ("a.example/rvk8s:1", f"b.example/rvk8s@{A}", None),
        ("a.example/rvk8s:1", f"a.example/other@{A}", None),
        ("a.example/rvk8s:1", "a.example/rvk8s@sha256:0", None),
        ("a.example/rvk8s:1", "", None),
    ],
)
def test_what_a_node_says_of_an_image(image: str, image_id: str, found: str | None) -> None:
    assert digests([pod(image, image_id)], SINCE) == ({image: found} if found else {})


def test_a_pod_that_has_not_begun_says_nothing() -> None:
    one = pod("a.example/rvk8s:1", "")
    for status in ({}, {"containerStatuses": None}, {"containerStatuses": [{"name": "stage"}]}):
        assert digests([{**one, "status": status}], SINCE) == {}


def test_the_first_pod_of_this_submit_says_it() -> None:
    image = "a.example/rvk8s:1"
    first, second = pod(image, f"a.example/rvk8s@{A}", 1), pod(image, f"a.example/rvk8s@{B}", 2)
    loaded = pod(image, A, 0)
    assert digests([second, loaded, first], SINCE) == {image: f"a.example/rvk8s@{A}"}
    assert digests([second, first], "2026-11-24T13:15:02Z") == {image: f"a.example/rvk8s@{B}"}


def container(image: str, policy: str = "IfNotPresent") -> dict[str, Any]:
    env = [{"name": "RVK8S_IMAGE_DIGEST", "value": ""}]
    return {"name": "stage", "image": image, "imagePullPolicy": policy, "env": env}


def job(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Job", "spec": {"template": {"spec": {"containers": list(containers)}}}}


def test_images_become_those_that_are_known() -> None:
    image = "a.example/rvk8s:1"
    known = {image: f"a.example/rvk8s@{A}", f"a.example/rvk8s@{B}": f"a.example/rvk8s@{A}"}
    given = job(container(image), container("b.example/x:2"), container(f"a.example/rvk8s@{B}"))
    before = deepcopy(given)
    made, changed = pinned(given, known)
    assert (given, changed) == (before, {image: f"a.example/rvk8s@{A}"})
    before["spec"]["template"]["spec"]["containers"][0]["image"] = f"a.example/rvk8s@{A}"
    assert made == before, "and nothing else"
    training = {"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Worker": given["spec"]}}}
    made, _ = pinned(training, known)
    assert made["spec"]["pytorchReplicaSpecs"]["Worker"] == before["spec"]


def test_what_is_never_pulled_or_has_no_pods_stays() -> None:
    known = {"rvk8s:1": f"docker.io/library/rvk8s@{A}"}
    service = {"kind": "Service", "spec": {"clusterIP": "None"}}
    for given in (job(container("rvk8s:1", "Never")), service, {"kind": "ConfigMap"}):
        assert pinned(given, known) == (given, {})
