"""Prediction on a GPU against that on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import bundle, learner
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import PredictSettings, TrainSettings
from rastervision.fastai_backend.predict import ScenePredictor
from unet import DEVICE, needs_gpu, skip_without

pytestmark = needs_gpu("prediction on a GPU")

Predict = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def predict(
    settings: Callable[..., TrainSettings],
    make_chips: Callable[..., ArrayChips],
    classes: Classes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Predict:
    """Predicts 16 windows with a network that has learnt something."""
    chosen, folder = settings(solver={"precision": "fp32"}), tmp_path_factory.mktemp("train")
    path = learner.train(chosen, make_chips(32, 64), make_chips(2, 64, seed=1), classes, folder)
    images = make_chips(16, 64, seed=2).images

    def run(device: str | None, smooth: bool = False, **options: object) -> np.ndarray:
        model, spec = bundle.load_model(path)
        chosen = torch.device(device) if device else None
        predictor = ScenePredictor(model, spec, PredictSettings(**options), device=chosen)
        assert predictor.device.type == (device or DEVICE)
        return predictor.predict_batch(images, smooth).cpu().numpy()

    return run


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tta", [False, True])
def test_fp32_is_fp32(predict: Predict, exact: bool, tta: bool) -> None:
    options = {"precision": "fp32", "exact": exact, "tta": tta}
    cpu, gpu = predict("cpu", **options), predict(None, **options)
    assert len(np.unique(cpu)) == 3
    assert (cpu == gpu).mean() >= 0.999
    difference = np.abs(predict("cpu", True, **options) - predict(None, True, **options))
    assert difference.max() < 1e-3  # with TF32 it would be more


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_16_bits_change_few_pixels(predict: Predict, precision: str) -> None:
    skip_without(precision)
    cpu, gpu = predict("cpu", precision="fp32"), predict(None, precision=precision)
    assert (cpu == gpu).mean() >= 0.99
