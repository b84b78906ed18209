"""Windows of scenes: where they lie, how they are read, and chips read from them without a store.

Nothing here knows Raster Vision: backend/scenes.py gives its scenes the face of SceneReader. torch
is imported where a chip is resized: many chip stages do without.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from rastervision.fastai_backend.chips import (
    DTYPES,
    LabelKind,
    common_format,
    count_classes,
    stacked,
)
from rastervision.fastai_backend.store import check_ids

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Rows of windows are read as one strip of at most this many bytes.
_STRIP_BYTES = 64 << 20
_RANDOM_WINDOWS = 7  # first word of the generator's seed, so that it is no other generator's


class Window(NamedTuple):
    """A rectangle of a scene, in pixels; it may reach over the scene's edges."""

    ymin: int
    xmin: int
    ymax: int
    xmax: int

    @property
    def height(self) -> int:
        return self.ymax - self.ymin

    @property
    def width(self) -> int:
        return self.xmax - self.xmin


class SceneReader(Protocol):
    """An open scene.

    Attributes:
        id: name of the scene.
        height, width: pixels.
        channels: bands of an image.
        dtype: pixel type of an image, one of chips.DTYPES.
        image_in_strips, labels_in_strips: whether a pixel has the same value in whatever window
            it is read, so that several windows may be read as one.
        label_kind: what its labels are.
    """

    id: str
    height: int
    width: int
    channels: int
    dtype: np.dtype
    label_kind: LabelKind
    image_in_strips: bool
    labels_in_strips: bool

    def image(self, window: Window) -> np.ndarray:
        """(height, width, channels) of `dtype`; 0 beyond the scene's edges."""
        ...

    def labels(self, window: Window) -> np.ndarray:
        """(height, width) uint8; beyond the scene's edges the null class, if there is one.

        Of shape () where a window has one class; boxes in it (M, 5) float32, as boxes.py says.
        """
        ...


def chip_dtype(dtype: np.dtype) -> np.dtype:
    """The chips' pixel type for a raster's: itself, or the narrowest of DTYPES that holds it."""
    if str(dtype) in DTYPES:
        return np.dtype(dtype)
    for name in ("uint8", "int16", "uint16"):
        if np.can_cast(dtype, name):
            return np.dtype(name)
    return np.dtype("float32")


