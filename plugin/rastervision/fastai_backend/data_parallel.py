"""Training with several ranks: a fastai callback around torch's DistributedDataParallel.

fastai's own needs the package accelerate and a GPU. Here the union of the ranks' batches is the
batch that one rank alone would see, and a step is the step that it would make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from fastai.callback.core import Callback
from fastai.torch_core import get_model
from rastervision.fastai_backend.callbacks import AccumulateGradients
from rastervision.fastai_backend.distributed import Group
from torch import nn
from torch.nn.parallel import DistributedDataParallel

#: Pixels of a chip's side that are enough for every backbone.
_SMALL = 128


class DataParallel(Callback):
    """Wraps the model while it is fitted, and reduces losses, statistics and metrics over ranks.

    Args:
        group: the ranks.
        device: this rank's.
        sync_bn: batch normalization over the chips of all ranks; on GPUs only.
        channels, size: of the network's input.
    """

    order = 1  # after ChannelsLast, before whatever reads the loss

    def __init__(self, group: Group, device: torch.device, sync_bn: bool, channels: int, size: int):
        self.group, self.device = group, device
        self.sync_bn = sync_bn and device.type == "cuda"
        side = min(size, _SMALL)
        self.input_shape = (1, channels, side, side)

    def before_fit(self) -> None:
        # Here and not earlier: which parameters are frozen is known now, and changes by phase.
        if self.sync_bn:
            _sync(self.learn.model)
        # DistributedDataParallel does so with the parameters alone, where buffers aren't its own.
        self.group.spread(self.learn.model.buffers())
        self.learn.model = DistributedDataParallel(
            self.learn.model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # after_batch takes the mean of all ranks' instead
            gradient_as_bucket_view=True,  # else every gradient is copied there and back
        )
        self.learn.model.register_comm_hook(None, lambda _, bucket: _sum(bucket.buffer()))
        self._settle_buckets()

    def _settle_buckets(self) -> None:
        """One pass without consequences, so that all that count sum gradients in the same order.

        After its first pass DistributedDataParallel deals the gradients to its buckets anew, in
        the order in which they became ready, and the place in a bucket decides in which order the
        ranks' numbers are added. A training that goes on would round its first step otherwise.
        """
        model = self.learn.model.eval()  # statistics and random numbers stay as they are
        model(torch.zeros(self.input_shape, device=self.device)).sum().backward()
        model.zero_grad(set_to_none=True)

    def after_fit(self) -> None:
        self.learn.model = get_model(self.learn.model)
        if self.sync_bn:
            _unsync(self.learn.model)

    def before_batch(self) -> None:
        """Gradients are exchanged in the last of the batches whose mean makes a step."""
        if self.learn.training:
            accumulate = self.learn._grab_cbs(AccumulateGradients)
            self.learn.model.require_backward_grad_sync = (
                not accumulate or accumulate[0].steps_now()
            )

    def after_loss(self) -> None:
        """Let the sum of the ranks' losses be the mean over all pixels or, without weights, chips.

        Ranks may count different numbers of pixels.
        """
        if not self.learn.training:
            return
        mine = self.learn.loss_func.total(self.learn.yb[0])
        if mine is None:
            share: torch.Tensor | float = 1 / self.group.size
        else:
            total = self.group.sum(mine.detach().float().clone())
            share = mine.float() / total.clamp(min=torch.finfo(torch.float32).tiny)
        self.learn.loss_grad = self.learn.loss_grad * share
        self.learn.loss = self.learn.loss_grad.clone()

    def after_batch(self) -> None:
        """The loss of all ranks, and the mean of batch normalization's running statistics.

        After every batch, so that rank 0's checkpoint is the state of all.
        """
        if not self.learn.training:
            return
        buffers = [b for b in self.learn.model.buffers() if b.is_floating_point()]
        values = [self.learn.loss.detach().as_subclass(torch.Tensor), *buffers]
        flat = torch.cat([v.reshape(-1).float() for v in values])
        self.group.sum(flat)
        self.learn.loss = flat[0].clone()
        parts = flat[1:].div_(self.group.size).split([b.numel() for b in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    def after_validate(self) -> None:
        """Every rank has scored its share: now each has the scores of all."""
        loss = self.learn.recorder.loss
        both = torch.tensor([float(loss.total), float(loss.count)], dtype=torch.float64)
        total, count = self.group.sum(both).tolist()
        loss.total, loss.count = total, count
        for metric in self.learn.metrics:
            metric.reduce(self.group)


@contextmanager
def hidden_from_fastai() -> Iterator[None]:
    """fastai does not see that there are several ranks.

    It would gather the loss of every batch over them, where we have other numbers of batches, and
    meet at barriers of its own. It asks these variables each time; torch has read them already.
    """
    names = ("RANK", "WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _sum(gradients: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    """Begins to sum gradients over the ranks, in place; after_loss has made the sum the mean.

    DistributedDataParallel's own mean multiplies by 1/ranks in its first step and divides in later
    ones, which isn't the same where the ranks are no power of two, and costs a pass over memory.
    """
    done = dist.all_reduce(gradients, async_op=True).get_future()
    return done.then(lambda future: future.value()[0])


def _sync(model: nn.Module) -> None:
    """Make batch normalization that of all ranks, in place.

    Both kinds have the same parameters and buffers, so optimizer and checkpoints don't notice;
    torch's own conversion makes new modules, and fastai's optimizer takes those for no
    normalization.
    """
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
            module.alone = type(module)  # type: ignore[assignment]
            module.__class__ = nn.SyncBatchNorm
            module.process_group = torch.distributed.group.WORLD  # type: ignore[assignment]


def _unsync(model: nn.Module) -> None:
    """Undo _sync()."""
    for module in model.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = module.alone  # type: ignore[assignment]
            del module.alone
