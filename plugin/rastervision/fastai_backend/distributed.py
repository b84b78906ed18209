"""The ranks of a training as a group: what they tell each other, beside gradients.

Numbers that all need are summed over the ranks; decisions are rank 0's, and the others hear them.
What lies on the CPU goes over gloo, also where gradients go over NCCL: it is small or seldom. What
lies on GPUs, as the means that data_parallel takes after every batch, goes over NCCL.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rastervision.fastai_backend.devices import CPU, device_of
from rastervision.fastai_backend.out_of_memory import is_out_of_memory
from rastervision.fastai_backend.ranks import Ranks

from rvk8s.contract import Env
from rvk8s.errors import InputError, RanksLost

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Seconds that a rank waits for the others. At the end they wait while rank 0 uploads the model,
#: and it waits for storage that is away: this has to be longer than uploads.PATIENCE.
TIMEOUT = 2700.0
_GONE = r"Connection (closed|reset|refused)|Broken pipe|ncclRemoteError|remote (peer|process)"
#: What gloo and NCCL say; torch has no class for the former.
_LOST = re.compile(rf"gloo|NCCL|{_GONE}", re.IGNORECASE)
#: What NCCL says of this rank's own faults: two ranks on one GPU, no room in /dev/shm, a kernel
#: that failed. The second is also said where a peer is gone.
_OWN = re.compile(r"ncclInvalid(Usage|Argument)|ncclSystemError|unhandled (cuda|system) error")


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
            InputError: torchrun's variables are wrong; or a node's GPUs are, or they are not all
                alike, which each rank then says.
            RanksLost: the others did not come.
        """
        group = cls(ranks or Ranks.from_env())
        if group.size == 1 or dist.is_initialized():
            return group
        device, error = CPU, None
        try:
            device = device_of(group.ranks)
        except InputError as e:
            error = e  # the others wait, and shall hear of it
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout()))
            group._check_devices(device, error)
        except RuntimeError as e:
            raise (lost(e) or e) from e
        return group

    def _check_devices(self, device: torch.device, error: InputError | None) -> None:
        """Over gloo, which all of them have: NCCL would wait for those without a GPU."""
        mine = (self.ranks.node, device.type, error and (error.what, error.fix))
        all_of_them = self.gather(mine)
        if error:
            raise error
        for node, _, trouble in all_of_them:
            if trouble:
                raise InputError(f"node {node}: {trouble[0]}", fix=trouble[1])
        without = sorted({node for node, kind, _ in all_of_them if kind == "cpu"})
        if without and any(kind != "cpu" for _, kind, _ in all_of_them):
            raise InputError(
                f"some nodes have GPUs and others have none: {', '.join(map(str, without))}",
                fix="let all nodes be alike, or give --gpus 0 to train on the CPU",
            )

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

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors by those of rank 0, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def from_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; anything that pickles. The others don't call `make`."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.writes else None]
        dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """What each rank gives, in their order, on all ranks; anything that pickles."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def on_each_node(self, make: Callable[[], T]) -> T:
        """What local rank 0 of this node makes; the other ranks of the node wait for it."""
        if self.size == 1:
            return make()
        first = self.ranks.local_rank == 0
        made = self.gather((self.ranks.node, (make(),) if first else None))
        return next(one[0] for node, one in made if one and node == self.ranks.node)

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

    That is never the reason of a failure: another rank has it, or hangs. What NCCL lacks or is
    told wrongly is.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return None
    text = str(error)
    if not isinstance(error, dist.DistError) and not _LOST.search(text):
        return None
    if _OWN.search(text) and not re.search(_GONE, text, re.IGNORECASE):
        return None
    if isinstance(error, dist.DistBackendError):
        log.warning("%s", text)  # it may say more than that somebody is gone
    if re.search(r"timed ?out|timeout", text, re.IGNORECASE):
        return RanksLost(
            f"the ranks waited {timeout():.0f} s for each other: one of them hangs, or does "
            f"something that takes longer ({Env.RANKS_TIMEOUT})"
        )
    return RanksLost("another rank of the training has ended")
