"""Writes the labels of the dubai-buildings experiment: a polygon around every building.

    python -m examples.dubai.buildings .rvk8s-demo/dubai-buildings

reads tileN_label.tif (see examples/dubai/experiment.py) and writes tileN_buildings.geojson, in
pixels, since the scenes have no coordinate reference system. Pixels of buildings that touch are one
building; what is smaller than a house or larger than a chip is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rasterio.features import shapes

from examples.dubai.buildings_experiment import CHIP, SCENES, SMALLEST
from examples.dubai.experiment import CLASSES
from examples.dubai.labels import write


def buildings(labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the buildings of a scene.

    Args:
        labels: (height, width) class ids.
    """
    there = (labels == list(CLASSES).index("building")).astype(np.uint8)
    for polygon, _ in shapes(there, mask=there > 0):
        xs, ys = zip(*polygon["coordinates"][0], strict=True)
        sides = max(xs) - min(xs), max(ys) - min(ys)
        if min(sides) >= SMALLEST and max(sides) <= CHIP:
            properties = {"class_name": "building"}
            yield {"type": "Feature", "geometry": polygon, "properties": properties}


if __name__ == "__main__":
    write("buildings", SCENES, buildings)
