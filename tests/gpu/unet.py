"""Which GPUs a test needs, and the network that all of them train."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rastervision.fastai_backend.callbacks import TIMES
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.precision import has_native_bf16

#: Where the tests compute, once they are not skipped.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def needs_gpu(what: str, count: int = 1) -> list[pytest.MarkDecorator]:
    """Marks of tests of something that only GPUs can show. What torch warns of there is printed and
    no failure."""
    found = torch.cuda.device_count()
    lacking = "no CUDA device" if found == 0 else f"{found} CUDA device of {count}"
    return [
        pytest.mark.skipif(found < count, reason=f"NOT TESTED: {what}, {lacking}"),
        pytest.mark.filterwarnings("default"),
    ]


def skip_without(precision: str) -> None:
    """Skip what asks for bf16 on a GPU that only emulates it, as T4 and V100."""
    if precision == "bf16" and not has_native_bf16(torch.device(DEVICE)):
        pytest.skip("NOT TESTED: bf16, which this GPU does not compute")


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainSettings]:
    """Settings of a small U-Net on chips of 64 pixels; overridden by group."""

    def make(**groups: dict[str, Any]) -> TrainSettings:
        defaults: dict[str, dict[str, Any]] = {
            "model": {"backbone": "resnet18", "pretrained": False, "last_cross": False},
            "data": {"dihedral": True},
            "solver": {"batch_sz": 4, "num_epochs": 3, "lr": 1e-3, "log_tensorboard": False},
        }
        return TrainSettings(**{k: {**v, **groups.get(k, {})} for k, v in defaults.items()})

    return make


def rows(folder: Path) -> list[dict[str, float]]:
    """log.csv without what clocks say."""
    with open(folder / "log.csv", newline="") as f:
        return [
            {k: float(v) for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)
        ]


def distance(a: Path, b: Path) -> float:
    """How far the weights that two trainings end with are apart, relative to their length."""
    one, other = (torch.load(f / "last.pt", weights_only=True)["model"] for f in (a, b))
    apart = sum(float((one[k].double() - other[k].double()).norm() ** 2) for k in one)
    return (apart / sum(float(v.double().norm() ** 2) for v in one.values())) ** 0.5
