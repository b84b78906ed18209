"""The fastai Learner of a training: its loaders, loss, metrics and callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import fastai.learner
import torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.training import GradientClip
from fastai.learner import Learner, Metric, Recorder
from rastervision.fastai_backend import data, memory, models, sampling
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.callbacks import AccumulateGradients
from rastervision.fastai_backend.chips import ChipSource, Classes
from rastervision.fastai_backend.data_parallel import DataParallel
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.model_spec import CLASSIFIER, DETECTOR, ModelSpec
from rastervision.fastai_backend.optimizer import FusedAdam
from rastervision.fastai_backend.options import SolverOptions, TrainSettings
from rastervision.fastai_backend.precision import Chosen, Precision
from rastervision.fastai_backend.ranks import Ranks
from rastervision.fastai_backend.tasks.classes import (
    ClassScores,
    MeanLoss,
    make_loss,
)
from torch import nn

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: What else helps where a batch is too small, by arch.
_OR_ELSE = {CLASSIFIER: "", DETECTOR: ", or chips of 64 pixels or more"}


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
    spec: ModelSpec,
    settings: TrainSettings,
    train: ChipSource,
    valid: ChipSource,
    classes: Classes,
    precision: Chosen,
    device: torch.device,
    folder: Path,
    group: Group,
) -> ChipLearner:
    """A Learner for the chips, with all that is the same in each of its phases.

    Its one metric gathers the scores of the task.
    """
    s = settings.solver
    loss, metric = _loss_and_metric(s, train, classes)
    train_loader, valid_loader = _loaders(spec, settings, train, valid, device, group.ranks)
    recorder = Recorder(add_time=False)
    recorder.loss = MeanLoss()
    cbs: list[Callback] = [TrainEvalCallback(), recorder, ChannelsLast()]
    if group.size > 1:
        cbs.append(DataParallel(group, device, s.sync_bn, spec.channels, spec.img_sz))
    if precision != "fp32":
        cbs.append(Precision(precision, device))
    if s.grad_accum > 1:
        cbs.append(AccumulateGradients(train_loader.bs * s.grad_accum))
    if s.grad_clip is not None:
        cbs.append(GradientClip(s.grad_clip))
    learn = ChipLearner(
        data.loaders(train_loader, valid_loader, device),
        model,
        loss_func=loss,
        opt_func=FusedAdam,
        wd=s.weight_decay,  # lr_find's, too
        splitter=models.parameter_groups,
        metrics=[metric],
        path=folder,
        cbs=cbs,
        default_cbs=False,
    )
    learn.logger = _silent
    return learn


def _loss_and_metric(
    solver: SolverOptions, train: ChipSource, classes: Classes
) -> tuple[Callable[..., torch.Tensor], Metric]:
    if train.label_kind == "boxes":
        from rastervision.fastai_backend.tasks import detection

        detection.check_solver(solver)
        return detection.DetectionLoss(), detection.DetectionScores(classes, solver.beta)
    metric = ClassScores(classes, solver.ignore_class_index, solver.beta)
    return make_loss(solver, train, classes), metric


def _loaders(
    spec: ModelSpec,
    settings: TrainSettings,
    train: ChipSource,
    valid: ChipSource,
    device: torch.device,
    ranks: Ranks,
) -> tuple[data.ChipLoader, data.ChipLoader]:
    s, d = settings.solver, settings.data
    size, share = ranks.world_size, (ranks.rank, ranks.world_size)
    batch = batch_of_rank(s.batch_sz, len(train), size)
    least = memory.smallest_batch(spec)
    if batch < least:
        raise InputError(
            "batch normalization can't train on one value, as this network has with one chip",
            where="solver.batch_sz" if s.batch_sz < least * size else None,
            fix=f"use batches of {least * size} or more"
            + _OR_ELSE.get(spec.arch, ", or arch unet with chips of 64 pixels or more"),
        )
    train_loader = data.ChipLoader(
        train,
        batch,
        spec,
        device=device,
        order=sampling.epoch_order(train, d.oversample, len(spec.class_names), s.seed),
        augment=Augment(d, s.seed, share),
        drop_last=True,
        num_workers=d.num_workers,
        share=share,
    )
    valid_loader = data.ChipLoader(
        valid,
        s.batch_sz // size,
        spec,
        device=device,
        num_workers=d.num_workers,
        share=share,
    )
    return train_loader, valid_loader


def batch_of_rank(batch_sz: int, chips: int, ranks: int) -> int:
    """Chips of each rank in a batch of solver.batch_sz, which all ranks have together.

    Raises:
        InputError: the ranks can't have equally many, or there are fewer chips than ranks.
    """
    check_batch(batch_sz, ranks)
    batch = min(batch_sz, chips) // ranks
    if batch == 0:
        what = f"{chips} training chips are too few for {ranks} ranks"
        raise InputError(what, fix=f"use at most {chips} ranks, or make more chips")
    if batch * ranks < batch_sz:
        log.warning("only %d training chips: that is the batch size, too", batch * ranks)
    return batch


def check_batch(batch_sz: int, ranks: int) -> None:
    """Raise InputError if the ranks can't share a batch equally."""
    if batch_sz % ranks:
        sizes = [s for s in (batch_sz // ranks * ranks, (batch_sz // ranks + 1) * ranks) if s]
        raise InputError(
            f"{batch_sz} chips can't be shared equally by {ranks} ranks",
            where="solver.batch_sz",
            fix=f"use {' or '.join(map(str, sizes))}, or another number of ranks",
        )


def _silent(_: object) -> None:
    """fastai prints a table for a notebook; EpochLog says the same in the log."""
