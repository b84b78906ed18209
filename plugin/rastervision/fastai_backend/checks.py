"""What can be wrong with the options of a training before there is a chip."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from rastervision.fastai_backend import models, precision, sampling
from rastervision.fastai_backend.backbones import without_weights
from rastervision.fastai_backend.chip_learner import check_batch
from rastervision.fastai_backend.chips import Classes
from rastervision.fastai_backend.model_spec import CLASSIFIER, DETECTOR, ModelSpec
from rastervision.fastai_backend.options import BackboneOptions, PredictSettings, TrainSettings
from rastervision.fastai_backend.tasks.classes import (
    check_ignored,
    check_loss,
    check_weights,
)
from torch import nn

from rvk8s.errors import InputError


def check(
    settings: TrainSettings,
    classes: Classes,
    gpus: int,
    ranks: int = 1,
    chip_sz: int | None = None,
) -> list[InputError]:
    """All that is wrong; train() would raise the same, after hours of chipping.

    Args:
        gpus: how many the training will have. What they can is not known here.
        ranks: how many processes train.
        chip_sz: pixels of a chip's side, where they are known.
    """
    solver, oversample = settings.solver, settings.data.oversample
    checks: list[Callable[[], object]] = [
        lambda: _check_network(settings.model, settings.data.img_sz or chip_sz),
        lambda: _check_weights_file(settings.model.pretrained_uri),
        lambda: check_ignored(solver.ignore_class_index, classes),
        *_checks_of_task(settings),
    ]
    if ranks > 1:
        checks.append(partial(check_batch, solver.batch_sz, ranks))
    small = (settings.data.img_sz or chip_sz or 64) < 64
    if settings.model.arch == CLASSIFIER or (settings.model.arch == DETECTOR and small):
        checks.append(lambda: _check_normalized(solver.batch_sz, ranks))
    asked = {"solver.precision": solver.precision, "predict.precision": settings.predict.precision}
    for key in [key for key, value in asked.items() if value == "fp16" and gpus == 0]:
        checks.append(partial(precision.choose, "fp16", torch.device("cpu"), key))
    if isinstance(weights := solver.class_weights, list):
        checks.append(lambda: check_weights(weights, classes, solver.ignore_class_index))
    if oversample is not None:
        checks.append(lambda: sampling.check_rare(oversample.rare_class_ids, len(classes)))
    errors = []
    for one in checks:
        try:
            one()
        except InputError as error:
            errors.append(error)
    return errors


def _checks_of_task(settings: TrainSettings) -> list[Callable[[], object]]:
    solver = settings.solver
    if settings.model.arch != DETECTOR:
        return [lambda: check_loss(solver, settings.model.arch == CLASSIFIER)]
    from rastervision.fastai_backend.tasks.detection import check_solver

    return [lambda: check_solver(solver), lambda: _check_views(settings.predict)]


def _check_views(options: PredictSettings) -> None:
    if options.tta:
        raise InputError("object detection has no tta", where="predict.tta", fix="leave it out")


def _check_normalized(batch_sz: int, ranks: int) -> None:
    """Raise InputError where a rank would have one chip: see memory.smallest_batch()."""
    if batch_sz // ranks == 1:
        fix = f"use batches of {2 * ranks} or more"
        raise InputError("one chip can't be normalized", where="solver.batch_sz", fix=fix)


def _check_network(options: BackboneOptions, chip_sz: int | None) -> None:
    """Build the network without its weights; with a head of its own also try it on small chips."""
    spec = ModelSpec(
        **options.model_dump(exclude={"pretrained", "pretrained_uri"}),
        channels=3,
        class_names=("one", "other"),
        class_colors=("black", "white"),
        null_id=None,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        img_sz=128,
    )

    def make() -> nn.Module:
        model = models.build(spec)
        if chip_sz is not None and spec.arch in (CLASSIFIER, DETECTOR):
            _try(model.eval(), chip_sz, spec.backbone)
        return model

    without_weights(make)


def _try(model: nn.Module, chip_sz: int, backbone: str) -> None:
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, min(chip_sz, 128), min(chip_sz, 128)))
    except RuntimeError as error:
        raise InputError(
            f"chips of {chip_sz} pixels are too small for {backbone}",
            where="data.img_sz",
            fix="set it to 64 or more, or use larger chips",
        ) from error


def _check_weights_file(uri: str | None) -> None:
    if uri and "://" not in uri and not os.path.isfile(uri):
        fix = "look at the path; relative ones start at the folder of rvk8s.yaml"
        raise InputError(f"{uri} does not exist", where="model.pretrained_uri", fix=fix)
