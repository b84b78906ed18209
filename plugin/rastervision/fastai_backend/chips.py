"""What a training reads: chips and their classes, whatever stores them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from rastervision.fastai_backend.boxes import padded

from rvk8s.errors import InputError

#: Pixel types that chips may have.
DTYPES = ("uint8", "uint16", "int16", "float32")
#: What labels give a class to: each pixel, the chip, or boxes in it.
LabelKind = Literal["pixels", "chip", "boxes"]
#: Raster Vision's name of the null class that it adds where a class config has none.
NULL = "null"


@dataclass(frozen=True)
class Classes:
    """The classes of a task, in the order of their ids.

    Args:
        names: the name of each class; its position is its id in labels and predictions.
        colors: a CSS name or #rrggbb for each class.
        null_id: the class of pixels without data or label, where there is one. The network has an
            output for it; whether the loss ignores it is `solver.ignore_class_index`.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    null_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise InputError(f"{len(self.names)} class names but {len(self.colors)} colors")
        if len(self.names) > 255:
            raise InputError(f"{len(self.names)} classes; at most 255 are possible")
        if self.null_id is not None and not 0 <= self.null_id < len(self.names):
            raise InputError(f"null class {self.null_id} is not one of {len(self.names)} classes")

    def __len__(self) -> int:
        return len(self.names)

    def unscored(self, ignored: int | None) -> frozenset[int]:
        """See unscored_ids()."""
        return unscored_ids(self.names, self.null_id, ignored)


def unscored_ids(names: Sequence[str], null_id: int | None, ignored: int | None) -> frozenset[int]:
    """The classes that are no truth: pixels that are labelled so are left out of all scores.

    These are the ignored class, and a null class by the name of Raster Vision's own. A null class
    of another name is scored unless it is ignored: in Raster Vision's examples of two classes it
    is the background, and without it every false alarm would go unseen.

    Args:
        names: of all classes, in the order of their ids.
        null_id: of the class config's null_class, or None.
        ignored: solver.ignore_class_index.
    """
    null = null_id if null_id is not None and names[null_id] == NULL else None
    return frozenset(i for i in (null, ignored) if i is not None)


@runtime_checkable
class ChipSource(Protocol):
    """Labelled chips of one size, read in batches.

    Attributes:
        size: width and height of a chip, pixels.
        channels: bands of a chip.
        dtype: pixel type of the images, one of DTYPES.
        label_kind: what its labels are.
        counted: whether class_pixels() is at hand; where not, it may read the labels of all chips.
    """

    size: int
    channels: int
    dtype: np.dtype
    label_kind: LabelKind
    counted: bool

    def __len__(self) -> int:
        """How many chips there are in an epoch."""
        ...

    def read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the chips at the given positions, in the order given; positions may repeat.

        Args:
            indices: (N,) integers in [0, len).
            epoch: sources that draw windows at random draw those of (epoch, index), so that the
                same call gives the same chips again; stored chips don't depend on it.

        Returns:
            Images (N, size, size, channels) of `dtype` and labels: (N, size, size) uint8 for each
            pixel, (N,) uint8 for the chip, or (N, M, 5) float32, as boxes.py holds boxes.
        """
        ...

    def class_pixels(self) -> np.ndarray | None:
        """Labelled pixels, or boxes, by chip and class, (len, classes) int64: one in all for a chip
        that has one class. None where every epoch has other chips.

        Oversampling and balanced class weights read this, so they don't read every chip.
        """
        ...


class ArrayChips:
    """Chips in memory (or in memory-mapped arrays).

    Args:
        images: (N, size, size, channels), one of DTYPES.
        labels: as ChipSource.read gives them.
        num_classes: how many classes `class_pixels` counts.
    """

    counted = True

    def __init__(self, images: np.ndarray, labels: np.ndarray, num_classes: int):
        kinds: dict[int, LabelKind] = {1: "chip", 3: "pixels"}
        self.label_kind = "boxes" if labels.dtype.kind == "f" else kinds[labels.ndim]
        fits = self.label_kind != "pixels" or labels.shape == images.shape[:3]
        if not fits or len(labels) != len(images) or images.shape[1] != images.shape[2]:
            raise InputError(f"images {images.shape} and labels {labels.shape} don't fit")
        self.images, self.labels, self.num_classes = images, labels, num_classes
        self.size, self.channels = images.shape[1], images.shape[3]
        self.dtype = images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[indices], self.labels[indices]

    def class_pixels(self) -> np.ndarray:
        return count_classes(self.labels, self.num_classes)


class SubsetChips:
    """Some of the chips of another source, by position."""

    def __init__(self, source: ChipSource, indices: np.ndarray):
        self.source, self.indices = source, indices
        self.size, self.channels, self.dtype = source.size, source.channels, source.dtype
        self.label_kind, self.counted = source.label_kind, source.counted

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source.read(self.indices[indices], epoch)

    def class_pixels(self) -> np.ndarray | None:
        counts = self.source.class_pixels()
        return None if counts is None else counts[self.indices]


def stacked(labels: Sequence[np.ndarray], kind: LabelKind) -> np.ndarray:
    """Labels of several chips as ChipSource.read gives them."""
    if kind != "boxes":
        return np.stack(labels) if labels else np.zeros((0,), np.uint8)
    return padded(labels)


def count_classes(labels: np.ndarray | Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """Pixels, or boxes, of each class in each chip.

    Args:
        labels: as ChipSource.read gives them, or for each chip its own.
        num_classes: ids from this number on are counted for no class.

    Returns:
        (N, num_classes) int64.
    """
    counts = [np.bincount(_ids(chip), minlength=256)[:num_classes] for chip in labels]
    return np.stack(counts).astype(np.int64) if counts else np.zeros((0, num_classes), np.int64)


def _ids(labels: np.ndarray) -> np.ndarray:
    """All class ids of a chip's labels."""
    if labels.ndim == 2 and labels.dtype.kind == "f":
        return labels[labels[:, 4] >= 0, 4].astype(np.int64)  # boxes.NO_BOX is none
    return np.ravel(labels)


