"""Backends that are not ours, and tasks that ours does not do: refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    GeoJSONVectorSourceConfig,
    RasterioSourceConfig,
)
from rastervision.core.rv_pipeline import (
    ObjectDetectionChipOptions,
    ObjectDetectionConfig,
    ObjectDetectionPredictOptions,
    ObjectDetectionWindowSamplingConfig,
    SemanticSegmentationConfig,
)
from rastervision.kubernetes import inputs
from rastervision.pipeline.pipeline import Pipeline
from rastervision.pytorch_backend import PyTorchSemanticSegmentationConfig
from rastervision.pytorch_learner import (
    Backbone,
    SemanticSegmentationImageDataConfig,
    SemanticSegmentationModelConfig,
    SolverConfig,
)
from said import check_lines, says

from rvk8s.errors import InputError


def own(**data: Any) -> PyTorchSemanticSegmentationConfig:
    """Raster Vision's own backend."""
    return PyTorchSemanticSegmentationConfig(
        data=SemanticSegmentationImageDataConfig(img_channels=3, img_sz=64, **data),
        model=SemanticSegmentationModelConfig(backbone=Backbone.resnet50, pretrained=False),
        solver=SolverConfig(lr=1e-3, num_epochs=1, batch_sz=4),
    )


def said(config: Any, ranks: int = 1) -> list[str]:
    errors, _ = inputs.check(config, 0, ranks)
    return [str(error) for error in errors]


def test_it_trains_with_one_rank(config: SemanticSegmentationConfig) -> None:
    config.backend = own()
    assert said(config) == []
    check_lines(
        said(config, ranks=2),
        ["backend: PyTorchSemanticSegmentationConfig…one GPU…2 processes; …fastai…"],
    )


@pytest.mark.parametrize("asked", [{"gpus": 2}, {"nodes": 2}])
def test_the_runner_refuses_several_ranks_before_it_submits(
    config: SemanticSegmentationConfig, tmp_path: Path, asked: dict[str, int]
) -> None:
    from rastervision.kubernetes.runner import Settings, prepare  # a plugin: after pipeline

    config.backend = own()
    settings = Settings(image="registry.example.com/x:1", namespace="n", **asked)
    uri = "s3://bucket/exp/pipeline-config.json"
    with pytest.raises(InputError, match=r"^RVK8S_(GPUS|NODES): 2 (GPUs|nodes) for PyTorch"):
        prepare(settings, uri, Pipeline(config, str(tmp_path)), (), 1, "exp")


def test_its_workers_stream_nothing(config: SemanticSegmentationConfig) -> None:
    """It reads scenes by forked processes, four unless it is told otherwise."""
    source = config.dataset.validation_scenes[0].raster_source
    assert isinstance(source, RasterioSourceConfig)
    source.allow_streaming = True
    config.backend = own()
    (line,) = said(config)
    assert says(line, "data.num_workers…4…allow_streaming; …num_workers…")
    config.backend = own(num_workers=0)
    assert said(config) == []


def test_ours_does_semantic_segmentation(config: SemanticSegmentationConfig) -> None:
    sampling = ObjectDetectionWindowSamplingConfig(size=64, stride=64)
    detection = ObjectDetectionConfig(
        root_uri=config.root_uri,
        dataset=config.dataset.model_copy(deep=True),
        backend=config.backend,
        chip_options=ObjectDetectionChipOptions(sampling=sampling),
        predict_options=ObjectDetectionPredictOptions(),
    )
    assert says(
        said(detection)[0],
        "backend: FastaiSemanticSegmentationConfig…not ObjectDetectionConfig; "
        "…FastaiObjectDetectionConfig…",
    )


@pytest.mark.parametrize("is_ours", [True, False])
def test_labels_of_another_task(
    config: SemanticSegmentationConfig, tmp_path: Path, is_ours: bool
) -> None:
    config.backend = config.backend if is_ours else own()
    (tmp_path / "cells.json").write_text('{"type": "FeatureCollection", "features": []}')
    vectors = GeoJSONVectorSourceConfig(uris=str(tmp_path / "cells.json"))
    one = config.dataset.train_scenes[0]
    one.label_source = ChipClassificationLabelSourceConfig(vector_source=vectors)
    (line,) = said(config)
    assert says(line, f"train scene {one.id}: …no label_source…semantic segmentation; …")
