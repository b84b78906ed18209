"""The course of a training: its phases, and fastai's schedules for them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.schedule import valley
from fastai.learner import Learner
from rastervision.fastai_backend import progress
from rastervision.fastai_backend.debug import lr_picture
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.precision import Precision

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Length of the mock training of lr_find; fastai's own number.
LR_FIND_BATCHES = 100


@dataclass(frozen=True)
class Phase:
    """Epochs [start, start + epochs) with the backbone frozen or not; each phase has a schedule of
    its own, as in fastai's fine_tune."""

    start: int
    epochs: int
    frozen: bool


def phases(solver: SolverOptions) -> list[Phase]:
    """The frozen phase, where there is one, and the one that trains the whole network."""
    frozen = [Phase(0, solver.freeze_epochs, True)] if solver.freeze_epochs else []
    return [*frozen, Phase(solver.freeze_epochs, solver.num_epochs, False)]


def prepare(learn: Learner, phase: Phase) -> None:
    """A new optimizer, with the parameters frozen as the phase has it."""
    learn.create_opt()
    if phase.frozen:
        learn.freeze()
    else:
        learn.unfreeze()


def fit(
    learn: Learner, phase: Phase, solver: SolverOptions, lr: float, cbs: Sequence[Callback]
) -> None:
    """Train one phase with fastai's own schedule.

    one_cycle: cosine from lr/25 up to lr in the first quarter, then down to lr/100,000, momentum
    the other way (Smith 2018); flat_cos: lr for three quarters, then cosine down; constant: lr.
    """
    wd = solver.weight_decay
    if solver.schedule == "one_cycle":
        learn.fit_one_cycle(phase.epochs, lr, wd=wd, cbs=cbs)
    elif solver.schedule == "flat_cos":
        learn.fit_flat_cos(phase.epochs, lr, wd=wd, cbs=cbs)
    else:
        learn.fit(phase.epochs, lr, wd=wd, cbs=cbs)


def find_lr(learn: Learner, phase: Phase, folder: Path, writes: bool = True) -> float:
    """fastai's lr_find ("valley"): a mock training with growing rate; weights are put back.

    Args:
        folder: gets lr_find.png; it is learn.path.
        writes: whether this rank makes the picture.

    Raises:
        InputError: the losses show no valley.
    """
    log.info("no learning rate is given: looking for one in %d batches", LR_FIND_BATCHES)
    progress.report(flush=True, message="looking for a learning rate")
    prepare(learn, phase)
    # fastai keeps the weights to put back in a folder of this name; it shall not stay behind.
    learn.model_dir = ".lr_find"
    try:
        suggested = learn.lr_find(
            num_it=LR_FIND_BATCHES, show_plot=False, suggest_funcs=(valley_or_error,)
        )
    finally:
        shutil.rmtree(folder / learn.model_dir, ignore_errors=True)
    for callback in learn._grab_cbs(Precision):
        callback.state = None  # the scale has shrunk: at the greatest rates gradients overflow
    lr = float(suggested[0])
    if not np.isfinite(lr) or lr <= 0:
        raise _no_lr(f"it suggests {lr}")
    if writes:
        recorder = learn.recorder
        losses = [float(loss) for loss in recorder.losses]
        lr_picture(folder / "lr_find.png", [float(x) for x in recorder.lrs], losses, lr)
    log.info("lr_find chose a learning rate of %.3g (see %s)", lr, folder / "lr_find.png")
    return lr


def valley_or_error(rates: Any, losses: Any, count: int) -> Any:
    """fastai's suggestion. Only of what it raises the losses are the reason."""
    try:
        return valley(rates, losses, count)
    except (IndexError, ValueError, RuntimeError) as e:
        raise _no_lr(str(e)) from e


def _no_lr(why: str) -> InputError:
    return InputError(
        f"lr_find found no learning rate: {why}", where="solver.lr", fix="give one, such as 1e-3"
    )
