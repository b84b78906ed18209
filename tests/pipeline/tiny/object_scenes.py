"""Draws scenes of objects: bright and dark squares, labelled by boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pyproj import Transformer
from rasterio.transform import from_origin
from scenes import write

SIZE = 192
SCENES = ("train_a", "train_b", "val_a", "val_b")
CLASSES = ("car", "ship")
_PLACE = from_origin(366_000, 5_808_000, 0.5, 0.5)  # as scenes.write() puts them


def draw(folder: Path) -> None:
    """Write image_NAME.tif and boxes_NAME.json for every scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCENES):
        boxes, image = scene(np.random.default_rng(seed))
        write(folder / f"image_{name}.tif", image)
        write_boxes(folder / f"boxes_{name}.json", boxes)


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 5), ymin, xmin, ymax, xmax and class id, and an image (3, SIZE, SIZE)."""
    image = np.full((SIZE, SIZE, 3), 110.0)
    boxes = []
    for top in range(0, SIZE, 48):
        for left in range(0, SIZE, 48):
            if random.random() < 0.4:
                continue
            side, class_id = int(random.integers(14, 24)), int(random.integers(0, 2))
            y, x = top + int(random.integers(2, 20)), left + int(random.integers(2, 20))
            image[y : y + side, x : x + side] = 220 if class_id == 0 else 20
            boxes.append((y, x, y + side, x + side, class_id))
    image += random.normal(0, 8, image.shape)
    pixels = np.clip(image, 1, 255).astype(np.uint8).transpose(2, 0, 1)
    return np.array(boxes), pixels


def write_boxes(path: Path, boxes: np.ndarray) -> None:
    """Write a GeoJSON of squares with a class_name."""
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    features = []
    for y0, x0, y1, x1, class_id in boxes.tolist():
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        ring = [to_degrees.transform(*(_PLACE @ (x, y))) for x, y in corners]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        properties = {"class_name": CLASSES[class_id]}
        features.append({"type": "Feature", "properties": properties, "geometry": polygon})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
