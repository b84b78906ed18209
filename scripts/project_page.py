"""Writes docs/guide/rvk8s-yaml.md, the page of that file's keys, from its JSON Schema."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guide" / "rvk8s-yaml.md"
SCHEMA = ROOT / "rvk8s" / "project" / "project.schema.json"

HEAD = """\
# The keys of rvk8s.yaml

This page is made from `rvk8s/project/project.schema.json` by `make docs`; edit that. Unknown keys
are refused, with their lines. What stands below `values` are values of the chart
[helm/rvk8s](../../helm/rvk8s), whose README lists them.

```yaml
apiVersion: rvk8s/v1
rootUri: runs
experiments:
  segmentation:
    module: experiments/segmentation.py
    args: {data_uri: data, validation: [scene1]}
    splits: {predict: 4}                # chip is not split
    retries: 2                          # of every stage
    deadlineSeconds: {train: 36000}
    variants:
      large: {args: {backbone: resnet50}, gpus: 4}      # runs as segmentation-large
```

An editor that knows JSON Schema checks the file and completes its keys; this prints where the
schema lies:

```sh
python -c "import rvk8s.project as p; print(p.__path__[0] + '/project.schema.json')"
```
"""

_NOUNS = {"string": "text", "integer": "whole number", "object": "mapping"}


def page() -> str:
    """The text of the page."""
    schema = json.loads(SCHEMA.read_text())
    experiment, variant = (schema["$defs"][name] for name in ("experiment", "variant"))
    *keys, last = (f"`{key}`" for key in variant["properties"])
    text = f"{variant['description']} It takes {', '.join(keys)} and {last}."
    sections = [
        _section("At the top", schema, schema),
        _section("Of an experiment", experiment, schema),
        f"## Of a variant\n\n{textwrap.fill(text, 100, break_on_hyphens=False)}\n",
    ]
    return "\n".join([HEAD, *sections])


def _section(title: str, part: dict[str, Any], schema: dict[str, Any]) -> str:
    head = [f"## {title}", "", part["description"], "", "| key | | |", "|---|---|---|"]
    return "\n".join([*head, *_rows(part, schema)]) + "\n"


def _rows(part: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    for key, rule in part["properties"].items():
        found = schema["$defs"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        kinds = [found["type"]] if isinstance(found["type"], str) else found["type"]
        kind = (
            f"`{found['const']}`"
            if "const" in found
            else " or ".join(_NOUNS[kind] for kind in kinds)
        )
        if "minimum" in found:
            kind += f", ≥ {found['minimum']}"
        if key in part.get("required", ()):
            kind += "; must be given"
        stages = found.get("properties", {}) if "integer" in kinds else {}
        of = f" Stages: {', '.join(stages)}." if stages else ""
        yield f"| `{key}` | {kind} | {found['description']}{of} |"


if __name__ == "__main__":
    PAGE.write_text(page())