class RowReader:
    """Reads windows, a row of them at a time where that gives the same pixels.

    A raster's blocks are decoded once for a row of windows, not once for every window.

    Args:
        read: reads a window.
        windows: what will be asked for, in this order.
        pixel_bytes: size of a pixel with all its bands.
        in_strips: whether a pixel has the same value in whatever window it is read.
    """

    def __init__(
        self,
        read: Callable[[Window], np.ndarray],
        windows: Sequence[Window],
        pixel_bytes: int,
        in_strips: bool,
    ):
        self._read, self._windows = read, windows
        self._pixel_bytes, self._in_strips = pixel_bytes, in_strips

    def __iter__(self) -> Iterator[np.ndarray]:
        """The windows' pixels, (height, width, ...) each; may be views of a larger array."""
        for start, stop in self._runs():
            run = self._windows[start:stop]
            if len(run) == 1:
                yield self._read(run[0])
                continue
            left, right = min(w.xmin for w in run), max(w.xmax for w in run)
            strip = self._read(Window(run[0].ymin, left, run[0].ymax, right))
            for w in run:
                yield strip[:, w.xmin - left : w.xmax - left]

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Stretches of windows to read together."""
        start = 0
        for i in range(1, len(self._windows) + 1):
            if i == len(self._windows) or not self._joins(self._windows[start : i + 1]):
                yield start, i
                start = i

    def _joins(self, run: Sequence[Window]) -> bool:
        first, last = run[0], run[-1]
        width = max(first.xmax, last.xmax) - min(first.xmin, last.xmin)
        return (
            self._in_strips
            and (last.ymin, last.ymax) == (first.ymin, first.ymax)
            # Windows that lie apart would make us read what nobody wants.
            and run[-2].xmin < last.xmin <= run[-2].xmax
            and width * first.height * self._pixel_bytes <= _STRIP_BYTES
        )


def fit(image: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize a chip (height, width, channels; bilinear, antialiased) and its labels (height,
    width; nearest) to size x size pixels, keeping their types; a class of the chip stays, and
    boxes are scaled."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image, labels
    from rastervision.fastai_backend.tensors import resized

    if labels.dtype.kind == "f":  # boxes
        factors = (size / height, size / width, size / height, size / width, 1)
        return resized(image, size), labels * np.array(factors, np.float32)
    return resized(image, size), fit_labels(labels, size)


def fit_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """The labels of fit() alone, as far as they are counted: boxes are not scaled."""
    if labels.dtype.kind == "f" or labels.shape in ((), (size, size)):
        return labels
    from rastervision.fastai_backend.tensors import resized_labels

    return resized_labels(labels, size)


@dataclass(frozen=True)
class RandomWindows:
    """Windows drawn anywhere in a scene; a function of (seed, scene, epoch, index).

    Args:
        scene_id: name of the scene.
        height, width: of the scene, pixels.
        heights, widths: the windows' sides are drawn from [low, high).
        square: width and height are one draw, from `heights`.
        padding: pixels by which windows may reach over the edges: (rows, columns).
        count: windows in an epoch.
        inside: whether a window may be taken; None if all may.
        corners: boxes, none over another, that hold the upper left corners of all windows that
            may be taken; None if those may lie anywhere.
        wanted, advice: what `inside` asks for, and what to do where nothing is found.
        attempts: draws until `inside` must have said yes.
        seed: of the draws.
    """

    scene_id: str
    height: int
    width: int
    heights: tuple[int, int]
    widths: tuple[int, int]
    square: bool
    padding: tuple[int, int]
    count: int
    inside: Callable[[Window], bool] | None = None
    corners: tuple[Window, ...] | None = None
    wanted: str = "in its area of interest"
    advice: str = "use smaller windows, larger areas, or a larger max_sample_attempts"
    attempts: int = 100
    seed: int = 0

    def draw(self, epoch: int, index: int, redraw: int = 0) -> Window:
        """The window of an index; `redraw` gives others for the same one.

        Raises:
            InputError: windows are larger than the scene, or none was found that may be taken.
        """
        name = zlib.crc32(self.scene_id.encode())
        rng = np.random.default_rng([_RANDOM_WINDOWS, self.seed, name, epoch, index, redraw])
        for _ in range(self.attempts):
            window = self._any(rng)
            if window is not None and (self.inside is None or self.inside(window)):
                return window
        raise InputError(
            f"no window of scene {self.scene_id} was found {self.wanted} in {self.attempts} "
            "attempts",
            fix=self.advice,
        )

    def _any(self, rng: np.random.Generator) -> Window | None:
        """A window; None if it would reach too far over the edges."""
        h = int(rng.integers(*self.heights))
        w = h if self.square else int(rng.integers(*self.widths))
        rows, cols = self.padding
        if self.corners is not None:
            y, x = self._corner(rng)
            fits = y + h <= self.height + rows and x + w <= self.width + cols
            return Window(y, x, y + h, x + w) if fits else None
        if self.height + 2 * rows < h or self.width + 2 * cols < w:
            raise InputError(
                f"windows of {h}x{w} pixels don't fit into scene {self.scene_id} "
                f"({self.height}x{self.width})",
                fix="use smaller windows, or set sampling.padding",
            )
        y = int(rng.integers(-rows, self.height + rows - h + 1))
        x = int(rng.integers(-cols, self.width + cols - w + 1))
        return Window(y, x, y + h, x + w)

    def _corner(self, rng: np.random.Generator) -> tuple[int, int]:
        """A pixel of `corners`, each as likely as any other."""
        assert self.corners is not None
        k = int(rng.integers(self._ends[-1]))
        number = int(np.searchsorted(self._ends, k, side="right"))
        b = self.corners[number]
        row, column = divmod(int(self._ends[number]) - 1 - k, b.width)
        return b.ymin + row, b.xmin + column

    @cached_property
    def _ends(self) -> np.ndarray:
        """Pixels in `corners` up to each box, (boxes,) int64."""
        return np.cumsum([b.height * b.width for b in self.corners or ()], dtype=np.int64)


@dataclass(frozen=True)
class SceneWindows:
    """A scene and the windows to read from it.

    Args:
        id: name of the scene.
        open: opens it; called once in every process that reads.
        windows: fixed ones, or how they are drawn.
    """

    id: str
    open: Callable[[], SceneReader]
    windows: Sequence[Window] | RandomWindows

    def __len__(self) -> int:
        return self.windows.count if isinstance(self.windows, RandomWindows) else len(self.windows)

    def window(self, epoch: int, index: int, redraw: int = 0) -> Window:
        if isinstance(self.windows, RandomWindows):
            return self.windows.draw(epoch, index, redraw)
        return self.windows[index]


class WindowChips:
    """A ChipSource that reads windows of scenes when they are asked for.

    Args:
        scenes: in the order of the chips.
        size: chips are resized to this many pixels.
        num_classes: ids of labels lie below.
        keep: whether a chip (image, labels; resized) is used. Fixed windows are looked at once,
            when the source is made; random ones are drawn again.
        fixed: draw the windows of epoch 0 in every epoch (for validation).

    Raises:
        InputError: scenes have different bands or pixel types, or there is no window.
    """

    counted = False

    def __init__(
        self,
        scenes: Sequence[SceneWindows],
        size: int,
        num_classes: int,
        *,
        keep: Callable[[np.ndarray, np.ndarray], bool] | None = None,
        fixed: bool = False,
    ):
        self._readers: dict[str, SceneReader] = {}
        self._pid = os.getpid()
        self.size, self.num_classes = size, num_classes
        self._keep, self._fixed = keep, fixed
        self._scenes = list(scenes)
        readers = [self._reader(s) for s in scenes]
        self.channels, self.dtype = common_format(readers)
        self.label_kind = readers[0].label_kind
        self._counts: np.ndarray | None = None
        if keep is not None:
            self._drop_windows(keep)
        self._ends = np.cumsum([len(s) for s in self._scenes])
        if not len(self):
            raise InputError("there is no window to read", fix="check sampling and the scenes")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """See ChipSource."""
        n = len(indices)
        images = np.empty((n, self.size, self.size, self.channels), self.dtype)
        labels: list[np.ndarray] = []
        for k, index in enumerate(indices):
            images[k], label = self._chip(int(index), 0 if self._fixed else epoch)
            labels.append(label)
        return images, stacked(labels, self.label_kind)

    def class_pixels(self) -> np.ndarray | None:
        """(len, classes) int64 of fixed windows; None for random ones, which change."""
        if any(isinstance(s.windows, RandomWindows) for s in self._scenes):
            return None
        if self._counts is None:
            self._counts = np.concatenate([self._count(s) for s in self._scenes])
        return self._counts

    def _chip(self, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        scene = self._scenes[number]
        local = index - (int(self._ends[number - 1]) if number else 0)
        reader = self._reader(scene)
        # Fixed windows were looked at when this was made.
        keep = self._keep if isinstance(scene.windows, RandomWindows) else None
        attempts = scene.windows.attempts if isinstance(scene.windows, RandomWindows) else 1
        for redraw in range(attempts):
            window = scene.window(epoch, local, redraw)
            image, labels = fit(reader.image(window), reader.labels(window), self.size)
            if keep is None or keep(image, labels):
                break
        else:
            raise InputError(
                f"{attempts} windows of scene {scene.id} in a row were dropped for their pixels",
                fix="raise chip_options.nodata_threshold or leave the scene out",
            )
        check_ids(labels, self.num_classes, scene.id)
        return image, labels

    def _reader(self, scene: SceneWindows) -> SceneReader:
        if self._pid != os.getpid():  # open rasters don't survive a fork
            self._readers, self._pid = {}, os.getpid()
        if scene.id not in self._readers:
            self._readers[scene.id] = scene.open()
        return self._readers[scene.id]

    def _drop_windows(self, keep: Callable[[np.ndarray, np.ndarray], bool]) -> None:
        for i, scene in enumerate(self._scenes):
            if isinstance(scene.windows, RandomWindows):
                continue
            chips = read_windows(self._reader(scene), scene.windows)
            kept = [w for w, image, labels in chips if keep(*fit(image, labels, self.size))]
            log.info("scene %s: %d of %d windows are used", scene.id, len(kept), len(scene))
            self._scenes[i] = SceneWindows(scene.id, scene.open, kept)

    def _count(self, scene: SceneWindows) -> np.ndarray:
        windows = [scene.window(0, i) for i in range(len(scene))]
        reader = self._reader(scene)
        rows = RowReader(reader.labels, windows, 1, reader.labels_in_strips)
        chips = (fit_labels(labels, self.size) for labels in rows)
        counts = [count_classes(chip[None], self.num_classes) for chip in chips]
        return np.concatenate([np.zeros((0, self.num_classes), np.int64), *counts])


def read_windows(
    scene: SceneReader, windows: Sequence[Window]
) -> Iterator[tuple[Window, np.ndarray, np.ndarray]]:
    """Each window with its image and its labels."""
    pixel = scene.channels * scene.dtype.itemsize
    images = RowReader(scene.image, windows, pixel, scene.image_in_strips)
    labels = RowReader(scene.labels, windows, 1, scene.labels_in_strips)
    return zip(windows, images, labels, strict=True)
