"""Networks in bf16 with fp32 ends: which convolutions those are, and what that gains."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from rastervision.fastai_backend import models
from rastervision.fastai_backend.fold import fold_batch_norms
from rastervision.fastai_backend.half import halve, outer_convolutions
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor
from torch import nn

BF16 = torch.bfloat16


def build(arch: str, backbone: str, last_cross: bool = False) -> tuple[nn.Module, ModelSpec]:
    """A network whose batch normalisation has seen data, in evaluation mode."""
    torch.manual_seed(0)
    names = ("a", "b", "c")
    mean, std = (127.0,) * 3, (60.0,) * 3
    spec = ModelSpec(arch, backbone, 3, names, names, None, mean, std, 64, last_cross=last_cross)
    model = models.build(spec)
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.eval(), spec


@pytest.fixture(scope="module")
def probe() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, generator=generator)


@pytest.mark.parametrize(
    ("work", "kept"),
    [
        ({"a": 3, "b": 2, "c": 90, "d": 4, "e": 1}, "abde"),
        ({"a": 3, "b": 3, "c": 89, "d": 4, "e": 1}, "ade"),
        ({"a": 40, "b": 20, "c": 40}, "ac"),
        ({"a": 1, "b": 99}, "ab"),
        ({"a": 1}, "a"),
        ({}, ""),
    ],
    ids=["within 5 % each", "b is too much", "ends are kept", "two", "one", "none"],
)
def test_the_ends_are_the_outermost_convolutions_of_little_work(
    work: dict[str, int], kept: str
) -> None:
    assert outer_convolutions(work) == set(kept)


@torch.no_grad()
def test_ends_and_statistics_stay_fp32_and_the_rest_is_bf16(probe: torch.Tensor) -> None:
    model, _ = build("unet", "resnet18")
    weights = {name: p.clone() for name, p in model.named_parameters()}
    half = halve(model, probe, BF16)
    convs = {n: m for n, m in half.named_modules() if isinstance(m, nn.Conv2d)}
    names = list(convs)
    assert convs[names[0]].weight.dtype == convs[names[-1]].weight.dtype == torch.float32
    share = sum(m.weight.dtype == BF16 for m in convs.values()) / len(convs)
    assert 0.6 < share < 1
    for name, parameter in half.named_parameters():
        torch.testing.assert_close(parameter, weights[name].to(parameter.dtype), rtol=0, atol=0)
    norms = [m for m in half.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(b.dtype != BF16 for m in norms for b in (*m.parameters(), *m.buffers()))
    assert half(probe).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("last_cross", [False, True])
@torch.no_grad()
def test_fp32_ends_take_error_away(last_cross: bool, probe: torch.Tensor) -> None:
    """Of random weights' error about a quarter; of a trained network's far more."""
    model, _ = build("unet", "resnet18", last_cross)
    model = fold_batch_norms(model, probe)
    truth = model(probe)
    plain = deepcopy(model).to(BF16)(probe.to(BF16)).float()
    ends = halve(model, probe, BF16)(probe)
    assert (ends - truth).std() < 0.85 * (plain - truth).std()


@pytest.mark.slow
@torch.no_grad()
def test_what_a_decoder_watches_is_not_folded(probe: torch.Tensor) -> None:
    """A U-Net takes mnasnet's features from normalisations themselves."""
    model, _ = build("unet", "mnasnet0_5")
    other = torch.cat([probe, -probe])
    truth = model(other)
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    folded = fold_batch_norms(model, probe)
    assert 0 < sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) < count
    torch.testing.assert_close(folded(other), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "backbone"),
    [("unet", "convnext_tiny"), ("unet", "efficientnet_b0"), ("deeplabv3", "densenet121")],
)
@torch.no_grad()
def test_other_layers_than_convolutions_take_their_part(
    arch: str, backbone: str, probe: torch.Tensor
) -> None:
    model, _ = build(arch, backbone)
    truth = model(probe)
    half = halve(model, probe, BF16)(probe)
    assert half.dtype == torch.float32
    assert (half - truth).abs().max() < 0.1 * truth.abs().max()


def test_a_predictor_in_bf16_halves_its_network() -> None:
    model, spec = build("unet", "resnet18")
    predictor = ScenePredictor(model, spec, PredictSettings(precision="bf16"))
    kinds = {p.dtype for p in predictor.model.parameters()}
    assert kinds == {BF16, torch.float32}
