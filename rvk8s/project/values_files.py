"""Files that values of the chart come from: presets, rvk8s.yaml, and those that --values names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from rvk8s.errors import InputError, InputErrors
from rvk8s.project.signature import nearest
from rvk8s.project.yamldoc import Document, KeyPath, read
from rvk8s.values import chart_dir, deep_merged


@dataclass(frozen=True)
class Layer:
    """Values of the chart in a file.

    Attributes:
        document: the file.
        at: the key in it below which they stand.
    """

    document: Document
    at: KeyPath = ()

    @property
    def values(self) -> Mapping[str, Any]:
        value = self.document.value
        for key in self.at:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def where(self, keys: Sequence[str]) -> str | None:
        """File, line and key of a value; None where the file does not have it."""
        path = self.document.find((*self.at, *keys))
        return None if path is None else self.document.where(path)


def combined(layers: Sequence[Layer]) -> dict[str, Any]:
    """The values of several layers, the first one the strongest."""
    values = (layer.values for layer in reversed(layers))
    return reduce(deep_merged, values, {})


def read_layers(paths: Sequence[str]) -> tuple[Layer, ...]:
    """Values files as layers; the last one is the strongest, as `helm install -f` has it, and so
    the first of the result.

    Raises:
        InputError: a file cannot be read, is not YAML, or is no mapping.
    """
    return tuple(_layer(Path(path), path) for path in reversed(paths))


def read_preset(document: Document, folder: Path) -> Layer | None:
    """The values that rvk8s.yaml names by `preset`; None where it names none.

    Args:
        document: the rvk8s.yaml.
        folder: where a path is relative to.

    Raises:
        InputError: there is no such preset, or it cannot be read.
    """
    name = document.value.get("preset")
    if not isinstance(name, str) or not name:
        return None  # absent, or the schema's error
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = folder / os.path.expanduser(name)
        if not path.is_file():
            fix = "give a values file relative to this one, or the name of a preset"
            raise document.error(("preset",), f"no file {name} in {folder}", fix)
        return _layer(path, os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))
    presets = {path.stem: path for path in sorted((chart_dir() / "presets").glob("*.yaml"))}
    if name not in presets:
        fix = nearest(name, list(presets), "there are")
        raise document.error(("preset",), f"no preset {name}", fix)
    return _layer(presets[name], f"preset {name}")


def _layer(path: Path, label: str) -> Layer:
    if not path.is_file():
        fix = "give a file of values of the chart"
        raise InputError("there is no such file", where=label, fix=fix)
    document = read(path, label)
    if document.errors:
        raise InputErrors(document.errors)
    if not isinstance(document.value, dict):
        raise InputError("is no mapping", where=label, fix="write values of the chart: key: ...")
    return Layer(document)
