"""Draws the scenes of the tiny experiment: flat colours with noise, rectangles of 2 classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

SIZE = 192
SCENES = ("train_a", "train_b", "val_a", "val_b")


def draw(folder: Path) -> None:
    """Write image_NAME.tif (3 bands) and label_NAME.tif (ids 0 and 1) for every scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCENES):
        image, label = _scene(np.random.default_rng(seed))
        write(folder / f"image_{name}.tif", image)
        write(folder / f"label_{name}.tif", label[None])


def write(path: Path, array: np.ndarray, *, tiled: bool = True, left: int = 0) -> None:
    """Write (bands, height, width) as a GeoTIFF, in tiles or in strips; left: its first column."""
    bands, height, width = array.shape
    profile = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": array.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(366_000 + left * 0.5, 5_808_000, 0.5, 0.5),
    }
    if tiled:
        profile |= {"tiled": True, "blockxsize": 64, "blockysize": 64}
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)


def write_area(path: Path, image: Path, area: tuple[int, int, int, int]) -> None:
    """Write a GeoJSON of one rectangle of an image: its top, left, bottom and right, in pixels."""
    top, left, bottom, right = area
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    with rasterio.open(image) as file:
        to_degrees = Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True)
        ring = [to_degrees.transform(*(file.transform @ corner)) for corner in corners]
    polygon = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": polygon}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def _scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(8):
        row, col = random.integers(0, SIZE - 40, 2)
        height, width = random.integers(20, 60, 2)
        label[row : row + height, col : col + width] = 1
    colors = np.array([[70, 110, 60], [180, 150, 140]])
    image = colors[label] + random.normal(0, 20, (SIZE, SIZE, 3))
    return np.clip(image, 1, 255).astype(np.uint8).transpose(2, 0, 1), label
