"""Fixtures: small data, small networks. Tests of the core share them with those on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import TrainSettings

CLASSES = Classes(("ground", "house", "road"), ("grey", "red", "blue"))


@pytest.fixture(scope="session")
def classes() -> Classes:
    return CLASSES


@pytest.fixture(scope="session")
def make_chips() -> Callable[..., ArrayChips]:
    """Chips with a square of each class, each class of its own brightness, plus noise."""

    def make(
        n: int, size: int = 32, channels: int = 3, dtype: str = "uint8", seed: int = 0
    ) -> ArrayChips:
        rng = np.random.default_rng(seed)
        labels = np.zeros((n, size, size), np.uint8)
        for chip in labels:
            for c in (1, 2):
                y, x = rng.integers(0, size // 2, 2)
                chip[y : y + size // 2, x : x + size // 2] = c
        top = {"uint8": 255, "uint16": 10_000, "float32": 1.0}[dtype]
        levels = np.array([0.2, 0.5, 0.8])[:, None] * np.linspace(0.8, 1.0, channels)
        pixels = levels[labels] + rng.normal(0, 0.05, (n, size, size, channels))
        return ArrayChips((np.clip(pixels, 0.01, 1) * top).astype(dtype), labels, 3)

    return make


def options(**groups: dict[str, Any]) -> TrainSettings:
    """Settings of the quickest training: the defaults below, overridden by group."""
    defaults: dict[str, dict[str, Any]] = {
        "model": {"arch": "deeplabv3", "backbone": "mobilenet_v3_small", "pretrained": False},
        "data": {},
        "solver": {"batch_sz": 2, "num_epochs": 1, "lr": 1e-3, "log_tensorboard": False},
    }
    return TrainSettings(**{k: {**v, **groups.get(k, {})} for k, v in defaults.items()})


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainSettings]:
    return options


@pytest.fixture
def train(
    tmp_path: Path, make_chips: Callable[..., ArrayChips], classes: Classes
) -> Callable[..., Path]:
    """Trains on six chips, validates on two; returns the output folder."""
    from rastervision.fastai_backend import learner

    def run(
        settings: TrainSettings,
        folder: str = "train",
        chips: ArrayChips | None = None,
        valid: ArrayChips | None = None,
        **kwargs: Any,
    ) -> Path:
        chips = make_chips(6) if chips is None else chips
        if valid is None:
            valid = make_chips(2, chips.size, chips.channels, str(chips.dtype), seed=1)
        learner.train(settings, chips, valid, classes, tmp_path / folder, **kwargs)
        return tmp_path / folder

    return run
