"""State of a training on disk: written whole or not at all, and checked when it is read."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from fastcore.foundation import L
from rastervision.fastai_backend.model_spec import ModelSpec

from rvk8s.contract import to_json
from rvk8s.errors import DiskFull, InputError

log = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"
_FORMAT = 2
#: How the names of those options end that tell whether labels have changed.
LABELS = "labels (digest)"
_EPOCHS, _SCHEDULE = "solver.num_epochs", "solver.schedule"
#: What versions did that had no such option yet.
_BEFORE = {"solver.loss": "cross_entropy"}


@dataclass
class Checkpoint:
    """All that a training needs to go on as if it had not stopped.

    Schedule, order of the chips, augmentation and dropout are functions of seed, epoch and batch,
    so these two numbers hold the state of all random generators as well.

    Args:
        spec: the network.
        options: what decides the course of the training; a checkpoint of others doesn't fit.
        lr: the learning rate that the schedule scales, given or found.
        rate: the one of the last batch.
        epoch: epochs that are finished, the frozen ones included.
        batch: batches of the next epoch that are done.
        loss_sum, loss_count: sum of the losses of these batches, and how many they are.
        history: one row of log.csv for each epoch.
        model: state dict of the network.
        optimizer: state of fastai's optimizer; empty before the first batch of a phase.
        scaler: state of the gradient scaler; empty without fp16.
    """

    spec: ModelSpec
    options: dict[str, Any]
    lr: float
    rate: float
    epoch: int
    batch: int
    loss_sum: float
    loss_count: int
    history: list[dict[str, Any]]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it to `path`; raises DiskFull."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["spec"] = self.spec.to_dict()
        save_tensors(path, {"format": _FORMAT, **values})

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read what save() wrote; tensors are on the CPU.

        Raises:
            InputError: the file is damaged, or of another version.
        """
        values = load_tensors(path)
        if values.pop("format", None) != _FORMAT:
            raise InputError(
                f"{path} was written by another version of rvk8s",
                fix="go on with that version, or remove the folder to train anew",
            )
        try:
            return cls(**{**values, "spec": ModelSpec.from_dict(values["spec"])})
        except (KeyError, TypeError) as e:
            raise _damaged(path, "parts are missing") from e


def check_network(old: ModelSpec, new: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if the file at `path` is of another network.

    Args:
        old: the file's.
        new: parts of the present one's spec.
    """
    for name, value in new.items():
        if (was := getattr(old, name)) != value:
            raise InputError(
                f"checkpoint {path} is of a network with {name} {_show(was)}, "
                f"this one has {_show(value)}",
                fix=_anew(path),
            )


def check_options(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Raise InputError if a training was started with other options than the present ones.

    What an older version did not write down is taken to be the same; a line in the log says so.
    """
    old = {**_BEFORE, **old}
    if unknown := [k for k in new if k not in old]:
        log.warning("%s does not say whether %s have changed", path, ", ".join(unknown))
    different = [k for k in sorted(old) if old[k] != new.get(k)]
    if more_epochs(old, new):
        different.remove(_EPOCHS)
    if different:
        changes = ", ".join(f"{k} {old[k]} is now {new.get(k)}" for k in different)
        what = "labels" if all(k.endswith(LABELS) for k in different) else "options"
        raise InputError(f"{path} is of a training with other {what}: {changes}", fix=_anew(path))


def more_epochs(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a training just goes on for longer: a constant rate knows no last epoch."""
    constant = old.get(_SCHEDULE) == new[_SCHEDULE] == "constant"
    return constant and old.get(_EPOCHS, 0) < new[_EPOCHS]


def _anew(path: Path) -> str:
    return f"remove {path.parent} to train anew, or use the options that it was written with"


def optimizer_state(opt: Any) -> dict[str, Any]:
    """fastai's optimizer state in plain types, so that it loads without running pickled code."""
    state = opt.state_dict()
    return {
        "state": [dict(s) for s in state["state"]],
        "hypers": [
            {k: float(v) if not isinstance(v, bool) else v for k, v in h.items()}
            for h in state["hypers"]
        ],
    }


def restore_optimizer(opt: Any, state: Mapping[str, Any]) -> None:
    """Put back what optimizer_state() gave, each tensor onto its parameter's device."""
    states = []
    for (p, *_), of_p in zip(opt.all_params(), state["state"], strict=True):
        states.append({k: v.to(p.device) if torch.is_tensor(v) else v for k, v in of_p.items()})
    opt.load_state_dict({"state": states, "hypers": L(state["hypers"])})


def save_weights(path: Path, spec: ModelSpec, model: Mapping[str, Any], **about: Any) -> None:
    """Write a network's weights with its spec and some plain values about them."""
    save_tensors(path, {"format": _FORMAT, "spec": spec.to_dict(), "model": dict(model), **about})


def save_tensors(path: Path, values: Mapping[str, Any]) -> None:
    """torch.save, whole or not at all; raises DiskFull."""
    with whole(path) as temporary, open(temporary, "wb") as f:
        torch.save(dict(values), f)


def load_tensors(path: Path) -> dict[str, Any]:
    """torch.load of plain types and tensors onto the CPU.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise InputError(
            f"checkpoint {path} is missing", fix=f"remove {path.parent} to train anew"
        ) from e
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as e:
        raise _damaged(path, str(e).partition("\n")[0]) from e
    if not isinstance(values, dict):
        raise _damaged(path, "it holds no state")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """Read one of our JSON files; raises InputError for a damaged one."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as e:
        raise InputError(f"{path} is damaged: {e}", fix="remove it") from e


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; numbers that aren't finite are null, for JSON has
    none. Raises DiskFull."""
    with whole(path) as temporary:
        temporary.write_bytes(to_json(_finite(values)))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` and renames it to `path` if all went well.

    Raises:
        DiskFull: no space is left, or a quota is reached.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as e:
        temporary.unlink(missing_ok=True)
        if _is_full(e):
            raise DiskFull(
                f"no space left to write {path}; free some or use another root URI"
            ) from e
        raise


def _is_full(error: BaseException | None) -> bool:
    """Whether an error is the disk's; torch wraps the system's own in one of its kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"checkpoint {path} is damaged: {what}",
        fix=f"remove {path.name} to train from the start",
    )


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
