"""Starting weights from a file: a bundle or checkpoint of ours, or a torchvision classifier's."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from rastervision.fastai_backend import backbones, bundle, checkpoint, models
from rastervision.fastai_backend.model_spec import ModelSpec
from torch import nn

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]


def read(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file.

    Args:
        path: model-bundle.zip, one of our checkpoints, or a state dict that torch.save wrote
            (plain, or under the key "model" or "state_dict").

    Raises:
        InputError: there is no such file, or it holds no weights.
    """
    where = "model.pretrained_uri"
    if not path.is_file():
        raise InputError(f"{path} does not exist", where=where, fix="look at the path")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as z:
            ours = {"model.json", bundle.NAME} & set(z.namelist())
        if ours:
            return bundle.load(path)[0]
    values = checkpoint.load_tensors(path)
    state = values.get("model", values.get("state_dict", values))
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{path} holds no weights", where=where, fix="give a state dict")
    return state


def start(spec: ModelSpec, path: Path) -> nn.Module:
    """A network that starts from the weights of a file: all of it where names and shapes agree,
    else the backbone.

    Raises:
        InputError: the file's backbone is not this one.
    """
    state = read(path)
    if state.keys() & backbones.classifier_names(spec):
        log.info("backbone %s starts from %s", spec.backbone, path)
        return models.build(spec, backbone_state=state)
    model = models.build(spec)
    own = model.state_dict()
    state = models.with_backbone_of(state, model)
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    backbone = models.backbone_names(model)
    lacking = backbone - fitting.keys()
    if len(lacking) == 1 and _of_other_bands(state.get(name := lacking.pop()), own[name]):
        fitting[name] = backbones.spread_bands(state[name], spec.channels)
    if not backbone <= fitting.keys():
        raise InputError(
            f"{path} does not hold the weights of {spec.arch} with backbone {spec.backbone}",
            where="model.pretrained_uri",
            fix="use the arch and backbone that it was trained with",
        )
    model.load_state_dict(fitting, strict=False)
    log.info("%d of %d tensors start from %s", len(fitting), len(own), path)
    return model


def _of_other_bands(given: torch.Tensor | None, own: torch.Tensor) -> bool:
    """Whether weights are those of the same convolution for images of other bands."""
    if given is None or given.ndim != 4 or own.ndim != 4:
        return False
    return given.shape[0] == own.shape[0] and given.shape[2:] == own.shape[2:]
