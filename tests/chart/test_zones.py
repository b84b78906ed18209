"""The nodes of one training in one zone: what crosses zones is slow and costs money."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
from chart import cases, rendering
from chart.cases import merged, run

from rvk8s.contract import RUN_ID_TOKEN, Label

ZONE = "topology.kubernetes.io/zone"
REQUIRED, PREFERRED = (
    f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred")
)


def _stages(values: cases.Values) -> dict[str, rendering.Object]:
    """Stage -> its pods' template."""
    made = rendering.stages(rendering.objects(values, "r"))
    return {name: template for name in made for _, template in rendering.pod_templates(made[name])}


def _affinities(values: cases.Values) -> dict[str, Any]:
    """Stage -> the pod affinity of its pods; those that have one."""
    found = {name: pod["spec"].get("affinity") for name, pod in _stages(values).items()}
    return {name: affinity["podAffinity"] for name, affinity in found.items() if affinity}


@pytest.mark.parametrize("cron", ["", "@daily"])
@pytest.mark.parametrize("launcher", ["pytorchjob", "job"])
@pytest.mark.parametrize("shape", [{"gpus": 8}, {"nodes": 2}])
def test_nodes_of_a_training_go_where_the_others_are(
    cron: str, launcher: str, shape: dict[str, int]
) -> None:
    many = {"train": shape, "chip": {"splits": 4}, "predict": {"splits": 4, "gpus": 1}}
    values = run(stages=many, launcher=launcher, schedule={"cron": cron})
    pods = _stages(values)
    labels = pods["train"]["metadata"]["labels"]
    own = {key: labels[key] for key in (Label.RUN, Label.STAGE)}
    assert own == {Label.RUN: RUN_ID_TOKEN if cron else cases.RUN, Label.STAGE: "train"}
    term = {"topologyKey": ZONE, "labelSelector": {"matchLabels": own}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    assert _affinities(values) == {"train": {PREFERRED: preferred}}
    pools = {name: {"oneZone": "required"} for name in ("cpu", "gpu")}
    assert _affinities(merged(values, {"pools": pools})) == {"train": {REQUIRED: [term]}}
    pools = {name: {"oneZone": ""} for name in ("cpu", "gpu")}
    assert not _affinities(merged(values, {"pools": pools}))


@pytest.mark.parametrize("shape", [{}, {"gpus": 4}, {"ranks": 4}])
def test_one_node_is_in_one_zone(shape: dict[str, int]) -> None:
    values = run(stages={"train": shape, "predict": {"splits": 4}})
    assert not _affinities(merged(values, {"pools": {"gpu": {"oneZone": "required"}}}))


def test_a_pool_that_says_nothing_prefers_one() -> None:
    own = {"cpu": "2", "memory": "4Gi"}
    (found,) = _affinities(run(stages={"train": {"nodes": 2, "pool": "own"}}, pools={"own": own}))
    assert found == "train"


def test_there_are_three_words() -> None:
    with pytest.raises(helm_python.HelmValuesError, match="/pools/gpu/oneZone"):
        rendering.text(run(pools={"gpu": {"oneZone": True}}), "r")
