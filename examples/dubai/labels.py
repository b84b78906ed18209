"""Writes labels of the scenes of Dubai as GeoJSON: what cells.py and buildings.py share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from examples.dubai.experiment import find_data


def write(
    kind: str, scenes: Sequence[str], features: Callable[[np.ndarray], Iterable[dict[str, Any]]]
) -> None:
    """Write <out>/<scene>_<kind>.geojson for each scene; the command line says where.

    Args:
        features: class ids (height, width), as in tileN_label.tif -> GeoJSON features.
    """
    parser = argparse.ArgumentParser(description=f"Write the labels of dubai-{kind}.")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--raw", help="the folder of the scenes; default: as dubai finds it")
    given = parser.parse_args()
    raw = Path(given.raw or find_data())
    given.out.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        with rasterio.open(raw / f"{scene}_label.tif") as file:
            found = list(features(file.read(1)))
        path = given.out / f"{scene}_{kind}.geojson"
        partial = path.with_name(f".{path.name}.part")
        partial.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
        partial.rename(path)
        print(f"{path}: {len(found)} {kind}")
