"""Scenes with objects in boxes, and windows that are drawn around these, as Raster Vision does."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from rastervision.core.box import Box
from rastervision.core.data import ObjectDetectionLabels
from rastervision.core.rv_pipeline import ObjectDetectionWindowSamplingConfig
from rastervision.fastai_backend.backend.scenes import RasterVisionScene, Windows
from rastervision.fastai_backend.chips import LabelKind
from rastervision.fastai_backend.windows import RandomWindows, Window

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ObjectDetectionLabelSource, Scene
    from rastervision.core.rv_pipeline import WindowSamplingConfig

_OBJECT_WINDOWS = 8  # first word of the generator's seed, so that it is no other generator's


class DetectedScene(RasterVisionScene):
    """A Raster Vision scene as a SceneReader, with boxes in each window.

    Of the sampling count ioa_thresh and clip, for sliding windows too: Raster Vision 0.31 looks at
    them for random ones only, and takes each box for one that a window touches.
    """

    label_kind: LabelKind = "boxes"

    def __init__(self, scene: Scene, sampling: WindowSamplingConfig | None = None):
        super().__init__(scene, sampling)
        self.labels_in_strips = False
        self._sampling = (
            sampling if isinstance(sampling, ObjectDetectionWindowSamplingConfig) else None
        )

    def labels(self, window: Window) -> np.ndarray:
        """The boxes of a window, (M, 5) float32 as boxes.py holds them.

        Raises:
            InputError: the scene has no label source.
        """
        source: ObjectDetectionLabelSource = self.label_source()
        sampling = self._sampling
        if sampling is not None:
            source.ioa_thresh, source.clip = sampling.ioa_thresh, sampling.clip
        found, ids, _ = source[Box(*window)]
        there = ((found[:, 2:] - found[:, :2]) > 0).all(1)
        return np.column_stack([found[there], ids[there]]).astype(np.float32).reshape(-1, 5)

    def labelled(self, windows: Windows) -> Windows:
        """The windows; random ones with and without objects as sampling.neg_ratio says."""
        sampling = self._sampling
        if not isinstance(windows, RandomWindows) or sampling is None:
            return windows
        if sampling.neg_ratio is None:
            return windows
        source: ObjectDetectionLabelSource = self.label_source()
        labels = source.get_labels()
        if self.scene.aoi_polygons:
            labels = labels.filter_by_aoi(self.scene.aoi_polygons)
        place, least = source.bbox, sampling.neg_ioa_thresh
        objects = ObjectDetectionLabels.global_to_local(labels.get_npboxes(), place)
        sides = np.ceil(objects[:, 2:]) - np.floor(objects[:, :2])
        largest = windows.heights[1] - 1, windows.widths[1] - 1
        objects = objects[(sides <= largest).all(1)]
        if not len(objects):
            height, width = largest
            raise InputError(
                f"scene {self.id} has no object that windows of {height} x {width} could be drawn "
                "around",
                fix="use larger windows, or leave out sampling.neg_ratio or the scene",
            )

        def is_empty(window: Window) -> bool:
            box = Box(*window).to_global_coords(place)
            return not len(ObjectDetectionLabels.get_overlapping(labels, box, ioa_thresh=least))

        return ObjectWindows(
            **{f.name: getattr(windows, f.name) for f in fields(RandomWindows)},
            objects=objects,
            empty_share=sampling.neg_ratio / (sampling.neg_ratio + 1),
            is_empty=is_empty,
        )


@dataclass(frozen=True, kw_only=True)
class ObjectWindows(RandomWindows):
    """Random windows, some of them around an object, the others empty.

    Args:
        objects: (M, 4) ymin, xmin, ymax, xmax, pixels of the scene.
        empty_share: how often a window shall be empty.
        is_empty: whether a window is.
    """

    objects: np.ndarray
    empty_share: float
    is_empty: Callable[[Window], bool]

    def draw(self, epoch: int, index: int, redraw: int = 0) -> Window:
        """As RandomWindows; where no empty window is found, one that is not.

        Raises:
            InputError: an object is larger than any window, or none around it may be taken.
        """
        name = zlib.crc32(self.scene_id.encode())
        rng = np.random.default_rng([_OBJECT_WINDOWS, self.seed, name, epoch, index, redraw])
        if rng.random() < self.empty_share:
            return self._empty(epoch, index, redraw)
        for _ in range(self.attempts):
            window = self._around(self.objects[rng.integers(len(self.objects))], rng)
            if window is not None and (self.inside is None or self.inside(window)):
                return window
        raise InputError(
            f"no window of scene {self.scene_id} was found around its objects in {self.attempts} "
            "attempts",
            fix="use larger windows, larger areas of interest, or a larger max_sample_attempts",
        )

    def _empty(self, epoch: int, index: int, redraw: int) -> Window:
        for attempt in range(self.attempts):
            window = super().draw(epoch, index, redraw * self.attempts + attempt)
            if self.is_empty(window):
                break
        return window

    def _around(self, place: np.ndarray, rng: np.random.Generator) -> Window | None:
        """A window that holds a whole object; None if the one drawn is too small for it."""
        h = int(rng.integers(*self.heights))
        w = h if self.square else int(rng.integers(*self.widths))
        ymin, xmin = np.floor(place[:2]).astype(int)
        ymax, xmax = np.ceil(place[2:]).astype(int)
        if ymax - ymin > h or xmax - xmin > w:
            return None
        y = _start(rng, ymin, ymax, h, self.padding[0], self.height)
        x = _start(rng, xmin, xmax, w, self.padding[1], self.width)
        return Window(y, x, y + h, x + w)


def _start(
    rng: np.random.Generator, low: int, high: int, side: int, padding: int, size: int
) -> int:
    """Where a window of `side` pixels begins that holds [low, high), and lies in a scene of `size`
    pixels with its padding if it can."""
    first, last = max(high - side, -padding), min(low, size + padding - side)
    if first > last:
        first, last = high - side, low
    return int(rng.integers(first, last + 1))
