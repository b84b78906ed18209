"""Which variables of a pod are the user's to give, by values, and which are not."""

from __future__ import annotations

import re
from typing import Any

import helm_python
import pytest
from chart import cases, rendering

from rvk8s.contract import Env

#: Those of docs/guide/runs.md that no other value sets.
USERS = {Env.STREAM: "0", Env.RANKS_TIMEOUT: "600"}


def environments(**changes: Any) -> dict[str, dict[str, Any]]:
    """By object, those of the driver and of the stages."""
    found = rendering.everything(rendering.objects(cases.run(**changes), "r"))
    return {where: rendering.environment(pod) for where, pod in rendering.pod_templates(found)}


@pytest.mark.parametrize(("style", "variable"), [(None, None), (True, "1"), (False, "0")])
def test_path_style(style: bool | None, variable: str | None) -> None:
    for storage in ({"pathStyle": style}, {"pathStyle": style, "endpoint": "http://s3:9000"}):
        for environ in environments(storage=storage).values():
            assert environ.get(Env.S3_PATH_STYLE) == variable


def test_where_nothing_is_said_of_the_path_style_the_server_decides() -> None:
    for environ in environments(storage={"endpoint": "http://s3:9000"}).values():
        assert Env.S3_PATH_STYLE not in environ


def test_variables_that_are_the_user_s_reach_all_stages() -> None:
    found = environments(pools={"cpu": {"env": USERS}})
    stages = [environ for environ in found.values() if USERS.items() <= environ.items()]
    assert len(stages) == len(found) - 1 == 7  # all but the driver


def test_variables_that_the_guide_names_can_be_had_on_a_cluster() -> None:
    text = (rendering.ROOT / "docs/guide/runs.md").read_text()
    named = set(re.findall(r"RVK8S_\w+", text))
    assert named == {*USERS, Env.S3_PATH_STYLE}


@pytest.mark.parametrize("name", [*sorted(set(Env) - set(USERS)), "PET_NNODES", "A_TOKEN"])
def test_others_are_refused(name: str) -> None:
    for changes in ({"pools": {"cpu": {"env": {name: "1"}}}}, {"driver": {"env": {name: "1"}}}):
        with pytest.raises(helm_python.HelmError, match="false schema"):
            environments(**changes)
