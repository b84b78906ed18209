"""The bundle of a training: model-bundle.zip with the weights and what builds the network.

    model.json   {"format", "rvk8s", "spec": ModelSpec}
    weights.pt   the network's state dict

Raster Vision puts this file into its own bundle beside the pipeline config; see
https://docs.rastervision.io on model bundles. Equal weights give equal bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rastervision.fastai_backend import checkpoint, models
from rastervision.fastai_backend.model_spec import ModelSpec
from torch import nn

from rvk8s import __version__
from rvk8s.contract import to_json
from rvk8s.errors import InputError

NAME = "model-bundle.zip"
_FORMAT = 1
_SPEC, _WEIGHTS = "model.json", "weights.pt"


def save(path: Path, model_state: Mapping[str, torch.Tensor], spec: ModelSpec) -> None:
    """Write a bundle, whole or not at all; raises DiskFull.

    Args:
        path: the file to write.
        model_state: state dict of the network that models.build(spec) builds.
        spec: what builds the network.
    """
    weights = io.BytesIO()
    state = {k: v.detach().cpu().contiguous() for k, v in model_state.items()}
    torch.save(state, weights)
    about = {"format": _FORMAT, "rvk8s": __version__, "spec": spec.to_dict()}
    with checkpoint.whole(path) as temporary, zipfile.ZipFile(temporary, "w") as z:
        for name, data in ((_SPEC, to_json(about)), (_WEIGHTS, weights.getvalue())):
            # A fixed time: equal contents give equal bytes.
            z.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def load(path: Path) -> tuple[dict[str, torch.Tensor], ModelSpec]:
    """Read a bundle: the weights, on the CPU, and the spec.

    `path` may also be a bundle of Raster Vision's bundle stage that holds ours.

    Raises:
        InputError: the file is missing, damaged, or not a bundle of this backend.
    """
    try:
        with zipfile.ZipFile(path) as outer:
            if _SPEC in outer.namelist():
                return _load(outer, path)
            if NAME in outer.namelist():
                with zipfile.ZipFile(io.BytesIO(outer.read(NAME))) as inner:
                    if _SPEC in inner.namelist():
                        return _load(inner, path)
    except FileNotFoundError as e:
        raise InputError(
            f"model bundle {path} does not exist", fix="run the train stage: --rerun train"
        ) from e
    except (zipfile.BadZipFile, EOFError, OSError) as e:
        raise _damaged(path, str(e)) from e
    raise InputError(
        f"{path} is not a model bundle of the fastai backend",
        fix="give the model-bundle.zip of a train or bundle stage that used it",
    )


def load_model(path: Path) -> tuple[nn.Module, ModelSpec]:
    """The network of a bundle, on the CPU in evaluation mode, and its spec.

    Raises:
        InputError: as load(); or the weights don't fit the spec.
    """
    state, spec = load(path)
    model = models.build(spec)
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        raise _damaged(path, f"weights don't fit the network {spec.arch}/{spec.backbone}") from e
    return model.eval(), spec


def _load(z: zipfile.ZipFile, path: Path) -> tuple[dict[str, torch.Tensor], ModelSpec]:
    try:
        about: dict[str, Any] = json.loads(z.read(_SPEC))
        if about["format"] != _FORMAT:
            raise InputError(
                f"model bundle {path} has format {about['format']}, this version reads {_FORMAT}",
                fix=f"use rvk8s {about.get('rvk8s')}",
            )
        spec = ModelSpec.from_dict(about["spec"])
        state = torch.load(io.BytesIO(z.read(_WEIGHTS)), map_location="cpu", weights_only=True)
    except (KeyError, TypeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise _damaged(path, str(e).partition("\n")[0]) from e
    return state, spec


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"model bundle {path} is damaged: {what}",
        fix="copy it again, or run the train stage again: --rerun train",
    )
