"""The chip store: chips of many scenes in a few memory-mapped files.

A chip job writes one part for each group of scenes (train, valid): a folder with

    index.json        what it holds; written last, so a part without it does not count
    images.raw        (N, size, size, channels) in the images' own pixel type
    labels.raw        (N, size, size) uint8 class ids; (N,) where a chip has one class; of boxes
                      (all of them, 5) float32, chip after chip, as boxes.py says
    box_ends.npy      of boxes: (N,) int64, how many there are up to the end of each chip
    class_pixels.npy  (N, classes) int64, pixels of each class in each chip
    windows.npy       (N, 4) int32, ymin, xmin, ymax, xmax in the scene's pixels

A part's name says which scenes of the group it covers: `train-0000-0010-of-0020`. So a job that is
started again replaces its own part, another number of splits replaces the parts that it overlaps,
and a reader can tell whether all scenes are there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from rastervision.fastai_backend.chips import DTYPES, LabelKind, count_classes, stacked

from rvk8s.contract import to_json
from rvk8s.errors import InputError

_INDEX = "index.json"
_FORMAT = 1
_BOX_ENDS = "box_ends.npy"


@dataclass(frozen=True)
class Part:
    """Scenes [start, stop) of the `total` scenes of a group."""

    group: str
    start: int
    stop: int
    total: int

    @property
    def name(self) -> str:
        return f"{self.group}-{self.start:04d}-{self.stop:04d}-of-{self.total:04d}"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """The part of a folder's name; None if it is no part's."""
        m = re.fullmatch(r"([a-z]+)-(\d{4,})-(\d{4,})-of-(\d{4,})", name)
        return cls(m[1], int(m[2]), int(m[3]), int(m[4])) if m else None

    def replaces(self, other: Part) -> bool:
        """Whether `other` holds chips of the same scenes, or of another list of scenes."""
        if self.group != other.group or self == other:
            return False
        return self.total != other.total or (self.start < other.stop and other.start < self.stop)


@dataclass(frozen=True)
class ChipFormat:
    """What all chips of a store have in common.

    Args:
        size: width and height, pixels.
        channels: bands.
        dtype: pixel type, one of chips.DTYPES.
        num_classes: ids of labels lie below.
        label_kind: what the labels are.
    """

    size: int
    channels: int
    dtype: str
    num_classes: int
    label_kind: LabelKind = "pixels"

    def takes(self, label: np.ndarray) -> bool:
        """Whether this is a chip's label."""
        if self.label_kind == "boxes":
            return label.dtype == np.float32 and label.ndim == 2 and label.shape[1] == 5
        shape = () if self.label_kind == "chip" else (self.size, self.size)
        return label.dtype == np.uint8 and label.shape == shape


