"""Writes manifests/ from the charts: what `kubectl apply -k` takes without rvk8s and Helm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "manifests"
NAMESPACE = "rvk8s"
_MODULE = "examples/potsdam/experiment.py"

#: Folder -> chart, release and values.
RENDERED: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "platform": ("rvk8s-platform", "rvk8s-platform", {"namespace": {"create": True}}),
    "run-example": (
        "rvk8s",
        "potsdam-example",
        {
            "experiment": {
                "name": "potsdam",
                "module": _MODULE,
                "args": {"raw_uri": "s3://team-bucket/raw/isprs-potsdam"},
                "source": {_MODULE: (ROOT / _MODULE).read_text()},
            },
            "rootUri": "s3://team-bucket/runs",
            "image": {"stage": "registry.example.com/team/rvk8s:0.1.0"},
            "stages": {"chip": {"splits": 4}, "train": {"gpus": 4}, "predict": {"splits": 4}},
            "pools": {"gpu": {"gpusPerNode": 2}},
            "storage": {"secretName": "rvk8s-storage"},
        },
    ),
}
_HEAD = "# Made from helm/{chart} by `make manifests`; edit that.\n"


def files() -> dict[str, str]:
    """Path below manifests/ -> text."""
    found: dict[str, str] = {}
    for folder, (chart, release, values) in RENDERED.items():
        head = _HEAD.format(chart=chart)
        with helm_python.Chart.load(ROOT / "helm" / chart) as loaded:
            rendered = loaded.render(dict(values), name=release, namespace=NAMESPACE)
        names = []
        for path in sorted(rendered):
            name, text = Path(path).name, rendered[path].strip().removeprefix("---\n").strip()
            if text and name.endswith(".yaml"):
                found[f"{folder}/{name}"] = f"{head}{text}\n"
                names.append(name)
        found[f"{folder}/kustomization.yaml"] = head + _kustomization(names)
    return found


def _kustomization(names: list[str]) -> str:
    lines = ["apiVersion: kustomize.config.k8s.io/v1beta1", "kind: Kustomization"]
    lines += [f"namespace: {NAMESPACE}", "resources:", *(f"  - {name}" for name in names)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for folder in RENDERED:
        shutil.rmtree(MANIFESTS / folder, ignore_errors=True)
    for path, text in files().items():
        (MANIFESTS / path).parent.mkdir(parents=True, exist_ok=True)
        (MANIFESTS / path).write_text(text)
