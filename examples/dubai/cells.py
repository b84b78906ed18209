"""Writes the labels of the dubai-cells experiment: what is to be seen in each cell.

    python -m examples.dubai.cells .rvk8s-demo/dubai-cells

reads tileN_label.tif (see examples/dubai/experiment.py) and writes tileN_cells.geojson: a square
for each cell of the scene, in pixels, since the scenes have no coordinate reference system. A cell
with some buildings is built up; another one has the class that most of it is, where roads are land.
Cells that are mostly unlabelled get none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from examples.dubai.cells_experiment import CELL, SCENES
from examples.dubai.labels import write

#: The share of buildings from which on a cell is built up.
BUILT = 0.1


def cells(labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """GeoJSON features of the cells of a scene.

    Args:
        labels: (height, width) class ids as in tileN_label.tif.
    """
    for top in range(0, labels.shape[0] - CELL + 1, CELL):
        for left in range(0, labels.shape[1] - CELL + 1, CELL):
            ids = labels[top : top + CELL, left : left + CELL]
            building, land, road, vegetation, water, unlabelled = np.bincount(
                ids.ravel(), minlength=6
            )
            if unlabelled > ids.size / 2:
                continue
            if building >= BUILT * ids.size:
                yield square(left, top, "built up")
                continue
            others = {"land": land + road, "vegetation": vegetation, "water": water}
            yield square(left, top, max(others, key=others.__getitem__))


def square(left: int, top: int, name: str) -> dict[str, Any]:
    """A cell's feature."""
    right, bottom = left + CELL, top + CELL
    ring = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": polygon, "properties": {"class_name": name}}


if __name__ == "__main__":
    write("cells", SCENES, cells)
