"""Renders the charts for the tests, and takes apart what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python

from rvk8s.yaml_loader import load_all

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "ml"
Object = dict[str, Any]


def text(
    values: Mapping[str, Any], name: str, chart: str = "rvk8s", namespace: str = NAMESPACE
) -> str:
    """The chart's manifests as one YAML stream, sorted by template.

    Raises:
        helm_python.HelmError: the schema or a template refuses the values.
    """
    return _text(json.dumps(values), name, chart, namespace)


@cache
def _text(values: str, name: str, chart: str, namespace: str) -> str:
    with helm_python.Chart.load(ROOT / "helm" / chart) as loaded:
        files = loaded.render(json.loads(values), name=name, namespace=namespace)
    return "".join(
        f"---\n# Source: {path}\n{rendered.strip()}\n"
        for path, rendered in sorted(files.items())
        if path.endswith(".yaml") and rendered.strip()
    )


def objects(
    values: Mapping[str, Any], name: str, chart: str = "rvk8s", namespace: str = NAMESPACE
) -> list[Object]:
    """What is applied."""
    return load_all(text(values, name, chart, namespace))


def stages(applied: list[Object]) -> dict[str, list[Object]]:
    """Stage -> what the driver makes for it."""
    data = _plan_map(applied)["data"]
    return {
        key.removesuffix(".yaml"): load_all(value)
        for key, value in data.items()
        if key.endswith(".yaml")
    }


def plan(applied: list[Object]) -> dict[str, Any]:
    """plan.json."""
    found: dict[str, Any] = json.loads(_plan_map(applied)["data"]["plan.json"])
    return found


def everything(applied: list[Object]) -> list[Object]:
    """What is applied and, of a run, what the driver makes."""
    made = stages(applied) if any("plan.json" in o.get("data", {}) for o in applied) else {}
    return [*applied, *(o for group in made.values() for o in group)]


def only(found: list[Object], kind: str) -> Object:
    (one,) = [o for o in found if o["kind"] == kind]
    return one


def pod_templates(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """Kind/name and pod template of every object that has one."""
    for o in found:
        where = f"{o['kind']}/{o['metadata']['name']}"
        spec = o.get("spec", {})
        if o["kind"] == "CronJob":
            yield where, spec["jobTemplate"]["spec"]["template"]
        elif o["kind"] == "PyTorchJob":
            for replica in spec["pytorchReplicaSpecs"].values():
                yield where, replica["template"]
        elif "template" in spec:
            yield where, spec["template"]


def environment(template: Object) -> dict[str, Any]:
    """Name -> value, or valueFrom, of a pod's only container."""
    (container,) = template["spec"]["containers"]
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}


def _plan_map(applied: list[Object]) -> Object:
    (found,) = [o for o in applied if o["kind"] == "ConfigMap" and "plan.json" in o["data"]]
    return found
