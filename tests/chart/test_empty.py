"""A key that is left empty, as one is whose lines below are comments: Helm takes away its default.

The chart refuses it by name where it would then do something else than by default.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from chart import cases, rendering
from chart.cases import Values, merged
from cluster.programs import CannotBuild, program

from rvk8s import yaml_loader

#: Keys that may lose their default, which is a value among others: a pool, its taints, an amount.
_REMOVABLE = ("pools.", "driver.resources.requests.", "driver.resources.limits.")
_REMOVABLE += ("limitRange.defaultRequest.", "limitRange.default.")
_REMOVABLE += ("tensorboard.resources.requests.", "tensorboard.resources.limits.")
_REMOVABLE += ("runAsUser", "tensorboard.runAsUser")
#: Of each chart the values that are set, so that every section is rendered.
_SET: Mapping[str, Values] = {
    "rvk8s": cases.merged(cases.BASE, {"schedule": {"cron": "0 3 * * *"}}),
    "rvk8s-platform": cases.PLATFORMS["platform-all"],
}


def _paths(value: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, below in value.items():
        yield (*above, key)
        if isinstance(below, dict):
            yield from _paths(below, (*above, key))


def _all() -> Iterator[Any]:
    for chart in _SET:
        values = yaml_loader.load((cases.ROOT / "helm" / chart / "values.yaml").read_text())
        for path in _paths(values):
            if not ".".join(path).startswith(_REMOVABLE):
                yield pytest.param(chart, path, id=f"{chart}:{'.'.join(path)}")


def _at(path: tuple[str, ...], value: Any) -> Values:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def _without(values: Mapping[str, Any], path: tuple[str, ...]) -> Values:
    """Values that do not say anything of a key."""
    left = dict(values)
    if path[0] in left:
        if path[1:] and isinstance(left[path[0]], dict):
            left[path[0]] = _without(left[path[0]], path[1:])
        else:
            del left[path[0]]
    return left


def _outcome(values: Values, chart: str) -> str:
    """What is rendered, or why not."""
    try:
        return rendering.text(values, "r", chart)
    except helm_python.HelmError as error:
        return str(error)


@pytest.mark.parametrize(("chart", "path"), _all())
def test_an_empty_key_is_its_default_or_refused_by_name(chart: str, path: tuple[str, ...]) -> None:
    by_default = _outcome(_without(_SET[chart], path), chart)
    found = _outcome(merged(_SET[chart], _at(path, None)), chart)
    if found != by_default:
        (line,) = [one for one in found.splitlines() if "missing property" in one]
        assert f"missing property '{path[-1]}'" in line
        assert not path[1:] or f"at '/{'/'.join(path[:-1])}'" in line


def test_the_helm_program_refuses_it_too(tmp_path: Path) -> None:
    try:
        helm = program("helm")
    except CannotBuild as error:
        pytest.skip(f"NOT TESTED: the helm program, because {error}")
    file = tmp_path / "values.yaml"
    base = yaml.safe_dump(cases.BASE)
    file.write_text(f"{base}driver:\n  patience:\n    # start: 300\nstorage:\n  # region: x\n")
    command = [helm, "template", "r", cases.ROOT / "helm/rvk8s", "-f", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "at '/driver': missing property 'patience'" in done.stderr
    assert "missing property 'storage'" in done.stderr


def test_amounts_can_be_taken_away() -> None:
    changes = {"driver": {"resources": {"limits": {"memory": None}, "requests": {"cpu": None}}}}
    job = rendering.only(rendering.objects(cases.run(**changes), "r"), "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {}, "requests": {"memory": "128Mi"}}
