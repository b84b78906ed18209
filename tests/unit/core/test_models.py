"""Networks: what can be built, what goes in and comes out, and where weights come from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import bundle, weights
from rastervision.fastai_backend.backbones import classifier_names, without_weights
from rastervision.fastai_backend.model_spec import ModelSpec, normalize
from rastervision.fastai_backend.models import backbone_names, build, parameter_groups
from rastervision.fastai_backend.options import TrainSettings
from said import says
from torch import nn
from torchvision import models as torchvision_models

from rvk8s.errors import InputError

SMALL = "mobilenet_v3_small"


def spec(
    arch: str = "deeplabv3",
    backbone: str = SMALL,
    channels: int = 3,
    classes: int = 3,
    last_cross: bool = True,
) -> ModelSpec:
    names = tuple(f"class {i}" for i in range(classes))
    bands = (0.0,) * channels, (1.0,) * channels
    return ModelSpec(
        arch, backbone, channels, names, ("red",) * classes, None, *bands, 64, "uint8", last_cross
    )


def logits(model: nn.Module, spec: ModelSpec, size: int = 64) -> torch.Tensor:
    images = np.random.default_rng(0).integers(0, 255, (2, size, size, spec.channels))
    with torch.no_grad():
        return model.eval()(normalize(spec, images.astype(np.uint8)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "backbone", "channels"),
    [
        ("unet", "resnet18", 3),
        ("unet", "resnet34", 3),
        ("unet", "regnet_y_400mf", 5),
        ("unet", "mobilenet_v2", 1),
        ("unet", "shufflenet_v2_x0_5", 3),
        ("deeplabv3", "resnet18", 4),
        ("deeplabv3", "resnet34", 3),
        ("deeplabv3", "resnet50", 2),
        ("deeplabv3", "resnet101", 3),
        ("deeplabv3", "efficientnet_b0", 3),
        ("deeplabv3", "vgg11_bn", 3),
        ("deeplabv3", "densenet121", 3),
        ("deeplabv3", "googlenet", 3),
    ],
)
def test_backbones_of_many_kinds(arch: str, backbone: str, channels: int) -> None:
    shape = spec(arch, backbone, channels)
    model = build(shape)
    assert model.training
    for size in (64, 100):
        out = logits(model, shape, size)
        assert out.shape == (2, 3, size, size)
        assert type(out) is torch.Tensor
    body, head = parameter_groups(model)
    assert body
    assert head
    assert len(body) + len(head) == len(list(model.parameters()))


@pytest.mark.parametrize("backbone", ["resnet18", "regnet_y_400mf"])
def test_without_weights(backbone: str) -> None:
    """A regnet computes while it is built."""
    shape = spec("unet", backbone)
    model = without_weights(lambda: build(shape))
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in build(shape).state_dict().items()
    }
    assert any(name.startswith(("layer1.", "trunk_output.")) for name in classifier_names(shape))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["unet", "deeplabv3"])
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_large_backbones_have_the_right_shapes(arch: str, backbone: str) -> None:
    """Without weights: they would take seconds and a gigabyte."""
    shape = spec(arch, backbone, 4)
    model = without_weights(lambda: build(shape))
    found = model(torch.zeros(2, 4, 64, 64, device="meta"))
    assert found.shape == (2, 3, 64, 64)
    body, head = parameter_groups(model)
    layers = {"resnet50": 53, "resnet101": 104}[backbone]
    assert sum(p.ndim == 4 for p in body) == layers
    assert head


@pytest.mark.parametrize("channels", [3, 4])
def test_pretrained_weights_are_those_of_the_file(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not downloaded again: the file lies where torchvision keeps it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = torchvision_models.get_model_weights("squeezenet1_1").DEFAULT.url
    torch.manual_seed(1)
    given = torchvision_models.squeezenet1_1(weights=None).state_dict()
    torch.save(given, folder / url.rpartition("/")[2])
    shape = spec(backbone="squeezenet1_1", channels=channels)
    state = build(shape, pretrained=True).state_dict()
    first = given["features.0.weight"]
    if channels == 4:
        first = torch.cat([first, first.mean(1, keepdim=True)], 1) * (3 / 4)
    assert torch.equal(state.pop("body.0.weight"), first)
    names = [name for name in state if name.startswith("body.")]
    assert len(names) == sum(name.startswith("features.") for name in given) - 1
    for name in names:
        assert torch.equal(state[name], given[name.replace("body", "features", 1)]), name


@pytest.mark.parametrize("backbone", ["vit_b_32", "swin_t", "inception_v3"])
def test_backbones_without_a_pyramid(backbone: str) -> None:
    with pytest.raises(InputError, match="feature pyramid; "):
        build(spec("unet", backbone))


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"model\.backbone: torchvision .*'resnet19'; "):
        build(spec(backbone="resnet19"))
    with pytest.raises(InputError, match=r"arch .*'fpn'; .*unet, deeplabv3, cla"):
        build(spec(arch="fpn"))


def test_last_cross_off_is_smaller() -> None:
    def size(last_cross: bool) -> int:
        model = build(spec("unet", "regnet_y_400mf", last_cross=last_cross))
        return sum(p.numel() for p in model.parameters())

    assert size(last_cross=False) < size(last_cross=True)


def test_deeplab_keeps_resolution_with_small_resnets() -> None:
    """resnet18 and resnet50 alike give features at 1/8 of the image's size."""
    for backbone in ("resnet18", "resnet50"):
        model: Any = build(spec(backbone=backbone)).eval()
        with torch.no_grad():
            assert model.body(torch.zeros(1, 3, 64, 64)).shape[-2:] == (8, 8)


