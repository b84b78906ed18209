"""Weights to start from that were trained on images of other bands, or of just as many."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from rastervision.fastai_backend import backbones, bundle, models, weights
from rastervision.fastai_backend.model_spec import ModelSpec
from said import says
from torch import nn
from torchvision import models as torchvision_models

from rvk8s.errors import InputError


def spec(channels: int, arch: str = "unet", backbone: str = "resnet18") -> ModelSpec:
    return ModelSpec(
        arch=arch,
        backbone=backbone,
        channels=channels,
        class_names=("a", "b"),
        class_colors=("red", "blue"),
        null_id=None,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        img_sz=64,
        last_cross=False,
    )


def first(model: nn.Module) -> torch.Tensor:
    return backbones._first_convolution(model)[1].weight


@pytest.fixture
def rgb(tmp_path: Path) -> tuple[Path, nn.Module]:
    """The bundle of a training on three bands."""
    torch.manual_seed(0)
    model = models.build(spec(3))
    bundle.save(tmp_path / "rgb.zip", model.state_dict(), spec(3))
    return tmp_path / "rgb.zip", model


@pytest.mark.slow
def test_a_bundle_of_three_bands_starts_four(
    rgb: tuple[Path, nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    path, model = rgb
    with caplog.at_level(logging.INFO):
        four = weights.start(spec(4), path)
    torch.testing.assert_close(first(four)[:, :3], first(model) * 3 / 4)
    torch.testing.assert_close(first(four)[:, 3], first(model).mean(dim=1) * 3 / 4)
    assert says(caplog.text, "…4 bands: …convolution is adapted…")
    names = models.backbone_names(four)
    assert f"{len(four.state_dict())} of {len(four.state_dict())} tensors" in caplog.text
    old = model.state_dict()
    for name in names - {"layers.0.0.weight"}:
        assert torch.equal(four.state_dict()[name], old[name])


@pytest.mark.slow
def test_a_bundle_of_four_bands_starts_three_and_thirteen(tmp_path: Path) -> None:
    model = models.build(spec(4))
    bundle.save(tmp_path / "four.zip", model.state_dict(), spec(4))
    three, many = (first(weights.start(spec(n), tmp_path / "four.zip")) for n in (3, 13))
    torch.testing.assert_close(three, first(model)[:, :3] * 4 / 3)
    torch.testing.assert_close(many[:, :4], first(model) * 4 / 13)
    torch.testing.assert_close(many[:, 12], first(model).mean(dim=1) * 4 / 13)


@pytest.mark.slow
def test_a_bundle_of_another_backbone_is_refused(rgb: tuple[Path, nn.Module]) -> None:
    with pytest.raises(InputError, match=r"not .*weights of unet .*resnet34"):
        weights.start(spec(4, backbone="resnet34"), rgb[0])


@pytest.fixture(params=["whole", "without its classifier", "of other classes"])
def sentinel(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A file of torchvision's names for 13 bands, and its first convolution."""
    torch.manual_seed(1)
    network: Any = torchvision_models.get_model(
        "resnet18", weights=None, num_classes=10 if request.param == "of other classes" else 1000
    )
    network.conv1 = nn.Conv2d(13, 64, 7, 2, 3, bias=False)
    state = network.state_dict()
    if request.param == "without its classifier":
        state = {k: v for k, v in state.items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "sentinel.pth")
    return tmp_path / "sentinel.pth", state["conv1.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["unet", "deeplabv3"])
def test_a_classifier_of_thirteen_bands_is_taken_as_it_is(
    sentinel: tuple[Path, torch.Tensor], arch: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, conv = sentinel
    with caplog.at_level(logging.INFO):
        assert torch.equal(first(weights.start(spec(13, arch), path)), conv)
    assert "adapted" not in caplog.text
    four = first(weights.start(spec(4, arch), path))
    torch.testing.assert_close(four, conv[:, :4] * 13 / 4)
