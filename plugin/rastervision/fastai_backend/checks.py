"""What can be wrong with the options of a training before there is a chip."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import torch
from rastervision.fastai_backend import models, precision, sampling
from rastervision.fastai_backend.chip_learner import check_batch
from rastervision.fastai_backend.chips import Classes
from rastervision.fastai_backend.options import ModelOptions, TrainSettings
from rastervision.fastai_backend.tasks.semantic_segmentation import (
    check_ignored,
    check_loss,
    check_weights,
)

from rvk8s.errors import InputError


def check(settings: TrainSettings, classes: Classes, gpus: int, ranks: int = 1) -> list[InputError]:
    """All that is wrong; train() would raise the same, after hours of chipping.

    Args:
        gpus: how many the training will have. What they can is not known here.
        ranks: how many processes train.
    """
    solver, oversample = settings.solver, settings.data.oversample
    checks: list[Callable[[], object]] = [
        lambda: _check_network(settings.model),
        lambda: _check_weights_file(settings.model.pretrained_uri),
        lambda: check_ignored(solver.ignore_class_index, classes),
        lambda: check_loss(solver),
    ]
    if ranks > 1:
        checks.append(partial(check_batch, solver.batch_sz, ranks))
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


def _check_network(options: ModelOptions) -> None:
    """Build the network without its weights."""
    spec = models.ModelSpec(
        arch=options.arch,
        backbone=options.backbone,
        channels=3,
        class_names=("one", "other"),
        class_colors=("black", "white"),
        null_id=None,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        img_sz=128,
        last_cross=options.last_cross,
    )
    models.without_weights(lambda: models.build(spec))


def _check_weights_file(uri: str | None) -> None:
    if uri and "://" not in uri and not os.path.isfile(uri):
        fix = "look at the path; relative ones start at the folder of rvk8s.yaml"
        raise InputError(f"{uri} does not exist", where="model.pretrained_uri", fix=fix)
