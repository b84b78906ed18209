"""The tiny scenes with Raster Vision's own PyTorch backend, as its command line takes it."""

from __future__ import annotations

from os.path import join

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
)
from rastervision.pytorch_backend import PyTorchSemanticSegmentationConfig
from rastervision.pytorch_learner import (
    Backbone,
    SemanticSegmentationImageDataConfig,
    SemanticSegmentationModelConfig,
    SolverConfig,
)


def get_config(runner: str, raw_uri: str, root_uri: str) -> SemanticSegmentationConfig:
    def scene(name: str) -> SceneConfig:
        label = RasterioSourceConfig(uris=join(raw_uri, f"label_{name}.tif"))
        return SceneConfig(
            id=name,
            raster_source=RasterioSourceConfig(
                uris=join(raw_uri, f"image_{name}.tif"), channel_order=[0, 1, 2]
            ),
            label_source=SemanticSegmentationLabelSourceConfig(raster_source=label),
        )

    sampling = WindowSamplingConfig(size=64, stride=64, padding=0)
    return SemanticSegmentationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["field", "house"], colors=["green", "red"]),
            train_scenes=[scene("train_a"), scene("train_b")],
            validation_scenes=[scene("val_a")],
        ),
        backend=PyTorchSemanticSegmentationConfig(
            data=SemanticSegmentationImageDataConfig(img_channels=3, img_sz=64, num_workers=0),
            model=SemanticSegmentationModelConfig(backbone=Backbone.resnet50, pretrained=False),
            solver=SolverConfig(lr=1e-3, num_epochs=1, batch_sz=4),
            log_tensorboard=False,
            run_tensorboard=False,
        ),
        chip_options=SemanticSegmentationChipOptions(sampling=sampling),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=64, batch_sz=4),
    )
