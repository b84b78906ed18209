"""The ConfigMaps of a run are never changed, and those of a schedule fit into the run's copy."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
from chart import cases, rendering
from chart.cases import run
from cluster.programs import CannotBuild, program

from rvk8s import chart
from rvk8s.errors import InputErrors

CRON = {"cron": "0 3 * * *"}
#: Many small files: their mounts in the stages' manifests are longer than they are.
MANY = {f"experiments/part{number}.py": "x" * 1700 for number in range(400)}
#: What the API server takes in a ConfigMap.
_LARGEST = 1 << 20


def _maps(values: cases.Values) -> list[rendering.Object]:
    return [one for one in rendering.objects(values, "r") if one["kind"] == "ConfigMap"]


@pytest.mark.parametrize("case", cases.RUNS)
def test_those_of_a_run_cannot_be_changed_and_those_of_a_schedule_can(case: str) -> None:
    found = _maps(cases.RUNS[case])
    assert len(found) == 2
    assert {one.get("immutable") for one in found} == {None if case == "schedule" else True}


@pytest.mark.parametrize("mode", ["sdk", "binary"])
def test_what_a_schedule_s_run_copies_fits_into_one(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RVK8S_HELM", mode)
    if mode == "binary":
        try:
            monkeypatch.setenv("PATH", f"{program('helm').parent}:/usr/bin:/bin")
        except CannotBuild as error:
            pytest.skip(f"NOT TESTED: the helm program, because {error}")
    assert _size(run(experiment={"source": MANY})) > _LARGEST, "in two it fits"
    with pytest.raises(InputErrors, match=r"source: .*schedule"):
        chart.render(run(experiment={"source": MANY}, schedule=CRON), "r", "n")
    large = {"experiments/one.py": "x" * 700_000}
    assert _size(run(experiment={"source": large}, schedule=CRON)) < _LARGEST


def _size(values: cases.Values) -> int:
    """Bytes of all that the ConfigMaps hold."""
    return sum(len(text) for one in _maps(values) for text in one["data"].values())


def test_many_files_of_a_run_are_refused_where_the_manifests_alone_are_too_large() -> None:
    files: dict[str, Any] = {f"{'x' * 240}/part{number}.py": "" for number in range(490)}
    with pytest.raises(helm_python.HelmRenderError, match=r"manifests .*larger than .*ConfigMap"):
        rendering.text(run(experiment={"source": files}), "r")


def test_large_arguments_are_named_not_the_files() -> None:
    with pytest.raises(InputErrors, match=r"experiment\.args: .*arguments"):
        chart.render(run(experiment={"args": {"names": "x" * 800_000}}), "r", "n")
