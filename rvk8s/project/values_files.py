"""Files of values of the chart, which `rvk8s submit --values` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rvk8s.errors import InputError, InputErrors
from rvk8s.project.yamldoc import read
from rvk8s.values import deep_merged


def read_files(paths: Sequence[str]) -> dict[str, Any]:
    """Values files, the later ones stronger, as `helm install -f` takes them.

    Raises:
        InputError: a file cannot be read, is not YAML, or is no mapping.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        if not Path(path).is_file():
            fix = "give a file of values of the chart"
            raise InputError("there is no such file", where=path, fix=fix)
        document = read(Path(path), path)
        if document.errors:
            raise InputErrors(document.errors)
        if not isinstance(document.value, dict):
            raise InputError("is no mapping", where=path, fix="write values of the chart: key: ...")
        merged = deep_merged(merged, document.value)
    return merged
