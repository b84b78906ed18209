"""The smallest chip classification that has every stage: cells of 32 px, labelled by squares."""

from __future__ import annotations

from os.path import join

from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ClassConfig,
    DatasetConfig,
    GeoJSONVectorSourceConfig,
    RasterioSourceConfig,
    SceneConfig,
    StatsTransformerConfig,
)
from rastervision.core.rv_pipeline import (
    ChipClassificationConfig,
    ChipOptions,
    PredictOptions,
    WindowSamplingConfig,
)


def get_config(
    runner: str,
    raw_uri: str,
    root_uri: str,
    epochs: int = 6,
    batch_sz: int = 8,
    chip_sz: int = 32,
    stats: bool = True,
    chips: bool = True,
) -> ChipClassificationConfig:
    from rastervision.fastai_backend import FastaiChipClassificationConfig

    def scene(name: str) -> SceneConfig:
        image = RasterioSourceConfig(
            uris=join(raw_uri, f"image_{name}.tif"),
            transformers=[StatsTransformerConfig()] if stats else [],
        )
        squares = GeoJSONVectorSourceConfig(uris=join(raw_uri, f"cells_{name}.json"))
        labels = ChipClassificationLabelSourceConfig(vector_source=squares)
        return SceneConfig(id=name, raster_source=image, label_source=labels)

    sampling = WindowSamplingConfig(size=chip_sz, stride=chip_sz, padding=0)
    backend = FastaiChipClassificationConfig(
        model={"backbone": "squeezenet1_1", "pretrained": False, "dropout": 0.1},
        data={"dihedral": True},
        solver={"num_epochs": epochs, "batch_sz": batch_sz, "lr": 3e-3, "precision": "fp32"},
        sampling=None if chips else sampling,
    )
    return ChipClassificationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["field", "house"], colors=["green", "red"]),
            train_scenes=[scene("train_a"), scene("train_b")],
            validation_scenes=[scene("val_a"), scene("val_b")],
        ),
        backend=backend,
        chip_options=ChipOptions(sampling=sampling),
        predict_options=PredictOptions(chip_sz=chip_sz, batch_sz=4),
    )
