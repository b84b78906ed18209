"""Out of memory: measure which batch would fit."""

from __future__ import annotations

import gc
import os
import traceback

import torch
from fastai.learner import Learner
from fastai.torch_core import get_model
from rastervision.fastai_backend.models import ModelSpec
from rastervision.fastai_backend.out_of_memory import is_out_of_memory

from rvk8s.errors import OutOfMemory


def smallest_batch(spec: ModelSpec) -> int:
    """Chips that a training batch has to have: batch normalization needs more than one value, and
    DeepLabV3 pools the image to one, as a U-Net's body does with a small image."""
    return 2 if spec.arch == "deeplabv3" or spec.img_sz < 64 else 1


def advice(
    error: BaseException, learn: Learner, batch_sz: int, spec: ModelSpec, ranks: int = 1
) -> OutOfMemory:
    """The error to raise after an out of memory: it names the batch size that fits.

    Halves of the batch are tried, forward and backward, until one fits.

    Args:
        error: what was raised; the activations that its frames hold are let go.
        batch_sz: what didn't fit: chips of this rank.
        spec: of the network.
        ranks: processes that share a batch of solver.batch_sz.
    """
    traceback.clear_frames(error.__traceback__)
    device = next(learn.model.parameters()).device
    where = "GPU memory" if device.type == "cuda" else "memory"
    least = smallest_batch(spec)
    halves = [batch_sz >> i for i in range(1, batch_sz.bit_length())]
    tries = dict.fromkeys(max(b, least) for b in halves if max(b, least) < batch_sz)
    batch = next((b for b in tries if _fits(learn, b, spec, device)), 0)
    smaller = "smaller chips, data.img_sz or another backbone"
    if batch:
        steps = -(-batch_sz // batch)
        fix = f"set solver.batch_sz to {batch * ranks} (and solver.grad_accum to {steps} "
        fix += "to train alike)"
    elif tries:
        # A process that has run out may be refused what a new one would get: that is no proof.
        fix = f"set solver.batch_sz to {next(iter(tries)) * ranks} or less, or use {smaller}"
    else:
        fix = f"no smaller batch is possible: use {smaller}"
    return OutOfMemory(
        f"a batch of {batch_sz} chips of {spec.img_sz} pixels needs too much {where}; {fix}"
    )


def _fits(learn: Learner, batch: int, spec: ModelSpec, device: torch.device) -> bool:
    """Whether a batch goes forward and backward.

    On the CPU in a fork: where memory is refused, oneDNN sometimes crashes instead of saying so,
    and the kernel may kill the process that asks for too much.
    """
    if device.type != "cpu":
        return _try(learn, batch, spec, device)
    _release(learn, device)
    pid = os.fork()
    if pid == 0:
        fits = False
        try:
            # More would wait for threads that a fork does not have.
            torch.set_num_threads(1)
            fits = _try(learn, batch, spec, device)
        finally:
            os._exit(0 if fits else 1)
    return os.waitpid(pid, 0)[1] == 0


def _try(learn: Learner, batch: int, spec: ModelSpec, device: torch.device) -> bool:
    _release(learn, device)
    try:
        x = torch.zeros(batch, spec.img_sz, spec.img_sz, spec.channels, device=device)
        get_model(learn.model)(x.permute(0, 3, 1, 2)).float().mean().backward()
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
