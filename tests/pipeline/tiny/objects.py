"""The smallest object detection that has every stage: squares of 14 to 23 px, chips of 64."""

from __future__ import annotations

from os.path import join

from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    GeoJSONVectorSourceConfig,
    ObjectDetectionLabelSourceConfig,
    RasterioSourceConfig,
    SceneConfig,
)
from rastervision.core.rv_pipeline import (
    ObjectDetectionChipOptions,
    ObjectDetectionConfig,
    ObjectDetectionPredictOptions,
    ObjectDetectionWindowSamplingConfig,
)


def get_config(
    runner: str,
    raw_uri: str,
    root_uri: str,
    epochs: int = 1,
    batch_sz: int = 4,
    backbone: str = "squeezenet1_1",
    features: int = 16,
    score_thresh: float = 0.005,
    neg_ratio: float | None = None,
    chips: bool = True,
) -> ObjectDetectionConfig:
    from rastervision.fastai_backend import FastaiObjectDetectionConfig

    def scene(name: str) -> SceneConfig:
        image = RasterioSourceConfig(uris=join(raw_uri, f"image_{name}.tif"))
        squares = GeoJSONVectorSourceConfig(uris=join(raw_uri, f"boxes_{name}.json"))
        labels = ObjectDetectionLabelSourceConfig(vector_source=squares)
        return SceneConfig(id=name, raster_source=image, label_source=labels)

    if neg_ratio is None:
        sampling = ObjectDetectionWindowSamplingConfig(size=64, stride=32, padding=0)
    else:
        sampling = ObjectDetectionWindowSamplingConfig(
            method="random", size=64, max_windows=40, neg_ratio=neg_ratio, padding=0
        )
    backend = FastaiObjectDetectionConfig(
        model={
            "backbone": backbone,
            "pretrained": False,
            "anchor_sz": 12,
            "features": int(features),
        },
        data={"dihedral": True},
        solver={
            "num_epochs": int(epochs),
            "batch_sz": int(batch_sz),
            "lr": 1e-3,
            "precision": "fp32",
        },
        sampling=None if chips else sampling,
    )
    return ObjectDetectionConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["car", "ship"], colors=["red", "blue"]),
            train_scenes=[scene("train_a"), scene("train_b")],
            validation_scenes=[scene("val_a"), scene("val_b")],
        ),
        backend=backend,
        chip_options=ObjectDetectionChipOptions(sampling=sampling),
        predict_options=ObjectDetectionPredictOptions(
            chip_sz=64, stride=32, batch_sz=4, score_thresh=float(score_thresh)
        ),
    )