def test_spec_round_trip() -> None:
    value = spec(channels=4, last_cross=False)
    assert ModelSpec.from_dict(value.to_dict()) == value
    with pytest.raises(InputError, match=r"unknown keys \['colour'\]"):
        ModelSpec.from_dict({**value.to_dict(), "colour": 1})
    with pytest.raises(InputError, match="model spec is incomplete"):
        ModelSpec.from_dict({"arch": "unet"})


def test_pretrained_weights_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="pretrained weights of mobilenet_v3_small"):
        build(spec(), pretrained=True)


class TestStartingWeights:
    @pytest.fixture
    def classifier(self, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
        torch.manual_seed(5)
        state = torchvision_models.get_model(SMALL, weights=None).state_dict()
        torch.save(state, tmp_path / "classifier.pth")
        return tmp_path / "classifier.pth", state

    def test_a_classifier_gives_the_backbone(
        self, classifier: tuple[Path, dict[str, torch.Tensor]]
    ) -> None:
        path, state = classifier
        model: Any = weights.start(spec(), path)
        assert torch.equal(model.body[0][0].weight, state["features.0.0.weight"])

    def test_other_bands_adapt_the_first_convolution_and_say_so(
        self,
        classifier: tuple[Path, dict[str, torch.Tensor]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        path, state = classifier
        rgb = state["features.0.0.weight"]
        with caplog.at_level(logging.INFO):
            model: Any = weights.start(spec(channels=5), path)
        five = model.body[0][0].weight
        assert says(caplog.text, "…5 bands: …convolution is adapted…")
        torch.testing.assert_close(five[:, :3], rgb * 3 / 5)
        torch.testing.assert_close(five[:, 4], rgb.mean(dim=1) * 3 / 5)
        model = weights.start(spec(channels=1), path)
        one = model.body[0][0].weight
        torch.testing.assert_close(one, rgb.sum(dim=1, keepdim=True))

    def test_a_bundle_gives_all_where_shapes_agree_else_the_backbone(self, tmp_path: Path) -> None:
        torch.manual_seed(6)
        first = build(spec())
        bundle.save(tmp_path / "model-bundle.zip", first.state_dict(), spec())
        again = weights.start(spec(), tmp_path / "model-bundle.zip").state_dict()
        assert all(torch.equal(v, again[k]) for k, v in first.state_dict().items())
        other = weights.start(spec(classes=7), tmp_path / "model-bundle.zip")
        state = other.state_dict()
        assert all(torch.equal(state[k], again[k]) for k in backbone_names(other))
        assert state["head.4.weight"].shape[0] == 7

    def test_files_that_do_not_fit(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"gone\.pth .*not exist"):
            weights.start(spec(), tmp_path / "gone.pth")
        torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
        with pytest.raises(InputError, match=r"other\.pth .*not .*weights of deeplabv3 "):
            weights.start(spec(), tmp_path / "other.pth")
        torch.save({"model": 3}, tmp_path / "none.pth")
        with pytest.raises(InputError, match=r"none\.pth .*no weights; .*state dict"):
            weights.start(spec(), tmp_path / "none.pth")
        resnet = torchvision_models.get_model("resnet18", weights=None).state_dict()
        torch.save({"conv1.weight": resnet["conv1.weight"]}, tmp_path / "part.pth")
        with pytest.raises(InputError, match=r"weights .*not .*resnet18"):
            weights.start(spec(backbone="resnet18"), tmp_path / "part.pth")

    def test_pretrained_uri_reaches_the_training(
        self,
        classifier: tuple[Path, dict[str, torch.Tensor]],
        train: Callable[..., Path],
        settings: Callable[..., TrainSettings],
    ) -> None:
        path, state = classifier
        solver = {"freeze_epochs": 1, "save_all_checkpoints": True, "weight_decay": 0.0}
        model = {"backbone": SMALL, "pretrained_uri": str(path)}
        folder = train(settings(model=model, solver=solver))
        frozen = torch.load(folder / "epoch-001.pt", weights_only=True)["model"]
        assert torch.equal(frozen["body.0.0.weight"], state["features.0.0.weight"])
