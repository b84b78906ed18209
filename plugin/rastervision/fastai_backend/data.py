"""fastai's data loader over chips: whole batches are read, turned into floats on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.chips import ChipSource
from rastervision.fastai_backend.model_spec import ModelSpec, normalize
from rastervision.fastai_backend.tensors import as_tensor
from torch.nn import functional as F

from rvk8s.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor]


class ChipLoader(DataLoader):
    """Batches of a ChipSource: one read a batch, no work in Python for each chip.

    Set `epoch` before iterating; `first_batch` skips batches that were seen before an interruption.
    A batch is a function of (epoch, its position), so that a resumed epoch goes on with what an
    uninterrupted one would have shown.

    Args:
        source: the chips.
        bs: chips in a batch of this rank.
        spec: how to normalise, and the size to which images are resized.
        order: epoch -> the positions that it draws, in order; None: all chips in their order.
        augment: None: none.
        drop_last: leave out a last batch that isn't full.
        num_workers: processes that read ahead; 0: none.
        share: (rank, ranks). With drop_last this rank reads its part of every batch that all ranks
            have together, so all have equally many; else its part of the chips, each chip once.
    """

    def __init__(
        self,
        source: ChipSource,
        bs: int,
        spec: ModelSpec,
        *,
        device: torch.device,
        order: Callable[[int], np.ndarray] | None = None,
        augment: Augment | None = None,
        drop_last: bool = False,
        num_workers: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(
            source,
            bs=bs,
            num_workers=num_workers,
            drop_last=drop_last,
            indexed=True,
            device=device,
            pin_memory=device.type == "cuda",
        )
        self.spec, self.order, self.augment = spec, order, augment
        self.share = share
        self.epoch, self.first_batch, self.position = 0, 0, 0

    def before_iter(self) -> None:
        self.position = self.first_batch

    def __len__(self) -> int:
        """Batches of an epoch, on this rank."""
        rank, ranks = self.share
        if self.drop_last:
            return self.n // (self.bs * ranks)
        return -(-len(np.array_split(np.arange(self.n), ranks)[rank]) // self.bs)

    def get_idxs(self) -> list[int]:
        rank, ranks = self.share
        positions = np.arange(self.n) if self.order is None else self.order(self.epoch)
        if self.drop_last:
            batches = positions[: len(self) * ranks * self.bs].reshape(-1, ranks, self.bs)
            positions = batches[:, rank].ravel()
        else:
            positions = np.array_split(positions, ranks)[rank]
        return positions[self.first_batch * self.bs :].tolist()

    def create_batches(self, samps: Iterable[int]) -> Iterator[Batch]:
        """Read batch by batch the positions given; in a worker these are the worker's own."""
        it = iter(samps)
        while chunk := list(islice(it, self.bs)):
            if len(chunk) == self.bs or not self.drop_last:
                images, labels = self.dataset.read(np.asarray(chunk), self.epoch)
                yield as_tensor(images), torch.from_numpy(np.ascontiguousarray(labels))

    def after_batch(self, batch: Batch) -> Batch:
        """(N, S, S, C) pixels and labels, as ChipSource.read gives them -> (N, C, img_sz, img_sz)
        float32 in channels_last and (N, img_sz, img_sz) or (N,) int64, or (N, M, 5) float32, on the
        device."""
        images, labels = batch
        if self.augment is not None:
            images, labels = self.augment.turn(images, labels, self.epoch, self.position)
        x = normalize(self.spec, images)
        if self.augment is not None:
            x = self.augment.light(x, self.epoch, self.position)
        self.position += 1
        return resize(x, labels, self.spec.img_sz)


def resize(x: torch.Tensor, labels: torch.Tensor, size: int) -> Batch:
    """Resize images (N, C, H, W; bilinear, antialiased) and labels (N, H, W; nearest) to `size`
    pixels, but labels (N,) are left so; these become int64. Boxes (N, M, 5) are scaled."""
    if labels.is_floating_point():
        from rastervision.fastai_backend.boxes import scaled

        return _resize_images(x, size), scaled(labels, size / x.shape[-1])
    if x.shape[-1] != size:
        x = _resize_images(x, size)
        if labels.ndim == 3:
            labels = F.interpolate(labels[:, None], size=(size, size), mode="nearest-exact")[:, 0]
    return x, labels.long()


def _resize_images(x: torch.Tensor, size: int) -> torch.Tensor:
    if x.shape[-1] == size:
        return x
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    return x.contiguous(memory_format=torch.channels_last)


def check_sources(train: ChipSource, valid: ChipSource) -> None:
    """Raise InputError where training and validation chips don't fit each other."""
    if len(valid) == 0:
        raise InputError(
            "there are no validation chips", fix="check the validation scenes and the chip options"
        )
    for what in ("channels", "dtype", "size", "label_kind"):
        a, b = getattr(train, what), getattr(valid, what)
        if a != b:
            raise InputError(f"training chips have {what} {a}, validation chips {b}")


def loaders(train: ChipLoader, valid: ChipLoader, device: torch.device) -> DataLoaders:
    """Both as fastai's Learner takes them."""
    return DataLoaders(train, valid, device=device)
