"""The ranks of a training as a group: what they tell each other, beside gradients.

Numbers that all need are summed over the ranks; decisions are rank 0's, and the others hear them.
All of it goes over gloo and the CPU, also where gradients go over NCCL: these values are small.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rastervision.fastai_backend.ranks import Ranks

from rvk8s.contract import Env
from rvk8s.errors import InputError, RanksLost

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Seconds that a rank waits for the others. While one uploads a checkpoint or downloads its node's
#: chips the others wait, so this is long.
TIMEOUT = 1800.0
#: What gloo and NCCL say; torch has no class for the former.
_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe", re.IGNORECASE)
_CPU = torch.device("cpu")


class Group:
    """The processes that train together. Alone, everything here is quick and changes nothing.

    Args:
        ranks: which of them this one is.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks

    @classmethod
    def join(cls, ranks: Ranks | None = None) -> Group:
        """The group of this process; waits until all of it are there, the first time.

        Raises:
            InputError: torchrun's variables are wrong, or a node has fewer GPUs than processes.
            RanksLost: the others did not come.
        """
        group = cls(ranks or Ranks.from_env())
        if group.size > 1 and not dist.is_initialized():
            device = device_of(group.ranks)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            try:
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout()))
            except RuntimeError as e:
                raise (lost(e) or e) from e
        return group

    @property
    def size(self) -> int:
        return self.ranks.world_size

    @property
    def writes(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.ranks.writes

    def barrier(self) -> None:
        """Wait until all ranks are here. Never in `finally`: a rank that failed doesn't come."""
        self.sum(torch.zeros(1))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; anything that pickles. The others don't call `make`."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.writes else None]
        dist.broadcast_object_list(box, src=0, device=_CPU)
        return box[0]

    def on_each_node(self, make: Callable[[], T]) -> T:
        """What local rank 0 of this node makes; the other ranks of the node wait for it."""
        if self.size == 1:
            return make()
        first = self.ranks.local_rank == 0
        made: list[Any] = [None] * self.size
        dist.all_gather_object(made, (self.ranks.node, make() if first else None, first))
        return next(value for node, value, one in made if one and node == self.ranks.node)

    def tensors_from_first(self, make: Callable[[], Any]) -> Any:
        """As from_first(), for dicts and lists with large CPU tensors, which are not pickled."""
        if self.size == 1:
            return make()
        value = make() if self.writes else None
        tensors: list[torch.Tensor] = []
        skeleton = self.from_first(lambda: _take_out(value, tensors))
        if not self.writes:
            _each(skeleton, lambda slot: tensors.append(slot.empty()))
        for tensor in tensors:
            # As bytes, in the order in which they lie in memory: gloo doesn't know all types.
            flat = tensor.as_strided((tensor.numel(),), (1,))
            dist.broadcast(flat.view(torch.uint8), src=0)
        return value if self.writes else _put_in(skeleton, iter(tensors))


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor. torch's fused optimizer needs its state to lie as the weights do."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: torch.memory_format

    def empty(self) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, memory_format=self.layout)


def _take_out(value: Any, tensors: list[torch.Tensor]) -> Any:
    """`value` with a _Slot for each tensor; the tensors, without gaps, in the list."""
    if isinstance(value, torch.Tensor):
        last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        tensors.append(value.detach().contiguous(memory_format=layout))
        return _Slot(tuple(value.shape), value.dtype, layout)
    if isinstance(value, dict):
        return {k: _take_out(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_take_out(v, tensors) for v in value]
    return value


def _put_in(value: Any, tensors: Any) -> Any:
    """The inverse of _take_out()."""
    if isinstance(value, _Slot):
        return next(tensors)
    if isinstance(value, dict):
        return {k: _put_in(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_put_in(v, tensors) for v in value]
    return value


def _each(value: Any, do: Callable[[_Slot], None]) -> None:
    if isinstance(value, _Slot):
        do(value)
    elif isinstance(value, dict):
        for v in value.values():
            _each(v, do)
    elif isinstance(value, list):
        for v in value:
            _each(v, do)


def device_of(ranks: Ranks) -> torch.device:
    """The GPU of this process, or the CPU where there is no GPU.

    Raises:
        InputError: there are fewer GPUs than processes on this node.
    """
    if not torch.cuda.is_available():
        return _CPU
    if ranks.world_size == 1:
        return torch.device("cuda")
    if (gpus := torch.cuda.device_count()) < ranks.on_node:
        raise InputError(
            f"{ranks.on_node} processes train on this node, which has {gpus} GPUs",
            fix="start one for each GPU, or give --gpus 0 to train on the CPU",
        )
    torch.cuda.set_device(ranks.local_rank)
    return torch.device("cuda", ranks.local_rank)


def timeout() -> float:
    """Seconds that a rank waits for the others before the training is given up.

    Raises:
        InputError: the variable holds no positive number.
    """
    text = os.environ.get(Env.RANKS_TIMEOUT) or str(TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InputError(f"{text!r} is no time", where=Env.RANKS_TIMEOUT, fix="give seconds")
    return seconds


def lost(error: BaseException) -> RanksLost | None:
    """The error to raise instead where another rank is gone or does not answer.

    That is never the reason of a failure: another rank has it, or hangs.
    """
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    if not isinstance(error, dist.DistError) and not _LOST.search(text):
        return None
    if re.search(r"timed ?out|timeout", text, re.IGNORECASE):
        return RanksLost(
            f"the ranks waited {timeout():.0f} s for each other: one of them hangs, or does "
            f"something that takes longer ({Env.RANKS_TIMEOUT})"
        )
    return RanksLost("another rank of the training has ended")
