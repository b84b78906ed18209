"""A class for each pixel, or for each chip: the loss that options ask for, and scores from one
confusion matrix. Labels are class ids (N, H, W), or (N,); logits have the classes as dimension 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from fastai.learner import AvgLoss, Learner, Metric
from fastai.torch_core import find_bs
from rastervision.fastai_backend.chips import ChipSource, Classes, class_pixels
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.tasks.losses import LOSSES, CrossEntropy, Dice

from rvk8s.errors import InputError


def make_loss(solver: SolverOptions, train: ChipSource, classes: Classes) -> CrossEntropy:
    """The loss that the options ask for.

    Raises:
        InputError: the ignored class is unknown, weights aren't one for each class, or the loss
            takes none.
    """
    check_loss(solver, train.label_kind == "chip")
    ignore = check_ignored(solver.ignore_class_index, classes)
    weights = solver.class_weights
    if weights == "balanced":
        pixels = class_pixels(train, len(classes)).sum(axis=0)
        weights = balanced_weights(pixels, classes.unscored(ignore))
    elif weights is not None:
        check_weights(weights, classes, ignore)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    return LOSSES[solver.loss](weight, ignore, solver.label_smoothing)


def check_loss(solver: SolverOptions, of_chips: bool) -> None:
    """Raise InputError where the loss has no meaning for the task, or an option none for the loss.

    Args:
        of_chips: a chip has one class.
    """
    if of_chips and issubclass(LOSSES[solver.loss], Dice):
        raise InputError(
            "Dice compares areas, and a chip has one class",
            where="solver.loss",
            fix="use cross_entropy or focal",
        )
    given = {
        "class_weights": solver.class_weights is not None,
        "label_smoothing": solver.label_smoothing > 0,
    }
    for name in LOSSES[solver.loss].without:
        if given[name]:
            raise InputError(
                f"the {solver.loss} loss has no {name}",
                where=f"solver.{name}",
                fix="leave it out, or take solver.loss cross_entropy or cross_entropy_dice",
            )


def check_ignored(ignore: int | None, classes: Classes) -> int | None:
    if ignore is not None and not 0 <= ignore < len(classes):
        raise InputError(
            f"{ignore} is not a class id",
            where="solver.ignore_class_index",
            fix=f"use 0 to {len(classes) - 1}",
        )
    return ignore


def check_weights(weights: Sequence[float], classes: Classes, ignore: int | None = None) -> None:
    where, fix = "solver.class_weights", "give one for each class, in the order of their ids"
    if len(weights) != len(classes):
        what = f"{len(weights)} weights for {len(classes)} classes ({', '.join(classes.names)})"
        raise InputError(what, where=where, fix=fix)
    if min(weights) < 0 or not any(weight for i, weight in enumerate(weights) if i != ignore):
        raise InputError(
            f"{list(weights)} has a negative weight or no positive one",
            where=where,
            fix="give 0 to a class that shall not count, and more to the others",
        )


def balanced_weights(pixels: np.ndarray, unscored: Collection[int] = ()) -> list[float]:
    """Weights inverse to the classes' pixels, scaled so that an average pixel weighs 1.

    weight = all pixels / (classes present * pixels of the class), as scikit-learn's "balanced";
    1 for classes without pixels, which never count, and for those that are not scored: a few
    pixels without a label, which nothing can be learnt from, would weigh more than all others.

    Args:
        pixels: (classes,) labelled pixels of each.
        unscored: classes that are left out; see Classes.unscored().
    """
    counts = pixels.astype(np.float64).copy()
    counts[list(unscored)] = 0
    present = counts > 0
    if not present.any():
        raise InputError("the training chips have no label that counts")
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.tolist()


class MeanLoss(AvgLoss):
    """fastai's mean loss of a validation, over pixels as a batch's: one whose pixels weigh little
    counts little, and how chips fall into batches and ranks changes nothing."""

    def accumulate(self, learn: Learner) -> None:
        weight = learn.loss_func.total(learn.yb[0])
        count = find_bs(learn.yb) if weight is None else float(weight)
        self.total += learn.to_detach(learn.loss) * count
        self.count += count

    @property
    def value(self) -> float:
        return float(self.total / self.count) if self.count else 0.0


class ClassScores(Metric):
    """fastai metric: gathers the confusion matrix of an epoch; its value is the macro F-beta.

    It scores the classes that eval scores: the best epoch is to be the one that does best there.
    """

    def __init__(self, classes: Classes, ignore: int | None, beta: float) -> None:
        self.classes, self.unscored, self.beta = classes, classes.unscored(ignore), beta
        self.reset()

    def reset(self) -> None:
        n = len(self.classes)
        self.confusion = torch.zeros(n, n, dtype=torch.int64)

    def accumulate(self, learn: Learner) -> None:
        self.confusion = self.confusion.to(learn.pred.device)
        self.confusion += confusion_matrix(
            learn.pred.argmax(dim=1), learn.yb[0], len(self.classes), self.unscored
        )

    def reduce(self, group: Group) -> None:
        """Add up the confusion matrices of all ranks."""
        self.confusion = group.sum(self.confusion.cpu())

    @property
    def value(self) -> float:
        return self.scores().f_beta

    @property
    def name(self) -> str:
        return "f_beta"

    def scores(self) -> Scores:
        return Scores.of(self.confusion.cpu().numpy(), self.unscored, self.beta)

    def more(self) -> dict[str, float]:
        """What else belongs to an epoch's row."""
        return {}


