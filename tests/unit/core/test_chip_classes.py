"""Chips that have one class each: their loss, scores, network, training and prediction."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranked import Ranked
from rastervision.fastai_backend import backbones, bundle, checks, data, models, sampling, weights
from rastervision.fastai_backend.augment import Augment, turned
from rastervision.fastai_backend.callbacks import TIMES
from rastervision.fastai_backend.chips import ArrayChips, Classes, LabelKind, SubsetChips
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import (
    DataOptions,
    Oversample,
    PredictSettings,
    TrainSettings,
)
from rastervision.fastai_backend.predict import Cells, ScenePredictor
from rastervision.fastai_backend.tasks.classes import ClassScores, confusion_matrix, make_loss
from rastervision.fastai_backend.windows import Window
from said import says
from torch.nn import functional as F

from rvk8s.errors import InputError

Settings = Callable[..., TrainSettings]
NETWORK = {"arch": "classifier", "backbone": "squeezenet1_1", "pretrained": False}


def chips(n: int, seed: int = 0, size: int = 32) -> ArrayChips:
    """Chips of three classes, each of its own brightness, with noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3).astype(np.uint8)
    pixels = np.array([0.2, 0.5, 0.8])[labels][:, None, None, None]
    noise = rng.normal(0, 0.1, (n, size, size, 3))
    images = np.clip(pixels + noise, 0.01, 1) * 255
    return ArrayChips(images.astype(np.uint8), labels, 3)


def spec(size: int = 32, **fields: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "arch": "classifier",
        "backbone": "squeezenet1_1",
        "channels": 3,
        "class_names": ("ground", "house", "road"),
        "class_colors": ("grey", "red", "blue"),
        "null_id": None,
        "mean": (0.0,) * 3,
        "std": (255.0,) * 3,
        "img_sz": size,
    }
    return ModelSpec(**{**values, **fields})


@pytest.fixture
def one_class(settings: Settings) -> TrainSettings:
    return settings(
        model=NETWORK,
        data={"dihedral": True},
        solver={"batch_sz": 6, "num_epochs": 2, "lr": 3e-3, "precision": "fp32"},
    )


class TestLoss:
    def test_it_is_that_of_torch(self, settings: Settings, classes: Classes) -> None:
        logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        truth = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
        source, weight = chips(6), [1.0, 2.0, 0.0]
        for solver, expected in (
            ({}, F.cross_entropy(logits, truth)),
            ({"label_smoothing": 0.1}, F.cross_entropy(logits, truth, label_smoothing=0.1)),
            (
                {"class_weights": weight},
                F.cross_entropy(logits, truth, torch.tensor([1.0, 2, 0])),
            ),
            ({"ignore_class_index": 1}, F.cross_entropy(logits, truth, ignore_index=1)),
        ):
            loss = make_loss(settings(model=NETWORK, solver=solver).solver, source, classes)
            assert float(loss(logits, truth)) == pytest.approx(float(expected), abs=1e-6), solver

    def test_focal(self, settings: Settings, classes: Classes) -> None:
        logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
        truth = torch.tensor([0, 1, 2, 2, 1])
        right = logits.softmax(1)[torch.arange(5), truth]
        loss = make_loss(settings(solver={"loss": "focal"}).solver, chips(6), classes)
        expected = (-((1 - right) ** 2) * right.log()).mean()
        assert float(loss(logits, truth)) == pytest.approx(float(expected), abs=1e-6)

    @pytest.mark.parametrize("loss", ["dice", "cross_entropy_dice"])
    def test_a_chip_has_no_dice(self, settings: Settings, classes: Classes, loss: str) -> None:
        asked = settings(model=NETWORK, solver={"loss": loss})
        (error,) = checks.check(asked, classes, gpus=0)
        assert says(str(error), "solver.loss: Dice…areas…; …cross_entropy or focal")
        with pytest.raises(InputError, match=r"Dice .*areas"):
            make_loss(asked.solver, chips(6), classes)

    def test_balanced_weights_count_chips(self, settings: Settings, classes: Classes) -> None:
        source = SubsetChips(chips(9), np.array([0, 3, 6, 1]))  # three of class 0, one of 1
        solver = settings(solver={"class_weights": "balanced"}).solver
        weight = make_loss(solver, source, classes).func.weight
        assert weight is not None
        assert weight.tolist() == pytest.approx([4 / 6, 4 / 2, 1])


