"""The device that this process computes on, and what can be wrong with it."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import torch
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.ranks import Ranks

from rvk8s.contract import Env
from rvk8s.errors import InputError

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
#: Values of NVIDIA_VISIBLE_DEVICES that name no GPU; images of CUDA set "all" wherever they run.
_NAMES_NONE = ("", "none", "void", "all")
#: Chips whose statistics are near enough to those of a batch.
_ENOUGH = 4


def device_of(ranks: Ranks | None = None, dev: Path = Path("/dev")) -> torch.device:
    """The GPU of this process, or the CPU where there is no GPU.

    GPUs that the engine has asked for may be missing altogether: a cluster can count as a GPU what
    is none. But one that is there and of no use is a fault of the node, and training on its CPU
    instead would waste days.

    Args:
        ranks: which process this one is; None: the only one.
        dev: where device files lie.

    Raises:
        InputError: torch can't use the GPUs that were asked for, or there are fewer than processes
            on this node, or the image's torch has nothing that runs on this one.
    """
    ranks = ranks or Ranks()
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable < (wanted := asked()) and (usable or _given(dev)):
        raise InputError(
            f"{wanted} GPUs were asked for, and torch can use {usable or 'none'} of this node's: "
            f"{_why(usable, dev)}",
            fix="look at the node's driver, or give --gpus 0 to compute on the CPU",
        )
    if not usable:
        return CPU
    if ranks.world_size == 1:
        _check_kernels(0)
        return torch.device("cuda")
    if usable < ranks.on_node:
        raise InputError(
            f"{ranks.on_node} processes train on this node, which has {usable} GPUs",
            fix="start one for each GPU, or give --gpus 0 to train on the CPU",
        )
    _check_kernels(ranks.local_rank)
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def asked() -> int:
    """How many GPUs the engine has asked for on this node; 0 where it does not say."""
    text = os.environ.get(Env.GPUS, "")
    return int(text) if text.isdecimal() else 0


def say_where(device: torch.device, ranks: int, precision: str, solver: SolverOptions) -> None:
    """Log what a training computes on, and what of that may surprise."""
    chips = solver.batch_sz // ranks
    if device.type == "cuda":
        many = f"{ranks} ranks with NCCL, a GPU each" if ranks > 1 else "one GPU"
        log.info("training on %s: %s, %s", torch.cuda.get_device_name(), many, precision)
        if ranks == 1 and (gpus := torch.cuda.device_count()) > 1:
            log.warning("one process trains on one of the %d GPUs", gpus)
        if ranks > 1 and chips < _ENOUGH and not solver.sync_bn:
            log.warning(
                "batch normalization takes the statistics of only %d chips, those of one rank: set "
                "solver.sync_bn to true, or solver.batch_sz to %d or more",
                *(chips, _ENOUGH * ranks),
            )
        return
    many = f"{ranks} ranks with gloo, each " if ranks > 1 else ""
    threads = torch.get_num_threads()
    log.warning("no GPU: training on the CPU, %s%d threads, %s", many, threads, precision)
    if gpus := asked():
        log.warning("%d GPUs were asked for, and this node has none by NVIDIA", gpus)
    if solver.sync_bn and ranks > 1:
        log.warning("solver.sync_bn needs GPUs: every rank normalizes over its own %d chips", chips)


def _check_kernels(index: int) -> None:
    """Torch only warns of a GPU it has no kernels for, and the first one fails, after all chips
    were made. sm_80 runs on 8.x; compute_80 is compiled for newer GPUs as it is needed."""
    major, minor = torch.cuda.get_device_capability(index)
    built = re.findall(r"\b(sm|compute)_(\d+)", " ".join(torch.cuda.get_arch_list()))
    if not built or any(
        int(number) // 10 == major if kind == "sm" else int(number) <= 10 * major + minor
        for kind, number in built
    ):
        return
    oldest = min(int(number) for _, number in built)
    raise InputError(
        f"this image's torch is not built for {torch.cuda.get_device_name(index)}, of compute "
        f"capability {major}.{minor}",
        fix=f"use GPUs of {oldest // 10}.{oldest % 10} or later, or give --gpus 0",
    )


def _given(dev: Path) -> bool:
    """Whether a GPU was given to this process, be it of use or not."""
    named = os.environ.get("NVIDIA_VISIBLE_DEVICES", "") not in _NAMES_NONE
    return (
        named
        or _amd(dev)
        or any(re.fullmatch(r"nvidia\d+", path.name) for path in dev.glob("nvidia*"))
    )


def _amd(dev: Path) -> bool:
    """Whether an AMD GPU was given: amd.com/gpu comes with this file, whichever GPU it is."""
    return (dev / "kfd").exists()


def _why(usable: int, dev: Path) -> str:
    """Why torch can't use a GPU, as it says itself."""
    if usable:
        return "it has no more, or hides them"
    if _amd(dev) and torch.version.hip is None:
        return "the GPU is AMD's, and this image's torch is not built for ROCm"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as e:
        return " ".join(str(e).split()).rstrip(".")
    return "it finds none"
