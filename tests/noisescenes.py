"""Pipelines of the fastai backend over small scenes of noise, and their chips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
    WindowSamplingMethod,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from rastervision.fastai_backend.store import StoredChips

HEIGHT, WIDTH = 150, 190


def write(path: Path, array: np.ndarray, **profile: Any) -> str:
    """Write (bands, height, width) as a GeoTIFF."""
    bands, height, width = array.shape
    transform = from_origin(366_000, 5_808_000, 0.5, 0.5)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=array.dtype,
        crs="EPSG:32633", transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(array)
    return str(path)


def scene(
    folder: Path, name: str, seed: int, bands: int = 3, dtype: str = "uint8", **source: Any
) -> SceneConfig:
    """A scene of noise on three classes; its upper left corner holds no data."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (HEIGHT // 10, WIDTH // 10)).repeat(10, 0).repeat(10, 1)
    top = {"uint8": 255, "uint16": 4000, "float32": 1.0}[dtype]
    image = (label[None] + 1 + rng.random((bands, HEIGHT, WIDTH))) / 4 * top
    image[:, :64, :64] = 0
    uri = write(
        folder / f"{name}.tif", image.astype(dtype), tiled=True, blockxsize=64, blockysize=64
    )
    label_uri = write(folder / f"{name}-label.tif", label[None].astype(np.uint8))
    return SceneConfig(
        id=name,
        raster_source=RasterioSourceConfig(uris=uri, **source),
        label_source=SemanticSegmentationLabelSourceConfig(
            raster_source=RasterioSourceConfig(uris=label_uri)
        ),
    )


def sliding(size: int = 48, stride: int = 32, **kwargs: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(size=size, stride=stride, **kwargs)


def drawn(count: int = 12, **kwargs: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(
        method=WindowSamplingMethod.random, size=48, size_lims=(30, 60), max_windows=count, **kwargs
    )


def pipeline(
    folder: Path,
    sampling: Any,
    *,
    backend: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    train: tuple[str, ...] = ("a", "b"),
    **scenes: Any,
) -> SemanticSegmentationConfig:
    """A pipeline with scenes a and b to train on and v to validate, updated and validated."""
    values: dict[str, Any] = {
        "model": {"arch": "deeplabv3", "backbone": "mobilenet_v3_small", "pretrained": False},
        "solver": {"num_epochs": 1, "batch_sz": 4, "precision": "fp32", "log_tensorboard": False},
    }
    cfg = SemanticSegmentationConfig(
        root_uri=str(folder / "run"),
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["x", "y", "z"], colors=["red", "#00ff00", (0, 0, 255)]),
            train_scenes=[scene(folder, name, i, **scenes) for i, name in enumerate(train)],
            validation_scenes=[scene(folder, "v", 9, **scenes)],
        ),
        backend=FastaiSemanticSegmentationConfig(**(values | (backend or {}))),
        chip_options=SemanticSegmentationChipOptions(sampling=sampling, **(options or {})),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=48, batch_sz=4),
    )
    cfg.update()
    cfg.recursive_validate_config()
    return cfg


def chips(cfg: SemanticSegmentationConfig, tmp: Path, splits: int = 1) -> StoredChips:
    """Chip and return the training chips."""
    built = cfg.build(str(tmp))
    for i in range(splits):
        built.chip(split_ind=i, num_splits=splits)
    return StoredChips(Path(cfg.chip_uri), "train", [s.id for s in cfg.dataset.train_scenes])


def everything(source: StoredChips) -> tuple[np.ndarray, np.ndarray]:
    return source.read(np.arange(len(source)), 0)