class TestLoader:
    def test_images_are_turned_and_labels_are_not(self) -> None:
        source = chips(16)
        options, device = DataOptions(dihedral=True), torch.device("cpu")
        plain = data.ChipLoader(source, 16, spec(), device=device)
        mixed = data.ChipLoader(source, 16, spec(), device=device, augment=Augment(options, 3))
        ((x, y),), ((turned_x, turned_y),) = list(plain), list(mixed)
        assert y.tolist() == turned_y.tolist() == source.labels.tolist()
        assert (y.dtype, y.shape) == (torch.int64, (16,))
        views = [turned(x.permute(0, 2, 3, 1), code).permute(0, 3, 1, 2) for code in range(8)]
        of = [next(c for c in range(8) if torch.equal(views[c][i], turned_x[i])) for i in range(16)]
        assert len(set(of)) > 4

    def test_images_are_resized_alone(self) -> None:
        loader = data.ChipLoader(chips(4), 4, spec(size=48), device=torch.device("cpu"))
        ((x, y),) = list(loader)
        assert (x.shape, y.shape) == ((4, 3, 48, 48), (4,))

    def test_chips_of_a_rare_class_are_drawn_more_often(self) -> None:
        source = SubsetChips(chips(30), np.r_[np.arange(0, 30, 3), 1, 4])
        rare = Oversample(rare_class_ids=[1], rare_target_prop=0.5)
        order = sampling.epoch_order(source, rare, 3, seed=0)
        assert np.mean(source.read(order(0), 0)[1] == 1) == 0.5

    def test_labels_of_two_kinds_do_not_fit(self, make_chips: Callable[..., ArrayChips]) -> None:
        with pytest.raises(InputError, match=r"label_kind chip, validation .*pixels"):
            data.check_sources(chips(3), make_chips(2))


class TestNetwork:
    def test_it_gives_a_logit_for_each_class(self) -> None:
        model = models.build(spec()).eval()
        assert model(torch.zeros(2, 3, 40, 56)).shape == (2, 3)
        body, head = models.parameter_groups(model)
        assert sum(p.numel() for p in body) > sum(p.numel() for p in head) > 0
        assert models.backbone_names(model) == {
            name for name in model.state_dict() if name.startswith("body.")
        }

    def test_dropout(self) -> None:
        for share in (0.0, 0.4):
            model = models.build(spec(dropout=share))
            found = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
            # fastai leaves the layer out where it does nothing.
            assert found == ([] if share == 0 else [share / 2, share])

    @pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small", "densenet121"])
    def test_it_starts_from_torchvisions_weights(self, backbone: str, tmp_path: Path) -> None:
        from torchvision import models as torchvision_models

        network = torchvision_models.get_model(backbone, weights=None)
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        model = weights.start(spec(backbone=backbone), tmp_path / "weights.pth")
        first = backbones._first_convolution(network)[1].weight
        assert torch.equal(backbones._first_convolution(model)[1].weight, first)

    def test_of_a_bundle_with_other_classes_the_backbone_is_taken(self, tmp_path: Path) -> None:
        two = spec(class_names=("a", "b"), class_colors=("red", "blue"))
        before = models.build(two)
        bundle.save(tmp_path / bundle.NAME, before.state_dict(), two)
        model = weights.start(spec(), tmp_path / bundle.NAME)
        for name in models.backbone_names(model):
            assert torch.equal(model.state_dict()[name], before.state_dict()[name])
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