def confusion_matrix(
    predicted: torch.Tensor, truth: torch.Tensor, num_classes: int, unscored: Collection[int] = ()
) -> torch.Tensor:
    """Pixels by (true class, predicted class).

    Args:
        predicted, truth: class ids of one shape. Pixels whose truth is one of `unscored`, or no
            class at all, are left out.

    Returns:
        (num_classes, num_classes) int64, a row for each true class.
    """
    keep = truth < num_classes
    for id_ in unscored:
        keep &= truth != id_
    codes = truth[keep].long() * num_classes + predicted[keep].long()
    return torch.bincount(codes, minlength=num_classes**2).view(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix; van Rijsbergen 1979 for F, Jaccard for IoU.

    With tp, fp, fn of a class: precision = tp/(tp+fp), recall = tp/(tp+fn), F-beta = (1+b²) tp /
    ((1+b²) tp + b² fn + fp), IoU = tp/(tp+fp+fn); 0 where nothing is to divide by. Means (macro)
    are over the classes that occur in the truth, with equal weight.

    Args:
        precision, recall, f1, iou, support: one for each class; support in pixels.
        accuracy: share of the pixels that are right; of the boxes, true or found, those that match.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    iou: tuple[float, ...]
    support: tuple[int, ...]
    accuracy: float
    mean_iou: float
    macro_f1: float
    f_beta: float

    @classmethod
    def of(cls, confusion: np.ndarray, unscored: Collection[int] = (), beta: float = 1.0) -> Scores:
        """Scores of (classes, classes) pixels by (truth, prediction); `unscored` have no truth."""
        matrix = confusion.astype(np.float64)
        matrix[list(unscored)] = 0
        tp = np.diag(matrix)
        fp, fn = matrix.sum(axis=0) - tp, matrix.sum(axis=1) - tp
        accuracy = float(_ratio(tp.sum(), matrix.sum()))
        return replace(cls.of_counts(tp, fp, fn, beta), accuracy=accuracy)

    @classmethod
    def of_counts(cls, tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, beta: float) -> Scores:
        """Scores of (classes,) counts: right ones, false alarms, missed ones."""
        support = tp + fn
        present = support > 0
        f_beta = _ratio((1 + beta**2) * tp, (1 + beta**2) * tp + beta**2 * fn + fp)
        f1, iou = _ratio(2 * tp, 2 * tp + fn + fp), _ratio(tp, tp + fp + fn)
        return cls(
            precision=_floats(_ratio(tp, tp + fp)),
            recall=_floats(_ratio(tp, tp + fn)),
            f1=_floats(f1),
            iou=_floats(iou),
            support=tuple(int(s) for s in support),
            accuracy=float(_ratio(tp.sum(), (tp + fp + fn).sum())),
            mean_iou=_mean(iou, present),
            macro_f1=_mean(f1, present),
            f_beta=_mean(f_beta, present),
        )


def _ratio(above: np.ndarray | float, below: np.ndarray | float) -> np.ndarray:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean(values: np.ndarray, chosen: np.ndarray) -> float:
    return float(values[chosen].mean()) if chosen.any() else 0.0


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
