"""The smallest experiment that has every stage: 2 training scenes, 2 others, 64 px chips."""

from __future__ import annotations

from os.path import join
from typing import Any

from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
    StatsTransformerConfig,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
)


def get_config(
    runner: str,
    raw_uri: str,
    root_uri: str,
    epochs: int = 2,
    batch_sz: int = 4,
    stats: bool = True,
    chip_sz: int = 64,
    train: str = "train_a,train_b",
    channels: list[int] | None = None,
    arch: str = "unet",
    backbone: str = "resnet18",
) -> SemanticSegmentationConfig:
    classes = ClassConfig(names=["field", "house"], colors=["green", "red"])

    def scene(name: str) -> SceneConfig:
        transformers = [StatsTransformerConfig()] if stats else []
        image = RasterioSourceConfig(
            uris=join(raw_uri, f"image_{name}.tif"),
            channel_order=channels or [0, 1, 2],
            transformers=transformers,
        )
        label = RasterioSourceConfig(uris=join(raw_uri, f"label_{name}.tif"))
        return SceneConfig(
            id=name,
            raster_source=image,
            label_source=SemanticSegmentationLabelSourceConfig(raster_source=label),
        )

    sampling = WindowSamplingConfig(size=chip_sz, stride=chip_sz, padding=0)
    return SemanticSegmentationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=classes,
            train_scenes=[scene(name) for name in train.split(",") if name],
            validation_scenes=[scene("val_a"), scene("val_b")],
        ),
        backend=_backend(epochs, batch_sz, arch, backbone),
        chip_options=SemanticSegmentationChipOptions(sampling=sampling),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=64, batch_sz=4),
    )


def _backend(epochs: int, batch_sz: int, arch: str, backbone: str) -> Any:
    from rastervision.fastai_backend import FastaiSemanticSegmentationConfig

    return FastaiSemanticSegmentationConfig(
        model={"arch": arch, "backbone": backbone, "pretrained": False},
        data={"dihedral": True},
        solver={"num_epochs": epochs, "batch_sz": batch_sz, "lr": 5e-3, "precision": "fp32"},
    )
