"""Number formats of the computation: which one suits the device, and the callback that uses it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastcore.foundation import L
from torch.amp import GradScaler, autocast

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.fastai_backend.distributed import Group

log = logging.getLogger(__name__)

Chosen = Literal["fp32", "fp16", "bf16"]


def choose(asked: str, device: torch.device, key: str = "solver.precision") -> Chosen:
    """The precision to compute with on a device.

    Args:
        asked: "auto", "fp32", "fp16" or "bf16"; auto takes bf16 where the device computes it
            natively (avx512_bf16 or amx_bf16; NVIDIA from compute capability 8 on), else fp16 on
            a GPU and fp32 on a CPU.
        key: the option that asks, for errors.

    Raises:
        InputError: fp16 on a CPU, or bf16 on a GPU that has none.
    """
    native = has_native_bf16(device)
    if asked == "auto":
        return "bf16" if native else "fp16" if device.type == "cuda" else "fp32"
    if asked == "fp16" and device.type != "cuda":
        raise InputError(
            "fp16 needs a GPU, and there is none",
            where=key,
            fix="use auto, which takes bf16 or fp32 on a CPU",
        )
    if asked == "bf16" and not native:
        if device.type == "cuda":
            raise InputError("this GPU has no bf16", where=key, fix="use fp16 or auto")
        log.warning("bf16 was asked for, but this CPU has to emulate it: fp32 would be faster")
    if asked not in ("fp32", "fp16", "bf16"):
        raise InputError(f"is {asked!r}", where=key, fix="use auto, fp32, fp16 or bf16")
    return asked  # type: ignore[return-value]


def of_all(asked: str, device: torch.device, group: Group) -> Chosen:
    """choose(), but one for all ranks: gradients of fp16 are scaled and others are not."""
    choices = set(group.gather(choose(asked, device)))
    if len(choices) == 1:
        return choices.pop()
    return "fp16" if device.type == "cuda" else "fp32"


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def runs(chosen: str, device: torch.device) -> bool:
    """Whether the device computes in a precision without emulating it."""
    if chosen == "bf16":
        return has_native_bf16(device)
    return chosen == "fp32" or device.type == "cuda"


def amp(chosen: Chosen, device: torch.device) -> autocast:
    """The context in which a training computes the network's output and the loss."""
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return autocast(device.type, dtype=dtype, enabled=chosen != "fp32")


class Precision(MixedPrecision):
    """fastai's mixed precision, on any device: bf16 without scaling, fp16 with a GradScaler.

    Args:
        precision: "bf16" or "fp16".
        device: where the model is.
    """

    def __init__(self, precision: Chosen, device: torch.device):
        super().__init__(AMPMode(precision))
        self.precision, self.device = precision, device
        self.entered = False
        self.state: dict | None = None

    def before_fit(self) -> None:
        self.autocast = amp(self.precision, self.device)
        self.learn.scaler = GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.scales = L()
        if self.state:
            self.learn.scaler.load_state_dict(self.state)

    def before_batch(self) -> None:
        super().before_batch()
        self.entered = True

    def after_loss(self) -> None:
        super().after_loss()
        self.entered = False

    def after_fit(self) -> None:
        # The scale is kept for the next phase, as it would be for a resumed one.
        self.state = self.learn.scaler.state_dict()
        super().after_fit()

    def scaler_state(self) -> dict:
        """State of the gradient scaler; empty for bf16."""
        return self.learn.scaler.state_dict()

    def leave(self) -> None:
        """Leave autocast after an error in the middle of a batch: it is a setting of the thread."""
        if self.entered:
            self.autocast.__exit__(None, None, None)
            self.entered = False
