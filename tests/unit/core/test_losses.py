"""The losses that can be asked for beside cross entropy: what they are, and with which options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastai.losses import DiceLoss, FocalLossFlat
from rastervision.fastai_backend import checks
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import SolverOptions, TrainSettings
from rastervision.fastai_backend.tasks.classes import MeanLoss, make_loss
from rastervision.fastai_backend.tasks.losses import LOSSES
from said import check_lines, says

from rvk8s.errors import InputError

Loss = Callable[..., Any]
LABELS = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(1))
#: Each loss with whatever it takes.
OPTIONS: list[dict[str, Any]] = [
    {"loss": "cross_entropy", "class_weights": [1.0, 5.0, 0.0], "label_smoothing": 0.1},
    {"loss": "focal"},
    {"loss": "focal", "ignore_class_index": 2},
    {"loss": "focal", "class_weights": [1.0, 5.0, 0.0]},
    {"loss": "focal", "class_weights": [1.0, 5.0, 3.0], "ignore_class_index": 2},
    {"loss": "dice"},
    {"loss": "dice", "ignore_class_index": 2},
    {"loss": "cross_entropy_dice"},
    {"loss": "cross_entropy_dice", "class_weights": [1.0, 5.0, 0.0], "label_smoothing": 0.1},
    {"loss": "cross_entropy_dice", "class_weights": [1.0, 5.0, 3.0], "ignore_class_index": 2},
]
LEAVING_OUT = [o for o in OPTIONS if "ignore_class_index" in o or 0.0 in o.get("class_weights", ())]


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8, requires_grad=True)


@pytest.fixture
def loss(make_chips: Callable[..., ArrayChips], classes: Classes) -> Loss:
    return lambda **options: make_loss(SolverOptions(**options), make_chips(4), classes)


def plain(value: torch.Tensor) -> torch.Tensor:
    return value.as_subclass(torch.Tensor)


def test_they_are_those_of_fastai(loss: Loss, logits: torch.Tensor) -> None:
    cross_entropy, focal, dice, both = (
        plain(loss(loss=name)(logits, LABELS)) for name in LOSSES
    )  # fmt: skip
    torch.testing.assert_close(focal, plain(FocalLossFlat(axis=1)(logits, LABELS)))
    torch.testing.assert_close(dice, plain(DiceLoss(reduction="mean")(logits, LABELS)))
    torch.testing.assert_close(both, cross_entropy + dice)
    assert len({value.item() for value in (cross_entropy, focal, dice, both)}) == 4


def test_a_weighted_focal_loss_keeps_its_probabilities(loss: Loss, logits: torch.Tensor) -> None:
    """fastai's takes p ** weight for the probability."""
    weights = torch.tensor([1.0, 5.0, 0.5])
    found = loss(loss="focal", class_weights=weights.tolist())(logits, LABELS)
    of_truth = logits.softmax(1).gather(1, LABELS[:, None])[:, 0]
    weight = weights[LABELS]
    expected = (weight * (1 - of_truth) ** 2 * -of_truth.log()).sum() / weight.sum()
    torch.testing.assert_close(plain(found), expected)


def test_dice_of_a_class_that_is_ignored(loss: Loss, logits: torch.Tensor) -> None:
    """Neither its pixels nor its probabilities are part of it; chips weigh by what is left."""
    labels = LABELS.clone()
    labels[0] = 2
    labels[1, :4] = 2
    found = loss(loss="dice", ignore_class_index=2)(logits, labels)
    total, weight = 0.0, 0
    for chip, truth in zip(logits.softmax(1), labels, strict=True):
        kept = truth != 2
        each = [
            2 * chip[k][truth == k].sum() / (chip[k][kept].sum() + (truth == k).sum())
            for k in (0, 1)
        ]
        if kept.any():
            total = total + kept.sum() * (1 - sum(each) / 2)
            weight += int(kept.sum())
    torch.testing.assert_close(plain(found), total / weight)


