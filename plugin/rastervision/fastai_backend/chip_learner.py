"""The fastai Learner of a training: its loaders, loss, metrics and callbacks."""

from __future__ import annotations

import logging
from pathlib import Path

import fastai.learner
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.training import GradientClip
from fastai.learner import Learner, Recorder
from rastervision.fastai_backend import data, memory, models, sampling
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.callbacks import AccumulateGradients
from rastervision.fastai_backend.chips import ChipSource, Classes
from rastervision.fastai_backend.optimizer import FusedAdam
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.precision import Chosen, Precision
from rastervision.fastai_backend.tasks.semantic_segmentation import PixelScores, make_loss
from torch import nn

from rvk8s.errors import InputError

log = logging.getLogger(__name__)


class ChipLearner(Learner):
    """fastai's Learner that can begin in the middle: at any epoch, and in it at any batch."""

    start_epoch = 0

    def _do_fit(self) -> None:
        for epoch in range(self.start_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, "epoch", fastai.learner.CancelEpochException)

    def all_batches(self) -> None:
        self.n_iter = len(self.dl)
        for i, batch in enumerate(self.dl, self.dl.first_batch):
            self.one_batch(i, batch)


def make_learner(
    model: nn.Module,
    spec: models.ModelSpec,
    settings: TrainSettings,
    train: ChipSource,
    valid: ChipSource,
    classes: Classes,
    precision: Chosen,
    device: torch.device,
    folder: Path,
) -> ChipLearner:
    """A Learner for the chips, with all that is the same in each of its phases.

    Its one metric is the PixelScores.
    """
    s = settings.solver
    train_loader, valid_loader = _loaders(spec, settings, train, valid, device)
    cbs: list[Callback] = [TrainEvalCallback(), Recorder(add_time=False), ChannelsLast()]
    if precision != "fp32":
        cbs.append(Precision(precision, device))
    if s.grad_accum > 1:
        cbs.append(AccumulateGradients(train_loader.bs * s.grad_accum))
    if s.grad_clip is not None:
        cbs.append(GradientClip(s.grad_clip))
    learn = ChipLearner(
        data.loaders(train_loader, valid_loader, device),
        model,
        loss_func=make_loss(s, train, classes),
        opt_func=FusedAdam,
        splitter=models.parameter_groups,
        metrics=[PixelScores(classes, s.ignore_class_index, s.beta)],
        path=folder,
        cbs=cbs,
        default_cbs=False,
    )
    learn.logger = _silent
    return learn


def _loaders(
    spec: models.ModelSpec,
    settings: TrainSettings,
    train: ChipSource,
    valid: ChipSource,
    device: torch.device,
) -> tuple[data.ChipLoader, data.ChipLoader]:
    s, d = settings.solver, settings.data
    batch = min(s.batch_sz, len(train))
    if batch < s.batch_sz:
        log.warning("only %d training chips: that is the batch size, too", batch)
    if batch < memory.smallest_batch(spec):
        raise InputError(
            "batch normalization can't train on one value, as this network has with one chip",
            where="solver.batch_sz" if s.batch_sz == 1 else None,
            fix="use batches of 2 or more, or arch unet with chips of 64 pixels or more",
        )
    train_loader = data.ChipLoader(
        train,
        batch,
        spec,
        device=device,
        order=sampling.epoch_order(train, d.oversample, len(spec.class_names), s.seed),
        augment=Augment(d, s.seed),
        drop_last=True,
        num_workers=d.num_workers,
    )
    valid_loader = data.ChipLoader(
        valid, s.batch_sz, spec, device=device, num_workers=d.num_workers
    )
    return train_loader, valid_loader


def _silent(_: object) -> None:
    """fastai prints a table for a notebook; EpochLog says the same in the log."""
