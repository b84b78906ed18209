"""What the tests of the training core share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3

sys.path.insert(0, str(Path(__file__).parent))

from ranked import ranked
from rastervision.fastai_backend.options import TrainSettings
from small import classes, make_chips, options, train

__all__ = ["classes", "make_chips", "ranked", "train"]


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainSettings]:
    """Settings of the quickest training on a CPU, where depthwise convolutions in bf16 are slow."""

    def quick(**groups: dict[str, Any]) -> TrainSettings:
        model = {"backbone": "squeezenet1_1", **groups.get("model", {})}
        return options(**{**groups, "model": model})

    return quick


@pytest.fixture(autouse=True)
def one_thread_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also where there is a GPU: the tests fork, and compare bit by bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ThinHead(nn.Sequential):
    """torchvision's DeepLabHead with 16 channels instead of 256: a tenth of the network's weights,
    which are computed, saved, and exchanged by ranks."""

    def __init__(self, features: int, classes: int):
        super().__init__(
            deeplabv3.ASPP(features, (12, 24, 36), 16),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, classes, 1),
        )


@pytest.fixture
def thin(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trainings that are not about the network."""
    monkeypatch.setattr(deeplabv3, "DeepLabHead", ThinHead)
