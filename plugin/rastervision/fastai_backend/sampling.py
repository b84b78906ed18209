"""Which chips an epoch shows, and in what order: functions of (seed, epoch) and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from rastervision.fastai_backend.chips import ChipSource, SubsetChips
from rastervision.fastai_backend.options import DataOptions, Oversample

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

# First words of the generators' seeds, so that no two uses draw the same numbers.
_SUBSET, _ORDER = 1, 2
_RARE = "data.oversample.rare_class_ids"


def subset(source: ChipSource, options: DataOptions, seed: int) -> ChipSource:
    """The training chips that train_count or train_prop leaves: the same ones for every epoch."""
    total = len(source)
    if options.train_count is not None:
        count = min(options.train_count, total)
    else:
        count = min(total, max(1, round(options.train_prop * total)) if options.train_prop else 0)
    if count == 0:
        raise InputError(
            "no training chip is left" if total else "there are no training chips",
            where="data.train_prop" if total else None,
            fix="raise train_prop" if total else "check the training scenes and the chip options",
        )
    if count == total:
        return source
    chosen = np.random.default_rng([_SUBSET, seed]).choice(total, count, replace=False)
    log.info("training on %d of %d chips", count, total)
    return SubsetChips(source, np.sort(chosen))


class EpochOrder:
    """The positions that an epoch draws: each chip once, or rare classes oversampled.

    Args:
        size: how many chips there are, and how many an epoch draws.
        seed: with the epoch it decides the order.
        rare: (size,) bool, which chips hold a rare class; None: no oversampling.
        target: the proportion of draws that shall be of rare chips.
    """

    def __init__(
        self, size: int, seed: int, rare: np.ndarray | None = None, target: float = 0.0
    ) -> None:
        self.size, self.seed = size, seed
        self.rare = np.flatnonzero(rare) if rare is not None else None
        self.common = np.flatnonzero(~rare) if rare is not None else None
        self.target = target

    def __call__(self, epoch: int) -> np.ndarray:
        """(size,) int64 positions."""
        rng = np.random.default_rng([_ORDER, self.seed, epoch])
        if self.rare is None or self.common is None:
            return rng.permutation(self.size)
        # Exactly the target in every epoch; each rare chip equally often (to within one), and the
        # common ones without repetition.
        count = round(self.target * self.size)
        rounds = -(-count // len(self.rare))
        rare = np.concatenate([rng.permutation(self.rare) for _ in range(rounds)])[:count]
        common = rng.permutation(self.common)[: self.size - count]
        return rng.permutation(np.concatenate([rare, common]))


def check_rare(ids: Sequence[int], num_classes: int) -> None:
    if bad := [i for i in ids if not 0 <= i < num_classes]:
        fix = f"use 0 to {num_classes - 1}"
        raise InputError(f"{', '.join(map(str, bad))}: no such class id", where=_RARE, fix=fix)


def epoch_order(
    source: ChipSource, oversample: Oversample | None, num_classes: int, seed: int
) -> EpochOrder:
    """The order in which to draw training chips.

    Raises:
        InputError: a rare class is unknown, no chip holds any, or every epoch has other chips.
    """
    if oversample is None:
        return EpochOrder(len(source), seed)
    ids = oversample.rare_class_ids
    check_rare(ids, num_classes)
    pixels = source.class_pixels()
    if pixels is None:
        raise InputError(
            "windows that each epoch draws anew can't be oversampled",
            where="data.oversample",
            fix="leave the backend's sampling out, so that they are chipped first",
        )
    counts = pixels[:, ids].sum(axis=1)
    rare = counts > oversample.rare_min_prop * pixels.sum(axis=1)
    share = float(rare.mean())
    if share == 0:
        raise InputError(
            f"no training chip holds any of the classes {ids}",
            where=_RARE,
            fix="name other classes, or leave data.oversample out",
        )
    if share >= oversample.rare_target_prop:
        log.info("%.0f%% of the chips hold a rare class already: no oversampling", 100 * share)
        return EpochOrder(len(source), seed)
    log.info(
        "oversampling: %.1f%% of the chips hold a rare class, %.1f%% of those drawn will",
        100 * share,
        100 * oversample.rare_target_prop,
    )
    return EpochOrder(len(source), seed, rare, oversample.rare_target_prop)