class ChipWriter:
    """Writes one part, whole or not at all.

    A context manager: chips go to a temporary folder beside the part, which takes the part's place
    when the block ends, and is removed when it ends with an error.

    Args:
        store: local folder of the store; made if missing.
        part: which scenes are written.
        chips: format of the chips.
    """

    def __init__(self, store: Path, part: Part, chips: ChipFormat):
        if chips.dtype not in DTYPES:
            raise InputError(
                f"pixel type {chips.dtype}; chips can be {', '.join(DTYPES)}",
                fix="add a CastTransformerConfig to the raster source",
            )
        self.part, self.format = part, chips
        self.folder = store / part.name
        self._temporary = store / f".{part.name}.partial"
        self._scenes: list[dict[str, Any]] = []
        self._class_pixels: list[np.ndarray] = []
        self._windows: list[np.ndarray] = []
        self._boxes: list[int] = []
        self.count = 0

    def __enter__(self) -> ChipWriter:
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._images: BinaryIO = (self._temporary / "images.raw").open("wb")
        self._labels: BinaryIO = (self._temporary / "labels.raw").open("wb")
        return self

    def start_scene(self, scene_id: str) -> None:
        """The chips that follow are this scene's."""
        self._scenes.append({"id": scene_id, "first": self.count, "count": 0})

    def add(self, image: np.ndarray, label: np.ndarray, window: Sequence[int]) -> None:
        """Append a chip.

        Args:
            image: (size, size, channels) of the store's pixel type.
            label: (size, size) uint8; of shape () where a chip has one class; boxes (M, 5) float32.
            window: ymin, xmin, ymax, xmax of the chip in the scene, pixels.

        Raises:
            InputError: the label holds a class id that no class has.
        """
        f = self.format
        if image.shape != (f.size, f.size, f.channels) or image.dtype != f.dtype:
            raise ValueError(f"chip is {image.shape} {image.dtype}, the store's are {f}")
        if not f.takes(label):
            raise ValueError(f"label is {label.shape} {label.dtype}, the store's are {f}")
        check_ids(label, f.num_classes, self._scenes[-1]["id"])
        self._images.write(np.ascontiguousarray(image).data)
        self._labels.write(np.ascontiguousarray(label).data)
        self._class_pixels.append(count_classes(label[None], f.num_classes))
        self._windows.append(np.asarray(window, np.int32)[None])
        self._boxes.append(len(label) if f.label_kind == "boxes" else 0)
        self._scenes[-1]["count"] += 1
        self.count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._images.close()
        self._labels.close()
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        self._commit()

    def _commit(self) -> None:
        no_pixels = np.zeros((0, self.format.num_classes), np.int64)
        no_windows = np.zeros((0, 4), np.int32)
        np.save(
            self._temporary / "class_pixels.npy", np.concatenate([no_pixels, *self._class_pixels])
        )
        np.save(self._temporary / "windows.npy", np.concatenate([no_windows, *self._windows]))
        if self.format.label_kind == "boxes":
            np.save(self._temporary / _BOX_ENDS, np.cumsum(self._boxes, dtype=np.int64))
        index = {
            "format": _FORMAT,
            "group": self.part.group,
            "count": self.count,
            "size": self.format.size,
            "channels": self.format.channels,
            "dtype": self.format.dtype,
            "numClasses": self.format.num_classes,
            "labels": self.format.label_kind,
            "scenes": self._scenes,
        }
        (self._temporary / _INDEX).write_bytes(to_json(index))
        for other in self.folder.parent.iterdir():
            old = Part.parse(other.name)
            if old is not None and (old == self.part or self.part.replaces(old)):
                shutil.rmtree(other)
        os.replace(self._temporary, self.folder)


