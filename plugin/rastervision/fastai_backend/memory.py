"""Out of memory: measure which batch would fit."""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from fastai.learner import Learner
from rastervision.fastai_backend import models
from rastervision.fastai_backend.model_spec import CLASSIFIER, ModelSpec
from rastervision.fastai_backend.optimizer import FusedAdam
from rastervision.fastai_backend.out_of_memory import is_out_of_memory
from rastervision.fastai_backend.precision import Chosen, amp

from rvk8s.errors import OutOfMemory


def smallest_batch(spec: ModelSpec) -> int:
    """Chips that a training batch has to have: batch normalization needs more than one value, and
    DeepLabV3 and a classifier pool the image to one, as a U-Net's body does with a small image."""
    return 2 if spec.arch in ("deeplabv3", CLASSIFIER) or spec.img_sz < 64 else 1


def advice(
    error: BaseException,
    learn: Learner,
    spec: ModelSpec,
    precision: Chosen,
    grad_accum: int = 1,
    ranks: int = 1,
) -> OutOfMemory:
    """The error to raise after an out of memory: it names the batch size that fits.

    Halves of the batch are tried, a whole step of each, until one fits.

    Args:
        error: what was raised; the activations that its frames hold are let go.
        learn: the training that ran out: its network and optimizer are let go.
        spec: of the network.
        precision: that it trained in.
        grad_accum: batches that made a step.
        ranks: processes that share a batch of solver.batch_sz.
    """
    batch_sz, device = learn.dls.train.bs, learn.dls.device
    _let_go(error, learn, device)
    where = "GPU memory" if device.type == "cuda" else "memory"
    least = smallest_batch(spec)
    halves = [batch_sz >> i for i in range(1, batch_sz.bit_length())]
    tries = dict.fromkeys(max(b, least) for b in halves if max(b, least) < batch_sz)
    step = _Step(spec, learn.loss_func, precision, device)
    batch = next((b for b in tries if step.fits(b)), 0)
    smaller = "smaller chips, data.img_sz or another backbone"
    if batch:
        fix = f"set solver.batch_sz to {batch * ranks}"
        if batch_sz % batch == 0:  # else no number of such batches has as many chips
            steps = batch_sz // batch * grad_accum
            fix += f" (and solver.grad_accum to {steps} to train alike)"
    elif tries:
        # A process that has run out may be refused what a new one would get: that is no proof.
        fix = f"set solver.batch_sz to {next(iter(tries)) * ranks} or less, or use {smaller}"
    else:
        fix = f"no smaller batch is possible: use {smaller}"
    return OutOfMemory(
        f"a batch of {batch_sz} chips of {spec.img_sz} pixels needs too much {where}; {fix}"
    )


@dataclass(frozen=True)
class _Step:
    """A step of a training, with a network of its own.

    The one that ran out is of no use: it may hold activations (a U-Net keeps its encoder's), and
    its hooks would wait for other ranks.
    """

    spec: ModelSpec
    loss: Any
    precision: Chosen
    device: torch.device

    def fits(self, batch: int) -> bool:
        """Whether there is memory for a step with as many chips.

        On the CPU in a fork: where memory is refused, oneDNN sometimes crashes instead of saying
        so, and the kernel may kill the process that asks for too much.
        """
        if self.device.type != "cpu":
            return self._try(batch)
        pid = os.fork()
        if pid == 0:
            fits = False
            try:
                # More would wait for threads that a fork does not have.
                torch.set_num_threads(1)
                fits = self._try(batch)
            finally:
                os._exit(0 if fits else 1)
        return os.waitpid(pid, 0)[1] == 0

    def _try(self, batch: int) -> bool:
        try:
            self._do(batch)
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            return False
        finally:
            _free(self.device)
        return True

    def _do(self, batch: int) -> None:
        """Two steps, each forward, backward and the optimizer's, as large as the training's are.

        In the first one there are no gradients and no state of the optimizer yet.
        """
        model = models.build(self.spec).to(self.device)
        size = self.spec.img_sz
        images = torch.zeros(batch, size, size, self.spec.channels, device=self.device)
        shape = {"pixels": (size, size), "chip": (), "boxes": (1, 5)}[self.spec.label_kind]
        dtype = torch.float32 if self.spec.label_kind == "boxes" else torch.int64
        labels = torch.zeros(batch, *shape, dtype=dtype, device=self.device)
        # Weights and numbers don't matter, so neither do groups, rates and scales.
        optimizer = FusedAdam(list(model.parameters()), lr=0.0)
        for _ in range(2):
            with amp(self.precision, self.device):
                loss = self.loss(model(images.permute(0, 3, 1, 2)).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def _let_go(error: BaseException, learn: Learner, device: torch.device) -> None:
    _forget_frames(error)
    learn.xb, learn.yb, learn.pred, learn.loss, learn.loss_grad = (), (), None, None, None
    learn.model, learn.opt = None, None
    _free(device)


def _forget_frames(error: BaseException) -> None:
    """Cut off the frames of an error that have ended.

    traceback.clear_frames() would leave what their functions enclose, as torch's do the network.
    """
    running, frame = set(), sys._getframe().f_back
    while frame:
        running.add(frame)
        frame = frame.f_back
    entry = error.__traceback__
    while entry and entry.tb_next and entry.tb_next.tb_frame in running:
        entry = entry.tb_next
    if entry:
        entry.tb_next = None


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