def class_pixels(source: ChipSource, num_classes: int, batch: int = 64) -> np.ndarray:
    """`source.class_pixels()`, or the same counted by reading every chip of epoch 0 once."""
    counts = source.class_pixels()
    if counts is not None:
        return counts
    parts: Sequence[np.ndarray] = [
        count_classes(source.read(indices, 0)[1], num_classes)
        for indices in _batches(np.arange(len(source)), batch)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, num_classes), np.int64)


def labels_digest(source: ChipSource) -> str | None:
    """Tells whether chips have other labels than before.

    It is of the pixels, or boxes, of each class in each chip: labels that only move within a chip
    are not noticed. None where every epoch has other chips, and where they would have to be read:
    one rank asks, at every start, while the others wait for it.
    """
    counts = source.class_pixels() if source.counted else None
    if counts is None:
        return None
    return hashlib.sha256(counts.astype("<i8").tobytes()).hexdigest()[:12]


def band_statistics(
    source: ChipSource, max_chips: int = 500, batch: int = 16
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each band over the chips, in the bands' own units.

    Pixels whose bands are all 0 (no data, by Raster Vision's convention) and such that aren't
    finite are left out. Chips beyond `max_chips` aren't read: evenly spaced ones stand for all.

    Returns:
        (means, deviations), a number for each band. A band without any variation gets 1 as its
        deviation, so that dividing by it is harmless.
    """
    n = len(source)
    chosen = np.unique(np.linspace(0, n - 1, min(n, max_chips)).round().astype(np.int64))
    count = 0
    total = np.zeros(source.channels)
    squares = np.zeros(source.channels)
    for indices in _batches(chosen, batch):
        pixels = source.read(indices, 0)[0].reshape(-1, source.channels)
        keep = pixels.any(axis=1) & np.isfinite(pixels).all(axis=1)
        pixels = pixels[keep].astype(np.float64)
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += np.einsum("pc,pc->c", pixels, pixels)
    if count == 0:
        raise InputError(
            "every pixel of the training chips is 0", fix="check the scenes' rasters and bands"
        )
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation[deviation <= 1e-6 * np.maximum(1, np.abs(mean))] = 1.0
    return tuple(mean.tolist()), tuple(deviation.tolist())


def scale_of(dtype: np.dtype) -> float:
    """The value that stands for full brightness: the type's maximum, 1 for floats."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


class HasFormat(Protocol):
    """A scene, as far as common_format() must know it; see windows.SceneReader."""

    id: str
    channels: int
    dtype: np.dtype


def common_format(scenes: Sequence[HasFormat]) -> tuple[int, np.dtype]:
    """Bands and pixel type that all scenes have.

    Raises:
        InputError: they differ; names two scenes.
    """
    if not scenes:
        raise InputError("there is no scene", fix="check the dataset's scenes")
    first = scenes[0]
    for s in scenes[1:]:
        if (s.channels, s.dtype) != (first.channels, first.dtype):
            raise InputError(
                f"scene {first.id} has {first.channels} bands of {first.dtype}, "
                f"scene {s.id} has {s.channels} of {s.dtype}",
                fix="set channel_order, or add a CastTransformerConfig",
            )
    return first.channels, first.dtype


def _batches(indices: np.ndarray, batch: int) -> list[np.ndarray]:
    return [indices[i : i + batch] for i in range(0, len(indices), batch)]
