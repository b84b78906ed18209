"""Compute a network in bf16 or fp16, but for its two ends.

Rounding is not equally harmful everywhere. Changing one convolution at a time to bf16 in a U-Net
(resnet18) changed most pixels' classes at the last one and at those beside it, then at the first
ones; those between, which are nearly all of the work, change few: what they round is averaged away
by the layers after them, and at a low resolution it is not what decides near an edge.
"""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

#: Most of the network's multiplications that are left in fp32, at either end. The outermost
#: convolution is left in any case.
_SHARE = 0.05


@torch.no_grad()
def halve(model: nn.Module, probe: torch.Tensor, dtype: torch.dtype) -> nn.Module:
    """Make a network compute in a format of 16 bits, but for its first and last layers.

    Each layer casts its own input, so images go in as fp32; logits come out as fp32. Batch
    normalisation keeps its statistics in fp32, which torch takes beside values of 16 bits, and
    gives 16 bits: what a U-Net concatenates is then of one format, which is far cheaper.

    Args:
        model: in evaluation mode, with fp32 weights; it is changed.
        probe: an input of it.
        dtype: torch.bfloat16 or torch.float16.

    Returns:
        The model.
    """
    kept = outer_convolutions(_work(model, probe))
    # A classifier's head: next to no work, and its end.
    kept |= {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.BatchNorm1d)}
    kept |= set(getattr(model, "ends", ()))  # a detector's, of which there are two
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _m, _i, out: out.to(dtype))
        elif list(module.parameters(recurse=False)):
            if name not in kept:
                _cast(module, dtype)
            module.register_forward_pre_hook(_cast_inputs)
    log.info("%d layers at the network's ends compute in fp32", len(kept))
    return model


def outer_convolutions(work: dict[str, int]) -> set[str]:
    """The convolutions at both ends, as many as take `_SHARE` of the work; at least one each.

    Args:
        work: multiplications of each convolution, in the order in which they run.
    """
    names = list(work)
    kept = {*names[:1], *names[-1:]}
    limit = _SHARE * sum(work.values())
    for side in (names, names[::-1]):
        totals = accumulate(work[name] for name in side)
        kept.update(name for name, total in zip(side, totals, strict=True) if total <= limit)
    return kept


def _work(model: nn.Module, probe: torch.Tensor) -> dict[str, int]:
    """Multiplications of each convolution with `probe`, in the order in which they first run."""
    work: dict[str, int] = {}

    def count(name: str, module: nn.Conv2d, output: torch.Tensor) -> None:
        places = output.shape[0] * output.shape[2] * output.shape[3]
        work[name] = work.get(name, 0) + module.weight.numel() * places

    hooks = [
        module.register_forward_hook(lambda m, _i, out, name=name: count(name, m, out))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        model(probe)
    finally:
        for hook in hooks:
            hook.remove()
    return work


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """The module's own weights and buffers, not those of modules in it."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def _cast_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: floating-point inputs get the format of the module's weights."""
    dtype = next(module.parameters(recurse=False)).dtype
    return tuple(
        x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs
    )
