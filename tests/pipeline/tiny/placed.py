"""Scenes of one image and its label, which lie at given places, and what configure says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin
from rastervision.core.box import Box
from rastervision.core.data import (
    ClassConfig,
    RasterioSourceConfig,
    RasterSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.rv_pipeline import WindowSamplingConfig
from rastervision.kubernetes import inputs

LEFT, TOP, SIDE = 366_000, 5_808_000, 0.5
HEIGHT, WIDTH = 150, 190
SHARED = np.random.default_rng(0)
IMAGE = SHARED.integers(1, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
LABEL = SHARED.integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)
CLASSES = ClassConfig(names=["a", "b", "c"], null_class="a")


def write(
    path: Path, pixels: np.ndarray, x: float = 0, y: float = 0, *, side: float = SIDE, **more: Any
) -> str:
    """Write pixels (bands, height, width); x and y are in pixels of SIDE."""
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:32633",
        "transform": from_origin(LEFT + x * SIDE, TOP - y * SIDE, side, side),
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        **more,
    }
    with rasterio.open(path, "w", **profile) as image:
        image.write(pixels)
    return str(path)


def image_of(folder: Path, **options: Any) -> RasterioSourceConfig:
    return RasterioSourceConfig(uris=write(folder / "image.tif", IMAGE), **options)


def scene(image: RasterSourceConfig, label: str, area: str | None = None) -> SceneConfig:
    source = SemanticSegmentationLabelSourceConfig(raster_source=RasterioSourceConfig(uris=label))
    aoi_uris = [area] if area else None
    return SceneConfig(id="one", raster_source=image, label_source=source, aoi_uris=aoi_uris)


def checker_of(classes: ClassConfig, *, analyze: bool = False) -> inputs._Checker:
    return inputs._Checker(classes, analyze=analyze)


def said(one: SceneConfig, sampling: WindowSamplingConfig | None = None) -> list[str]:
    checker = checker_of(CLASSES)
    checker.check_scene(one, "train", sampling)
    return [str(error) for error in checker.errors]


def labels_of(one: SceneConfig) -> np.ndarray:
    built = one.build(CLASSES)
    found: np.ndarray = built.label_source.get_label_arr(Box(0, 0, *built.extent.size))
    return found


def areas(path: Path, boxes: Sequence[tuple[int, int, int, int]]) -> str:
    """Write areas of interest: (top, left, bottom, right) in pixels."""
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    features = []
    for top, left, bottom, right in boxes:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        ring = [to_degrees.transform(LEFT + x * SIDE, TOP - y * SIDE) for x, y in corners]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {}, "geometry": polygon})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)