@pytest.mark.parametrize("options", LEAVING_OUT)
def test_pixels_that_are_left_out_add_nothing(
    loss: Loss, logits: torch.Tensor, options: dict[str, Any]
) -> None:
    criterion = loss(**options)
    (gradient,) = torch.autograd.grad(criterion(logits, LABELS), logits)
    hidden = (LABELS == 2)[:, None].expand_as(gradient)
    assert not gradient[hidden].any()
    assert gradient[~hidden].all()
    nothing = criterion(logits, torch.full_like(LABELS, 2))
    (gradient,) = torch.autograd.grad(nothing * 65536, logits)
    assert nothing == 0
    assert not gradient.any()


@pytest.mark.parametrize("options", OPTIONS)
def test_ranks_have_the_mean_of_one(
    loss: Loss, logits: torch.Tensor, options: dict[str, Any]
) -> None:
    """DataParallel sums what each rank has, multiplied by its share of the weight."""
    criterion = loss(**options)
    labels = LABELS.clone()
    labels[2:] = 2
    whole = criterion(logits, labels)
    (expected,) = torch.autograd.grad(whole, logits, retain_graph=True)
    ranks = (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4))
    totals = [criterion.total(labels[rank]) for rank in ranks]
    shares = [1 / 4] * 4 if totals[0] is None else [t / sum(totals) for t in totals]
    parts = [
        criterion(logits[r], labels[r]) * share for r, share in zip(ranks, shares, strict=True)
    ]
    (found,) = torch.autograd.grad(sum(parts), logits)
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"loss": "dice", "class_weights": [1.0, 2.0, 3.0]}, "class_weights"),
        ({"loss": "dice", "class_weights": "balanced"}, "class_weights"),
        ({"loss": "dice", "label_smoothing": 0.1}, "label_smoothing"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_what_has_no_meaning_is_refused_before_any_work(
    loss: Loss, classes: Classes, options: dict[str, Any], key: str
) -> None:
    wanted = (
        f"solver.{key}: …{options['loss']} loss has no {key}; "
        "…solver.loss cross_entropy or cross_entropy_dice"
    )
    with pytest.raises(InputError) as error:
        loss(**options)
    assert says(str(error.value), wanted)
    found = checks.check(TrainSettings(solver=SolverOptions(**options)), classes, gpus=0)
    check_lines([str(error) for error in found], [wanted])


def test_weights_of_which_none_is_left(loss: Loss) -> None:
    with pytest.raises(InputError, match="no positive one"):
        loss(class_weights=[0.0, 0.0, 1.0], ignore_class_index=2)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_of_a_validation_is_that_of_one_batch(
    loss: Loss, logits: torch.Tensor, options: dict[str, Any]
) -> None:
    """Also where one batch has no pixel that counts."""
    criterion, labels = loss(**options), LABELS.clone()
    labels[2:] = 2
    mean = MeanLoss()
    for sizes in ([4], [2, 2], [1, 1, 1, 1]):
        mean.reset()
        for chip, truth in zip(logits.split(sizes), labels.split(sizes), strict=True):
            batch = SimpleNamespace(
                loss_func=criterion,
                yb=(truth,),
                loss=criterion(chip, truth),
                to_detach=torch.Tensor.detach,
            )
            mean.accumulate(batch)
        assert mean.value == pytest.approx(criterion(logits, labels).item(), rel=1e-5)
    mean.reset()
    assert mean.value == 0


@pytest.mark.slow
def test_the_training_minimises_it(
    settings: Callable[..., TrainSettings], train: Callable[..., Path]
) -> None:
    solver = {"loss": "dice", "num_epochs": 4, "schedule": "constant"}
    metrics = json.loads((train(settings(solver=solver)) / "metrics.json").read_text())
    losses = [row["train_loss"] for row in metrics["history"]]
    assert 1 > losses[0] > losses[-1] > 0
    with pytest.raises(InputError, match=r"solver\.loss dice .*focal"):
        train(settings(solver=solver | {"loss": "focal"}))
