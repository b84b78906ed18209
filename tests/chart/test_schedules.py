"""What the driver of a schedule's run mounts."""

from __future__ import annotations

import pytest
from chart import rendering
from chart.cases import run
from chart.rendering import Object


def _mounted(**changes: object) -> tuple[list[Object], Object]:
    """The ConfigMaps that are applied, and the driver's volume of stages."""
    applied = rendering.objects(run(**changes), "r")
    driver = next(
        pod
        for where, pod in rendering.pod_templates(applied)
        if where.split("/")[0] != "Deployment"
    )
    (volume,) = [one for one in driver["spec"]["volumes"] if one["name"] == "stages"]
    return [one for one in applied if one["kind"] == "ConfigMap"], volume


@pytest.mark.parametrize("source", [True, False])
def test_a_later_driver_does_not_wait_for_what_an_upgrade_took_away(source: bool) -> None:
    """Its run's own ConfigMap has all that it needs: rvk8s.engines.scheduled."""
    own = {} if source else {"source": None, "module": "lib.one"}
    maps, volume = _mounted(schedule={"cron": "@daily"}, experiment=own)
    names = {one["metadata"]["name"] for one in maps}
    assert len(names) == 1 + source
    sources = [one["configMap"] for one in volume["projected"]["sources"]]
    assert {one["name"] for one in sources} == names
    # The plan is always there, and a first driver has to wait for it; it is made after the source.
    optional = {one["name"] for one in sources if one.get("optional")}
    assert optional == {name for name in names if name.endswith("-source")}


def test_the_driver_of_one_run_waits_for_its_stages() -> None:
    """It makes no copy, and nothing takes them away while the run is there."""
    _, volume = _mounted()
    assert set(volume["configMap"]) == {"name"}