class StoredChips:
    """All chips of a group of scenes: a ChipSource that maps the parts' files into memory.

    Args:
        store: local folder of the store.
        group: "train" or "valid".
        scene_ids: the group's scenes, in the order of the pipeline config.

    Raises:
        InputError: chips of a scene are missing, files are damaged, or parts don't fit together.
    """

    counted = True

    def __init__(self, store: Path, group: str, scene_ids: Sequence[str]):
        folders = part_folders(store, group, len(scene_ids))
        indexes = [_read_index(folder) for folder in folders]
        found = [scene["id"] for index in indexes for scene in index["scenes"]]
        if found != list(scene_ids):
            raise _incomplete(store, group, sorted(set(scene_ids) - set(found)))
        formats = {_format(index) for index in indexes}
        if len(formats) != 1:
            raise InputError(
                f"the parts of {group} hold chips of different formats: "
                + "; ".join(sorted(map(str, formats))),
                where=str(store),
                fix="give all scenes equal bands and pixel types, and chip all of them again",
            )
        self.format = formats.pop()
        self.size, self.channels = self.format.size, self.format.channels
        self.dtype, self.label_kind = np.dtype(self.format.dtype), self.format.label_kind
        self._ends = np.cumsum([index["count"] for index in indexes])
        self._images, self._labels, pixels = [], [], []
        for folder, index in zip(folders, indexes, strict=True):
            images, labels, counts = _map(folder, index, self.format)
            self._images.append(images)
            self._labels.append(labels)
            pixels.append(counts)
        self._class_pixels = np.concatenate(pixels)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The chips at `indices`, as ChipSource says.

        One copy of each chip, from the mapped file into the batch.
        """
        n, size = len(indices), self.size
        images = np.empty((n, size, size, self.channels), self.dtype)
        labels: list[np.ndarray] = []
        parts = np.searchsorted(self._ends, indices, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        for k, (part, index) in enumerate(zip(parts, indices - starts[parts], strict=True)):
            images[k] = self._images[part][index]
            labels.append(self._labels[part][index])
        return images, stacked(labels, self.label_kind)

    def class_pixels(self) -> np.ndarray:
        """(len, classes) int64, counted when the chips were written."""
        return self._class_pixels


class _Ragged:
    """Boxes of chips, chip after chip."""

    def __init__(self, boxes: np.ndarray, ends: np.ndarray):
        self._boxes, self._ends = boxes, ends

    def __getitem__(self, index: int) -> np.ndarray:
        """Boxes (M, 5) of a chip."""
        start = self._ends[index - 1] if index else 0
        return self._boxes[start : self._ends[index]]


def check_ids(labels: np.ndarray, num_classes: int, scene_id: str) -> None:
    """Raise InputError where labels hold an id that no class has."""
    ids = labels[:, 4] if labels.dtype.kind == "f" else labels
    if ids.size and (highest := int(ids.max())) >= num_classes:
        raise InputError(
            f"scene {scene_id} has the label id {highest}, but there are only "
            f"{num_classes} classes",
            fix="add the class to class_config, or map the ids with a transformer",
        )


def part_folders(store: Path, group: str, total: int) -> list[Path]:
    """The parts' folders that cover all `total` scenes of a group, in the scenes' order.

    Raises:
        InputError: there is no such set of parts.
    """
    names = sorted(p.name for p in store.iterdir()) if store.is_dir() else []
    parts = [part for name in names if (part := Part.parse(name)) is not None]
    parts = sorted(
        (p for p in parts if p.group == group and p.total == total), key=lambda p: p.start
    )
    edges = [0, *(p.stop for p in parts)]
    if [p.start for p in parts] != edges[:-1] or edges[-1] != total or not total:
        raise _incomplete(store, group, [])
    return [store / p.name for p in parts]


def _incomplete(store: Path, group: str, missing: list[str]) -> InputError:
    which = f"of scenes {', '.join(missing)} " if missing else ""
    return InputError(
        f"the {group} chips {which}in {store} are missing or belong to other scenes",
        fix="run the chip stage again: --rerun chip",
    )


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        if index["format"] != _FORMAT:
            raise _damaged(folder, f"format {index['format']}, this version reads {_FORMAT}")
        return index
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise _damaged(folder, "index.json can't be read") from e


def _format(index: dict[str, Any]) -> ChipFormat:
    kind = index.get("labels", "pixels")  # older stores say nothing
    numbers = index["size"], index["channels"], index["dtype"], index["numClasses"]
    return ChipFormat(*numbers, kind)


def _map(
    folder: Path, index: dict[str, Any], chips: ChipFormat
) -> tuple[np.ndarray, np.ndarray | _Ragged, np.ndarray]:
    """Images and labels, memory-mapped, and class_pixels of a part."""
    n, size = index["count"], chips.size
    pixels = np.load(folder / "class_pixels.npy")
    images = _memmap(folder / "images.raw", chips.dtype, (n, size, size, chips.channels))
    if chips.label_kind == "boxes":
        ends = np.load(folder / _BOX_ENDS)
        total = int(ends[-1]) if len(ends) else 0
        boxes = _memmap(folder / "labels.raw", "float32", (total, 5))
        return images, _Ragged(boxes, ends), pixels
    shape = (n,) if chips.label_kind == "chip" else (n, size, size)
    labels = _memmap(folder / "labels.raw", "uint8", shape)
    return images, labels, pixels


def _memmap(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    size = path.stat().st_size if path.exists() else -1
    if size != wanted:
        raise _damaged(path.parent, f"{path.name} has {max(size, 0)} bytes, not {wanted}")
    if wanted == 0:  # the system maps no empty file
        return np.zeros(shape, dtype)
    # Plain ndarrays: slices of numpy's memmap class cost 10 times more to make.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)).view(np.ndarray)


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(
        f"damaged chips: {what}", where=str(folder), fix="run the chip stage again: --rerun chip"
    )
