"""The arguments and the files of an experiment arrive as they were given."""

from __future__ import annotations

import base64
import json
from typing import Any

import helm_python
import pytest
from chart import rendering
from chart.cases import merged, run
from cluster.programs import CannotBuild, program
from said import says

from rvk8s import chart
from rvk8s.errors import InputErrors
from rvk8s.plan import Plan
from rvk8s.values import arguments

ARGUMENTS: dict[str, Any] = {
    "seed": 2**53 + 1,
    "large": [2**53 - 1, -(2**53), 10**30],
    "rate": 1.0,
    "minus": -0.0,
    "huge": 1e22,
    "sum": 0.1 + 0.2,
    "small": 1e-7,
    "count": 10_000_000,
    "nothing": None,
    "nested": {"bands": [0, None, {"scale": 2.0}], "on": True, "off": None},
    "text": "1.0",
    "empty": {},
    # All that YAML's readers refuse, change or take for the end of a line.
    "odd": "<&>'\"\\ \x00\x07\x1b\x7f\x80\x85\x9f\xa0\u2028\u2029\ufeff\ufffe\uffff 😀\n---\n",
}


@pytest.fixture(params=["sdk", "binary"])
def _helm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helm's library, then the helm program."""
    monkeypatch.setenv("RVK8S_HELM", request.param)
    if request.param == "binary":
        try:
            folder = program("helm").parent
        except CannotBuild as error:
            pytest.skip(f"NOT TESTED: the helm program, because {error}")
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def _plan(args: dict[str, Any]) -> Plan:
    values = merged(run(), {"experiment": {"args": None}})
    plan = Plan.from_dict(rendering.plan(rendering.objects(values, "r")))
    return Plan.from_dict({**plan.to_dict(), "args": args})


def _same(given: Any, found: Any) -> bool:
    """Equal, and of the same types: 1 is not 1.0."""
    return json.dumps(given, sort_keys=True) == json.dumps(found, sort_keys=True)


@pytest.mark.usefixtures("_helm")
def test_arguments_and_files_arrive_as_they_were_given() -> None:
    files = {"experiments/potsdam.py": ARGUMENTS["odd"], "experiments/cr.py": "a\r\nb\rc\f\n"}
    values = _plan(ARGUMENTS).to_values(files)
    rendered = chart.render(values, "r", "n")
    plan = rendered.find("ConfigMap", "plan.json")
    assert plan is not None
    found = Plan.from_dict(json.loads(plan["data"]["plan.json"]))
    for name, value in ARGUMENTS.items():
        assert _same(value, found.args[name]), name
    assert set(found.args) == set(ARGUMENTS)
    (source,) = [m for m in rendered.manifests if m["metadata"]["name"].endswith("-source")]
    (odd,) = source["binaryData"].values()
    assert base64.b64decode(odd).decode() == files.pop("experiments/potsdam.py")
    assert list(source["data"].values()) == list(files.values())


def test_only_numbers_that_helm_would_change_are_sent_as_text() -> None:
    assert arguments({"lr": 0.1, "n": 3, "name": "1.0"}) == {
        "args": {"lr": 0.1, "n": 3, "name": "1.0"}
    }
    assert arguments({"seed": 2**53, "lr": 1.0, "n": 3, "bands": [0, 1.0]}) == {
        "args": {"n": 3},
        "argsJson": {"seed": "9007199254740992", "lr": "1.0", "bands": "[0, 1.0]"},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": {"seed": 1}, "argsJson": {"seed": "2"}}, "seed is one of experiment.args…"),
        ({"argsJson": {"seed": "1_000"}}, "…seed…not JSON: 1_000; …"),
        ({"argsJson": {"seed": "1, 2"}}, "…seed…not JSON: 1, 2; …"),
        ({"argsJson": {"seed": "NaN"}}, "…seed…not JSON: NaN; …"),
    ],
)
def test_refused_texts(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        rendering.text(run(experiment=changes), "r")
    assert says(str(refused.value), f"…values.experiment.argsJson: {message}")


@pytest.mark.usefixtures("_helm")
@pytest.mark.parametrize("value", [2**53 + 1, -(2**53), [{"seed": 1e300}]])
def test_numbers_that_would_lose_digits_are_refused(value: Any) -> None:
    """Of a values file that somebody wrote: Helm has rounded them before the chart sees them."""
    with pytest.raises(InputErrors, match=r"^values\.experiment\.args\.seed") as refused:
        chart.render(run(experiment={"args": {"seed": value}}), "r", "n")
    (line,) = str(refused.value).splitlines()
    assert says(line, "…digits; …seed…experiment.argsJson")
