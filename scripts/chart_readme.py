"""Writes the README.md of the charts: their values from the comments in values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rvk8s.yaml_loader import load

HELM = Path(__file__).resolve().parents[1] / "helm"

HEADS = {
    "rvk8s": """\
# helm/rvk8s

One run of a Raster Vision experiment, or a schedule of runs. `rvk8s submit` renders this chart;
`helm install` and `kubectl apply` get the same objects: a NetworkPolicy, ConfigMaps with the plan,
the stages' manifests and the project's files, and the driver's Job (or a CronJob), which makes one
stage after the other. [helm/rvk8s-platform](../rvk8s-platform) has to be in the namespace.

```sh
rvk8s plan potsdam --gpus 4 --image IMAGE --root-uri s3://BUCKET/runs \\
  -a raw_uri s3://BUCKET/raw/isprs-potsdam -o values > run.yaml
helm install potsdam helm/rvk8s -f helm/rvk8s/presets/eks.yaml -f run.yaml
```

`presets/` has node pools of Amazon EKS, Google GKE, Microsoft AKS and of NVIDIA's GPU operator.
""",
    "rvk8s-platform": """\
# helm/rvk8s-platform

What an administrator installs once in a namespace in which [helm/rvk8s](../rvk8s) runs: service
accounts, roles with the least rights, network policies, bounds, priority classes, and by choice
queues of Kueue and a TensorBoard.

```sh
kubectl create namespace rvk8s
kubectl label namespace rvk8s pod-security.kubernetes.io/enforce=restricted
helm install rvk8s-platform helm/rvk8s-platform -n rvk8s
```
""",
}
FOOT = """
## Values

This table is made from `values.yaml` by `make manifests`; edit that. `values.schema.json` refuses
keys that are not in it. A key that is left empty (null) loses its default, as always with Helm; a
key that the chart needs is then refused by its name. Of `resources`, a limit goes so:
`limits: {memory: null}`.

| value | default | |
|---|---|---|
"""


def page(chart: str) -> str:
    """The text of a chart's README.md."""
    rows = "".join(f"| `{key}` | {default} | {text} |\n" for key, default, text in rows_of(chart))
    return HEADS[chart] + FOOT + rows


def rows_of(chart: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and description of every value, in the order of values.yaml.

    Raises:
        ValueError: neither a comment nor the schema describes a value.
    """
    text = (HELM / chart / "values.yaml").read_text()
    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, "", text.splitlines(), schema, schema)


def _rows(
    node: yaml.MappingNode, prefix: str, lines: list[str], schema: Mapping[str, Any], root: Any
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _comment(lines, key.start_mark.line)
        below = _below(schema, key.value, root)
        if isinstance(value, yaml.MappingNode) and value.value and comment is None:
            yield from _rows(value, f"{name}.", lines, below, root)
            continue
        description = comment or below.get("description")
        if not description:
            raise ValueError(f"{name}: neither a comment nor the schema describes it")
        default = json.dumps(load(yaml.serialize(value)), ensure_ascii=False)
        yield name, f"`{default}`", description.replace("|", "\\|")


def _comment(lines: list[str], line: int) -> str | None:
    """The text of the `# --` comment above a line; None where there is none."""
    found = re.fullmatch(r"\s*# -- (.*)", lines[line - 1]) if line else None
    return found[1] if found else None


def _below(schema: Mapping[str, Any], key: str, root: Any) -> Mapping[str, Any]:
    """The schema of a key; what a reference says of itself wins."""
    patterns = schema.get("patternProperties", {})
    matching = (value for pattern, value in patterns.items() if re.search(pattern, key))
    found: Any = schema.get("properties", {}).get(key) or next(matching, {})
    if isinstance(found, dict) and "$ref" in found:
        return {**root["$defs"][found["$ref"].rpartition("/")[2]], **found}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    for chart in HEADS:
        (HELM / chart / "README.md").write_text(page(chart))
