"""What a submit looks for before anything is created, of a namespace that says what it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import yaml
from said import check_lines

from rvk8s.cluster import Cluster, Object, preconditions
from rvk8s.cluster.queues import QUEUE
from rvk8s.errors import InputErrors


class Namespace:
    """As much of a Cluster as is asked; takes every manifest.

    Args:
        there: kind -> name -> what the object has.
    """

    namespace = "ml"

    def __init__(self, there: Mapping[str, Mapping[str, Any]]):
        self.there = {"Namespace": {"ml": {}}, "ServiceAccount": {"default": {}}, **there}

    def get(self, kind: str, name: str) -> Object | None:
        found = self.there.get(kind, {}).get(name)
        return None if found is None else {"kind": kind, **found}

    def apply(self, manifest: Object, dry_run: bool = False) -> Object:
        assert dry_run
        return manifest


def stages(*entries: Mapping[str, Any]) -> Object:
    """A run's ConfigMap, with a training of which a pod has these entries in envFrom."""
    container = {"name": "pytorch", "env": [], "envFrom": list(entries)}
    template = {"spec": {"containers": [container]}}
    spec = {"pytorchReplicaSpecs": {"Worker": {"template": template}}}
    training = {"kind": "PyTorchJob", "metadata": {"name": "r-train"}, "spec": spec}
    data = {"plan.json": "{}", "train.yaml": yaml.safe_dump(training)}
    return {"kind": "ConfigMap", "metadata": {"name": "r-stages"}, "data": data}


def said(there: Mapping[str, Mapping[str, Any]], *entries: Mapping[str, Any]) -> list[str]:
    try:
        preconditions.check(cast(Cluster, Namespace(there)), [stages(*entries)])
    except InputErrors as errors:
        return str(errors).splitlines()
    return []


SECRET = {"prefix": "W_", "secretRef": {"name": "wandb"}}
CONFIG = {"configMapRef": {"name": "team"}}


def test_what_a_pool_s_variables_come_from_is_looked_for() -> None:
    check_lines(
        said({}, SECRET, CONFIG),
        ["no Secret wandb in namespace ml; …", "no ConfigMap team in namespace ml; …envFrom"],
    )
    assert said({"Secret": {"wandb": {}}}, SECRET, CONFIG)[0].startswith("no ConfigMap team")
    assert said({"Secret": {"wandb": {}}, "ConfigMap": {"team": {}}}, SECRET, CONFIG) == []


@pytest.mark.parametrize("entry", [SECRET, CONFIG])
def test_what_is_optional_is_not(entry: Mapping[str, Any]) -> None:
    kind = "secretRef" if "secretRef" in entry else "configMapRef"
    assert len(said({}, entry)) == 1
    assert said({}, {kind: {**entry[kind], "optional": True}}) == []


def test_the_driver_s_queue_is_looked_for_too() -> None:
    driver = {"kind": "Job", "metadata": {"name": "r", "labels": {QUEUE: "drivers"}}}
    manifests = [driver, stages()]
    with pytest.raises(InputErrors, match="no LocalQueue drivers in namespace ml; "):
        preconditions.check(cast(Cluster, Namespace({})), manifests)
    there = {"LocalQueue": {"drivers": {}}}
    preconditions.check(cast(Cluster, Namespace(there)), manifests)
