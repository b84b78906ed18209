"""Draws scenes of cells: each is a class of its own texture, and labelled by a square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pyproj import Transformer
from rasterio import Affine
from rasterio.transform import from_origin
from scenes import write

#: Pixels of a cell, and cells of a scene on each side.
CELL, SIDE = 32, 6
SCENES = ("train_a", "train_b", "val_a", "val_b")
CLASSES = ("field", "house")
PLACE = from_origin(366_000, 5_808_000, 0.5, 0.5)  # as scenes.write() puts them


def draw(folder: Path) -> None:
    """Write image_NAME.tif and cells_NAME.json for every scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCENES):
        ids, image = scene(np.random.default_rng(seed))
        write(folder / f"image_{name}.tif", image)
        write_cells(folder / f"cells_{name}.json", ids)


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (SIDE, SIDE) and an image (3, height, width): half of a house's cell is bright."""
    ids = random.integers(0, 2, (SIDE, SIDE))
    image = np.full((SIDE * CELL, SIDE * CELL, 3), (70, 110, 60), np.float64)
    for row, column in np.argwhere(ids == 1):
        top, left = row * CELL + random.integers(2, 8), column * CELL + random.integers(2, 8)
        image[top : top + 22, left : left + 22] = (180, 150, 140)
    image += random.normal(0, 15, image.shape)
    return ids, np.clip(image, 1, 255).astype(np.uint8).transpose(2, 0, 1)


def write_cells(path: Path, ids: np.ndarray, place: Affine = PLACE) -> None:
    """Write a GeoJSON of squares with a class_id, one for each cell whose id isn't negative."""
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    features = []
    for row, column in np.argwhere(ids >= 0):
        top, left = int(row) * CELL, int(column) * CELL
        edges = [(0, 0), (CELL, 0), (CELL, CELL), (0, CELL), (0, 0)]
        ring = [to_degrees.transform(*(place @ (left + x, top + y))) for x, y in edges]
        properties = {"class_id": int(ids[row, column])}
        polygon = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": properties, "geometry": polygon})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
