"""The loss where weights are 0, and which classes decide the weights and the best epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import checkpoint, memory, progress, schedule
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.optimizer import FusedAdam
from rastervision.fastai_backend.options import SolverOptions, TrainSettings
from rastervision.fastai_backend.tasks.classes import ClassScores, make_loss
from said import says
from torch.nn import functional as F

from rvk8s.contract import Env

#: As Raster Vision has it after it added its null class.
WITH_NULL = Classes(("ground", "house", "null"), ("grey", "red", "black"), null_id=2)
LABELS = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
#: Options under which pixels of class 2 weigh nothing, and those that may come with them.
WEIGHTLESS = [{"class_weights": [1.0, 2.0, 0.0]}, {"ignore_class_index": 2}]
ALSO = [{}, {"label_smoothing": 0.1}, {"class_weights": [3.0, 0.0, 0.0], "label_smoothing": 0.1}]


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 8, 8, requires_grad=True)


@pytest.fixture
def loss(make_chips: Callable[..., ArrayChips], classes: Classes) -> Callable[..., Any]:
    return lambda **options: make_loss(SolverOptions(**options), make_chips(4), classes)


@pytest.mark.parametrize("weightless", WEIGHTLESS)
@pytest.mark.parametrize("also", ALSO)
def test_pixels_without_weight_only_change_nothing(
    loss: Callable[..., Any],
    logits: torch.Tensor,
    weightless: dict[str, Any],
    also: dict[str, Any],
) -> None:
    options = weightless | also
    labels = torch.full((2, 8, 8), 2)
    if options.get("class_weights") == [3.0, 0.0, 0.0]:
        labels[0] = 1  # which label smoothing reaches where class 2 is ignored
    criterion = loss(**options)
    value = criterion(logits, labels)
    # As GradScaler does in fp16.
    (value * 65536).backward()
    assert value == 0
    assert criterion.total(labels) == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore", [None, 0])
def test_pixels_without_weight_beside_others_are_left_out(
    loss: Callable[..., Any], logits: torch.Tensor, ignore: int | None, smoothing: float
) -> None:
    weights = [1.0, 2.0, 0.0]
    options = {"class_weights": weights, "label_smoothing": smoothing}
    value = loss(**options, ignore_class_index=ignore)(logits, LABELS)
    left = -100 if ignore is None else ignore
    labels = LABELS.masked_fill(LABELS == 2, left)
    torch_options = {"weight": torch.tensor(weights), "label_smoothing": smoothing}
    expected = F.cross_entropy(logits, labels, ignore_index=left, **torch_options)
    torch.testing.assert_close(value.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("options", [*WEIGHTLESS, WEIGHTLESS[0] | ALSO[1]])
def test_ranks_whose_pixels_have_no_weight_add_nothing(
    loss: Callable[..., Any], logits: torch.Tensor, options: dict[str, Any]
) -> None:
    """DataParallel sums what each rank has, multiplied by its share of the weight."""
    criterion = loss(**options)
    labels = LABELS.clone()
    labels[1] = 2
    whole = criterion(logits, labels)
    (expected,) = torch.autograd.grad(whole, logits)
    total = sum(criterion.total(labels[[rank]]) for rank in (0, 1))
    parts = [
        criterion(logits[[rank]], labels[[rank]]) * (criterion.total(labels[[rank]]) / total)
        for rank in (0, 1)
    ]
    (found,) = torch.autograd.grad(sum(parts), logits)
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(found, expected)


def test_a_chip_without_weight_does_not_kill_the_training(
    settings: Callable[..., TrainSettings],
    train: Callable[..., Path],
    make_chips: Callable[..., ArrayChips],
) -> None:
    chips, valid = make_chips(4), make_chips(4, seed=1)
    chips.labels[:2] = valid.labels[:2] = 2
    solver = {"class_weights": [1.0, 2.0, 0.0], "num_epochs": 2}
    folder = train(settings(solver=solver), chips=chips, valid=valid)
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert all(
        np.isfinite([row["train_loss"], row["valid_loss"]]).all() for row in metrics["history"]
    )


def test_json_holds_no_bare_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write_json(tmp_path / "a.json", {"a": [{"b": float("nan"), "c": 1.5}]})
    content = (tmp_path / "a.json").read_text()
    assert json.loads(content, parse_constant=pytest.fail) == {"a": [{"b": None, "c": 1.5}]}
    monkeypatch.setenv(Env.PROGRESS_FILE, str(tmp_path / "progress.json"))
    progress.Progress().report(flush=True, loss=float("inf"), epoch=1)
    content = (tmp_path / "progress.json").read_text()
    assert set(json.loads(content, parse_constant=pytest.fail)) == {"updated", "epoch"}


def test_balanced_weights_leave_null_alone(make_chips: Callable[..., ArrayChips]) -> None:
    chips = make_chips(4)
    chips.labels[chips.labels == 2] = 0
    chips.labels[0, :2, :2] = 2
    weights = make_loss(SolverOptions(class_weights="balanced"), chips, WITH_NULL).func.weight
    assert weights[2] == 1
    pixels = chips.class_pixels().sum(axis=0)
    np.testing.assert_allclose(weights[:2] * pixels[:2], pixels[:2].sum() / 2, rtol=1e-5)


@pytest.mark.parametrize(("ignore", "f1"), [(None, (8 / 9, 8 / 9, 0)), (1, (8 / 9, 0, 0))])
def test_an_epoch_is_scored_as_eval_scores(ignore: int | None, f1: tuple[float, ...]) -> None:
    """Pixels without a label have no say in which epoch is the best one."""
    truth = torch.tensor([[[0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]]])
    said = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 0]]])
    metric = ClassScores(WITH_NULL, ignore, beta=1.0)
    logits = F.one_hot(said, 3).permute(0, 3, 1, 2)
    metric.accumulate(SimpleNamespace(pred=logits, yb=(truth,)))
    assert metric.scores().f1 == pytest.approx(f1)
    assert metric.value == pytest.approx(8 / 9)


def test_the_learning_rate_is_found_with_the_weight_decay_of_the_training(
    settings: Callable[..., TrainSettings],
    train: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[float] = []
    step = FusedAdam.step

    def look(self: FusedAdam, *args: Any, **kwargs: Any) -> None:
        used.extend(hypers["wd"] for hypers in self.hypers)
        step(self, *args, **kwargs)

    monkeypatch.setattr(FusedAdam, "step", look)
    monkeypatch.setattr(schedule, "LR_FIND_BATCHES", 2)
    monkeypatch.setattr(schedule, "valley", lambda *_: (1e-3, (1e-3, 1.0)))
    train(settings(solver={"lr": None, "weight_decay": 0.25}))
    batches = 3
    assert len(used) > 2 * batches, "of the mock training, too"
    assert set(used) == {0.25}


@pytest.mark.parametrize(
    ("batch", "ranks", "advice"),
    [
        (9, 1, "solver.batch_sz to 4"),
        (7, 2, "solver.batch_sz to 6"),
        (12, 1, "solver.batch_sz to 6 …solver.grad_accum to 4…"),
    ],
)
def test_advice_to_train_alike_is_given_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, batch: int, ranks: int, advice: str
) -> None:
    """A step of as many chips: not three batches of 4 for one of 9."""
    cpu = torch.device("cpu")
    learn: Any = SimpleNamespace(
        dls=SimpleNamespace(train=SimpleNamespace(bs=batch), device=cpu), loss_func=None
    )
    monkeypatch.setattr(memory._Step, "fits", lambda self, batch: True)
    spec: Any = SimpleNamespace(arch="unet", img_sz=64)
    error = memory.advice(MemoryError(), learn, spec, "fp32", grad_accum=2, ranks=ranks)
    assert says(str(error), f"…memory; …{advice}")
