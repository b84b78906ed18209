"""The tiny experiment with everything that a bad input may change as an argument."""

from __future__ import annotations

from typing import Any

from rastervision.core.data import ClassConfig
from rastervision.core.rv_pipeline import SemanticSegmentationConfig
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from tiny_experiment import get_config as tiny


def get_config(
    runner: str,
    raw_uri: str,
    root_uri: str,
    num_epochs: int = 1,
    batch_sz: int = 4,
    chip_sz: int = 64,
    train: str = "train_a,train_b",
    channels: list[int] | None = None,
    classes: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    solver: dict[str, Any] | None = None,
) -> SemanticSegmentationConfig:
    config = tiny(
        runner, raw_uri, root_uri, stats=False, chip_sz=chip_sz, train=train, channels=channels
    )
    if classes is not None:
        config.dataset.class_config = ClassConfig(**classes)
    network = {"arch": "deeplabv3", "backbone": "squeezenet1_1", "pretrained": False}
    course = {"num_epochs": num_epochs, "batch_sz": batch_sz, "lr": 5e-3, "precision": "fp32"}
    config.backend = FastaiSemanticSegmentationConfig(
        model=network | (model or {}),
        data=data or {},
        solver=course | {"log_tensorboard": False} | (solver or {}),
    )
    return config
