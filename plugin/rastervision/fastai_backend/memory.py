"""Out of memory: recognise it, and measure which batch would fit."""

from __future__ import annotations

import gc
import re
import traceback

import torch
from fastai.learner import Learner

from rvk8s.errors import OutOfMemory

#: torch's allocator on the CPU, and oneDNN, which has no word of its own for it.
_CPU = re.compile(
    r"DefaultCPUAllocator|not enough memory|can't allocate memory"
    r"|could not create a (primitive|memory)"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory is used up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_CPU.search(str(error)))


def advice(
    error: BaseException, learn: Learner, batch_sz: int, size: int, channels: int
) -> OutOfMemory:
    """The error to raise after an out of memory: it names the batch size that fits.

    Halves of the batch are tried, forward and backward, until one fits.

    Args:
        error: what was raised; the activations that its frames hold are let go.
        batch_sz: what didn't fit.
        size, channels: of the images.
    """
    traceback.clear_frames(error.__traceback__)
    device = next(learn.model.parameters()).device
    where = "GPU memory" if device.type == "cuda" else "memory"
    batch = batch_sz // 2
    while batch >= 1 and not _fits(learn, batch, size, channels, device):
        batch //= 2
    fix = (
        f"set solver.batch_sz to {batch} (and solver.grad_accum to {-(-batch_sz // batch)} to "
        "train alike)"
        if batch
        else "not even one chip fits: use smaller chips, data.img_sz or another backbone"
    )
    return OutOfMemory(
        f"a batch of {batch_sz} chips of {size} pixels needs too much {where}; {fix}"
    )


def _fits(learn: Learner, batch: int, size: int, channels: int, device: torch.device) -> bool:
    _release(learn, device)
    try:
        x = torch.zeros(batch, size, size, channels, device=device).permute(0, 3, 1, 2)
        learn.model(x).float().mean().backward()
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        traceback.clear_frames(e.__traceback__)
        return False
    finally:
        _release(learn, device)
    return True


def _release(learn: Learner, device: torch.device) -> None:
    learn.xb, learn.yb, learn.pred, learn.loss, learn.loss_grad = (), (), None, None, None
    learn.model.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