class TestTraining:
    @pytest.mark.slow
    def test_it_learns(
        self, train: Callable[..., Path], one_class: TrainSettings, classes: Classes
    ) -> None:
        asked = one_class.model_copy(deep=True)
        asked.solver.num_epochs, asked.data.debug = 12, True
        folder = train(asked, chips=chips(36), valid=chips(12, seed=1))
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["best"]["macro_f1"] > 0.9
        assert metrics["model"]["arch"] == "classifier"
        assert (folder / "debug" / "train-chips.png").stat().st_size > 1000
        model, made = bundle.load_model(folder / bundle.NAME)
        images, labels = chips(12, seed=1).read(np.arange(12), 0)
        predictor = ScenePredictor(model, made, asked.predict)
        ids = predictor.predict_batch(images, smooth=False).numpy()
        assert np.mean(ids == labels) > 0.9

    def test_it_goes_on_as_if_it_had_not_stopped(
        self, train: Callable[..., Path], one_class: TrainSettings
    ) -> None:
        source, valid = chips(18), chips(6, seed=1)
        whole = train(one_class, "whole", source, valid)
        first = one_class.model_copy(deep=True)
        first.solver.checkpoint_seconds = 1e-6
        calls = []

        def stop() -> None:
            calls.append(1)
            if len(calls) == 2:  # in the middle of the first epoch
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(first, "parts", source, valid, sync=stop)
        parts = train(first, "parts", source, valid)
        assert _rows(parts) == _rows(whole)
        one, other = (bundle.load(f / bundle.NAME)[0] for f in (whole, parts))
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_ranks_learn_together(self, ranked: Ranked, one_class: TrainSettings) -> None:
        """Two ranks have the first batch's loss of one: the mean over all its chips."""
        asked = one_class.model_copy(deep=True)
        asked.model.dropout = 0.0  # type: ignore[union-attr]
        asked.solver.num_epochs = 1
        source, valid = chips(6), chips(6, seed=1)
        assert ranked(asked, source, valid, ranks=1, name="one") == ["ok"]
        assert ranked(asked, source, valid, ranks=2, name="two") == ["ok", "ok"]
        one, two = (_rows(ranked.folder / name)[0] for name in ("one", "two"))
        # Batch normalization sees a rank's own chips alone, so they are not equal.
        assert float(two["train_loss"]) == pytest.approx(float(one["train_loss"]), rel=0.35)
        assert 0 <= float(two["accuracy"]) <= 1

    def test_another_dropout_is_another_training(
        self, train: Callable[..., Path], one_class: TrainSettings
    ) -> None:
        train(one_class, chips=chips(6), valid=chips(6))
        other = one_class.model_copy(deep=True)
        other.model.dropout = 0.2  # type: ignore[union-attr]
        with pytest.raises(InputError, match="dropout"):
            train(other, chips=chips(6), valid=chips(6))

    def test_one_chip_is_too_small_a_batch(
        self, train: Callable[..., Path], settings: Settings
    ) -> None:
        asked = settings(model=NETWORK, solver={"batch_sz": 1})
        with pytest.raises(InputError, match=r"batch_sz: .* 2 or more$"):
            train(asked, chips=chips(6), valid=chips(6))


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as f:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]


def test_scores_of_an_epoch(classes: Classes) -> None:
    predicted, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    metric = ClassScores(classes, None, beta=1.0)
    metric.confusion += confusion_matrix(predicted, truth, 3)
    scores = metric.scores()
    assert scores.support == (1, 1, 2)
    assert scores.accuracy == 0.75
    assert scores.f1 == pytest.approx((1, 2 / 3, 2 / 3))


class Scene:
    """A scene of noise, in memory."""

    id, height, width, channels = "a", 64, 96, 3
    dtype = np.dtype("uint8")
    image_in_strips = labels_in_strips = True
    label_kind: LabelKind = "chip"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(1, 255, (self.height, self.width, 3)).astype(np.uint8)

    def image(self, w: Window) -> np.ndarray:
        out = np.zeros((w.height, w.width, 3), np.uint8)
        part = self.pixels[max(w.ymin, 0) : w.ymax, max(w.xmin, 0) : w.xmax]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def labels(self, w: Window) -> np.ndarray:
        return np.array(0, np.uint8)


WINDOWS = [Window(y, x, y + 32, x + 32) for y in (0, 32, 48) for x in (0, 32, 64)]


class TestPrediction:
    @pytest.mark.parametrize("tta", [False, True])
    def test_each_window_has_its_own_probabilities(self, tta: bool) -> None:
        torch.manual_seed(0)
        model, scene, out = models.build(spec()).eval(), Scene(), Cells()
        asked = PredictSettings(tta=tta)
        predictor = ScenePredictor(model, spec(), asked)
        predictor.predict(scene, WINDOWS, out, batch_sz=4)
        assert len(out.probabilities) == len(WINDOWS)
        for window, found in zip(WINDOWS, out.probabilities, strict=True):
            x = torch.from_numpy(scene.image(window)[None]) / 255
            views = [turned(x, code) for code in range(8 if tta else 1)]
            with torch.inference_mode():
                each = [model(v.permute(0, 3, 1, 2).contiguous()).softmax(1) for v in views]
            expected = torch.stack(each).mean(0)[0].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert found.dtype == np.float32

    def test_bf16_gives_nearly_the_same(self) -> None:
        torch.manual_seed(0)
        model = models.build(spec(backbone="resnet18")).eval()
        found = []
        for precision in ("fp32", "bf16"):
            again = models.build(spec(backbone="resnet18")).eval()
            again.load_state_dict(model.state_dict())
            out = Cells()
            asked = PredictSettings(precision=precision)
            predictor = ScenePredictor(again, spec(backbone="resnet18"), asked)
            predictor.predict(Scene(), WINDOWS, out, batch_sz=4)
            found.append(np.stack(out.probabilities))
        assert not np.array_equal(*found)
        np.testing.assert_allclose(*found, atol=0.05)
