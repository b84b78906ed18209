"""The losses: means over pixels, of a batch that ranks may share; a chip of one class is a pixel.

Each knows what its sum is divided by, so that ranks whose pixels weigh differently much have the
mean of one. fastai's own focal and Dice loss know neither an ignored class nor such sums, and its
focal loss takes a class's weight for a part of its probability; without both these are the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from fastai.losses import CrossEntropyLossFlat
from torch.nn import functional as F

#: How much less pixels count that are right already: fastai's own, and Lin et al.'s.
GAMMA = 2.0
#: fastai's own: the Dice of a class that is neither there nor predicted is 1.
SMOOTH = 1e-6


class CrossEntropy(CrossEntropyLossFlat):
    """fastai's cross entropy over pixels; 0, not NaN, for a batch where none has any weight.

    Args:
        weight: (classes,) a weight for each class, or None; a class of weight 0 adds nothing.
        ignore: a class that adds nothing, or None.
        label_smoothing: share of the target that is spread over all classes.
    """

    #: Options that it does not have.
    without: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, weight: torch.Tensor | None, ignore: int | None, label_smoothing: float
    ) -> None:
        super().__init__(
            axis=1,
            weight=weight,
            ignore_index=-100 if ignore is None else ignore,
            label_smoothing=label_smoothing,
            reduction="mean" if weight is None and ignore is None else "sum",
        )
        self.ignore = ignore
        weightless = [] if weight is None else torch.nonzero(weight == 0).flatten().tolist()
        #: Classes whose pixels add nothing.
        self.left_out = {*weightless, *([] if ignore is None else [ignore])}

    def __call__(self, inp: torch.Tensor, targ: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Logits (N, classes, H, W) float and class ids (N, H, W) int64, or (N, classes) and (N,)
        -> the mean, a scalar."""
        loss = self.reduced(inp, targ)
        total = self.total(targ)
        if total is None:
            return loss
        # Not the quotient alone: scaled up for fp16, its gradient would be 0 times infinity.
        mean = loss / total.clamp(min=torch.finfo(torch.float32).tiny)
        return torch.where(total > 0, mean, 0 * loss)

    def reduced(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        """The sum over pixels; the mean, where nothing is weighted or ignored."""
        if len(self.left_out) > (self.ignore is not None):
            # Label smoothing would give pixels of weight 0 a loss.
            targ = targ.masked_fill(self.hides(targ), self.func.ignore_index)
        if targ.ndim == 1:  # fastai's wants a dimension after that of the classes
            inp, targ = inp[..., None], targ[:, None]
        return super().__call__(inp, targ)

    def hides(self, targ: torch.Tensor) -> torch.Tensor:
        """Which pixels add nothing, bool of targ's shape."""
        hidden = torch.zeros_like(targ, dtype=torch.bool)
        for id_ in self.left_out:
            hidden |= targ == id_
        return hidden

    def weights(self, targ: torch.Tensor) -> torch.Tensor | None:
        """The weight of each pixel; None: all have the same."""
        weight = self.func.weight
        if self.ignore is None:
            return None if weight is None else weight[targ]
        counted = targ != self.ignore
        return counted if weight is None else weight[targ] * counted

    def total(self, targ: torch.Tensor) -> torch.Tensor | None:
        """What the sum over pixels is divided by, a scalar; None: their number, which is the same
        for all batches of one size."""
        weights = self.weights(targ)
        return None if weights is None else weights.sum()


class Focal(CrossEntropy):
    """Cross entropy times (1 - probability of the truth)^2: hard pixels count more.

    Lin et al. 2017, "Focal Loss for Dense Object Detection"; class weights are its alpha. The sum
    is divided as that of cross entropy.
    """

    without = ("label_smoothing",)

    def reduced(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(
            inp.float(), targ, ignore_index=self.func.ignore_index, reduction="none"
        )
        each = (1 - torch.exp(-each)) ** GAMMA * each
        weights = self.weights(targ)
        return each.mean() if weights is None else (each * weights).sum()


class Dice(CrossEntropy):
    """1 - Dice of the probabilities in a chip, the mean over classes and chips.

    Milletari et al. 2016, "V-Net", with fastai's union. An ignored class is none of them, and chips
    with fewer pixels that count weigh less.
    """

    without: ClassVar[tuple[str, ...]] = ("class_weights", "label_smoothing")

    def reduced(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        return self.dice(inp, targ)

    def dice(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        """As reduced(): the sum over chips, each times the weight of its pixels, or the mean."""
        kept = [id_ for id_ in range(inp.shape[1]) if id_ not in self.left_out]
        counted = ~self.hides(targ)[:, None]
        said = inp.float().softmax(dim=1)[:, kept] * counted
        truth = torch.stack([targ == id_ for id_ in kept], dim=1)
        common, both = (said * truth).sum((2, 3)), said.sum((2, 3)) + truth.sum((2, 3))
        loss = 1 - ((2 * common + SMOOTH) / (both + SMOOTH)).mean(dim=1)
        weights = self.weights(targ)
        return loss.mean() if weights is None else (loss * weights.sum((1, 2))).sum()


class CrossEntropyDice(Dice):
    """The sum of both; weights and label smoothing are those of cross entropy, but a class of
    weight 0 has no Dice either."""

    without: ClassVar[tuple[str, ...]] = ()

    def reduced(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        return CrossEntropy.reduced(self, inp, targ) + self.dice(inp, targ)


#: By solver.loss.
LOSSES: dict[str, type[CrossEntropy]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "dice": Dice,
    "cross_entropy_dice": CrossEntropyDice,
}
