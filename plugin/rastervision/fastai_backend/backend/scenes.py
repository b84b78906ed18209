"""Raster Vision's scenes, sampling configs and class configs as the training core takes them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from rastervision.core.box import Box
from rastervision.core.data import (
    CastTransformer,
    NanTransformer,
    RasterioSource,
    ReclassTransformer,
    RGBClassTransformer,
    StatsTransformer,
)
from rastervision.core.rv_pipeline.chip_options import WindowSamplingConfig, WindowSamplingMethod
from rastervision.core.utils.misc import calculate_required_padding, ensure_tuple
from rastervision.fastai_backend.areas import Area
from rastervision.fastai_backend.chips import Classes, LabelKind
from rastervision.fastai_backend.windows import RandomWindows, Window, chip_dtype

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig, RasterSource, Scene
    from rastervision.core.rv_pipeline import (
        ChipOptions,
        PredictOptions,
        SemanticSegmentationPredictOptions,
    )

#: Raster Vision's transformers that look at each pixel by itself. MinMaxTransformer does not.
_PIXELWISE = (
    CastTransformer,
    NanTransformer,
    ReclassTransformer,
    RGBClassTransformer,
    StatsTransformer,
)
Keep: TypeAlias = Callable[[np.ndarray, np.ndarray], bool]
Sampling: TypeAlias = WindowSamplingConfig | dict[str, WindowSamplingConfig]
Windows: TypeAlias = list[Window] | RandomWindows


class RasterVisionScene:
    """A Raster Vision scene as a SceneReader, with a class for each pixel."""

    label_kind: LabelKind = "pixels"

    def __init__(self, scene: Scene, sampling: WindowSamplingConfig | None = None):
        """sampling: how the windows whose labels are read were chosen."""
        source = scene.raster_source
        self.scene, self.id = scene, scene.id
        self.height, self.width = scene.extent.size
        self.channels, self.dtype = source.num_channels, chip_dtype(source.dtype)
        self.image_in_strips = _is_pixelwise(source)
        labels = getattr(scene.label_source, "raster_source", None)
        self.labels_in_strips = labels is not None and _is_pixelwise(labels)
        classes = getattr(scene.label_source, "class_config", None)
        self._null = classes.null_class_id if classes and classes.null_class else None

    def image(self, window: Window) -> np.ndarray:
        image = self.scene.raster_source.get_chip(Box(*window))
        if np.issubdtype(image.dtype, np.floating):
            if np.issubdtype(self.dtype, np.floating):
                with np.errstate(over="ignore"):  # beyond float32 is infinite, which is no data
                    image = image.astype(self.dtype, copy=False)
            # No data is 0, as it is for the other pixel types.
            image = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
        return image.astype(self.dtype, copy=False)

    def labels(self, window: Window) -> np.ndarray:
        labels = self.label_source().get_label_arr(Box(*window))
        if labels.dtype != np.uint8 and (labels.min() < 0 or labels.max() > 255):
            raise InputError(f"scene {self.id} has label ids outside 0 to 255")
        return self._without_padding(labels.astype(np.uint8, copy=False), window)

    def label_source(self) -> Any:
        """Raster Vision's; raises InputError where the scene has none."""
        if self.scene.label_source is None:
            raise InputError(
                f"scene {self.id} has no label_source", fix="give it one, or leave the scene out"
            )
        return self.scene.label_source

    def labelled(self, windows: Windows) -> Windows:
        """Those of some windows that can be learnt from: here all of them."""
        return windows

    def shares(self, other: RasterVisionScene) -> None:
        """Know what another reader of the same scene has found out about its windows."""

    def _without_padding(self, labels: np.ndarray, window: Window) -> np.ndarray:
        """Labels with the null class beyond the scene's edges, where Raster Vision 0.31 reads class
        0 from rasters (its own docstring says the null class)."""
        height, width = self.height, self.width
        within = min(window[:2]) >= 0 and window.ymax <= height and window.xmax <= width
        if within or self._null is None:
            return labels
        rows = slice(max(-window.ymin, 0), max(height - window.ymin, 0))
        cols = slice(max(-window.xmin, 0), max(width - window.xmin, 0))
        filled = np.full_like(labels, self._null)
        filled[rows, cols] = labels[rows, cols]
        return filled


def _is_pixelwise(source: RasterSource) -> bool:
    """Whether a pixel of the source is the same in whatever window it is read."""
    return type(source) is RasterioSource and all(
        type(t) in _PIXELWISE for t in source.raster_transformers
    )


def prediction_windows(scene: Scene, options: PredictOptions) -> list[Window]:
    """The windows that Raster Vision's prediction visits, in its order."""
    return _in_aoi(scene, _prediction_boxes(scene, options), within=True)


def missing_windows(scene: Scene, options: SemanticSegmentationPredictOptions) -> list[Window]:
    """Windows for the pixels that those of prediction_windows() leave out.

    Raster Vision 0.31 pads cropped windows by crop_sz too much before the first one, so that up to
    crop_sz rows and columns at the scene's end may have no window.
    """
    if options.crop_sz is None:
        return []
    chip, stride = (options.chip_sz,) * 2, (options.stride or options.chip_sz,) * 2
    boxes = _prediction_boxes(scene, options)
    more = _beyond(boxes, scene.extent.size, chip, stride, options.crop_sz)
    return _in_aoi(scene, more, within=True)


def _prediction_boxes(scene: Scene, options: PredictOptions) -> list[Box]:
    chip, stride = (options.chip_sz,) * 2, (options.stride or options.chip_sz,) * 2
    crop = getattr(options, "crop_sz", None)  # of semantic segmentation only
    if crop is None:
        return scene.extent.get_windows(chip, stride)
    padding = calculate_required_padding(
        scene.extent.size, chip, stride, pad_direction="both", crop_sz=crop
    )
    return scene.extent.get_windows(chip, stride, padding, pad_direction="both")


def _beyond(
    boxes: list[Box],
    size: tuple[int, int],
    chip: tuple[int, int],
    stride: tuple[int, int],
    crop: int,
) -> list[Box]:
    """Windows that continue a grid until, cropped, it covers a scene of this (height, width)."""
    starts = []
    for axis in (0, 1):
        line = sorted({b.ymin if axis == 0 else b.xmin for b in boxes})
        while line[-1] + chip[axis] - crop < size[axis]:
            line.append(line[-1] + stride[axis])
        starts.append(line)
    seen = {(b.ymin, b.xmin) for b in boxes}
    return [
        Box(y, x, y + chip[0], x + chip[1])
        for y in starts[0]
        for x in starts[1]
        if (y, x) not in seen
    ]


def windows_of(scene: Scene, sampling: WindowSamplingConfig, seed: int) -> Windows:
    """The windows that a sampling config asks for."""
    if sampling.method == WindowSamplingMethod.sliding:
        boxes = scene.extent.get_windows(
            sampling.size, sampling.stride, sampling.padding, sampling.pad_direction
        )
        return _in_aoi(scene, boxes, within=sampling.within_aoi)
    heights = sampling.size_lims or sampling.h_lims
    widths = sampling.size_lims or sampling.w_lims
    assert heights is not None  # Raster Vision's validator sees to it
    assert widths is not None
    padding = sampling.padding
    if padding is None:  # Raster Vision's default
        padding = (heights[1] // 2, widths[1] // 2)
    rows, cols = ensure_tuple(padding)
    height, width = scene.extent.size
    inside = corners = None
    if scene.aoi_polygons_bbox_coords:
        limits = Window(-rows, -cols, height + rows, width + cols)
        area = Area(scene.aoi_polygons_bbox_coords, limits, within=sampling.within_aoi)
        smallest = heights[0], widths[0]
        inside, corners = area.takes, area.corners(smallest, (heights[1] - 1, widths[1] - 1))
        if not corners:
            raise InputError(
                f"no window of {smallest[0]}x{smallest[1]} pixels fits into the area of interest "
                f"of scene {scene.id}",
                fix="use smaller windows or larger areas",
            )
    return RandomWindows(
        scene.id,
        height,
        width,
        heights=heights,
        widths=widths,
        square=sampling.size_lims is not None,
        padding=(rows, cols),
        count=sampling.max_windows,
        inside=inside,
        corners=corners,
        attempts=sampling.max_sample_attempts,
        seed=seed,
    )


def _in_aoi(scene: Scene, boxes: list[Box], *, within: bool) -> list[Window]:
    if scene.aoi_polygons_bbox_coords:
        boxes = Box.filter_by_aoi(boxes, scene.aoi_polygons_bbox_coords, within=within)
    return [Window(*b) for b in boxes]


def chip_size(sampling: Sampling, scene_ids: Sequence[str], img_sz: int | None) -> int:
    """Width and height of the chips: the windows' size; data.img_sz where that is not one.

    Raises:
        InputError: windows of several sizes, or none that are square, and no img_sz.
    """
    if isinstance(sampling, dict):
        if missing := [i for i in scene_ids if i not in sampling]:
            raise InputError(f"sampling has no entry for scene {', '.join(missing)}")
        sizes = {ensure_tuple(sampling[i].size) for i in scene_ids}
    else:
        sizes = {ensure_tuple(sampling.size)}
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        if height == width:
            return int(height)
    if img_sz is None:
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
        raise InputError(
            f"chips of {listed} pixels don't go into one batch",
            where="data.img_sz",
            fix="set it to the size that all are resized to",
        )
    return img_sz


def of_scene(sampling: Sampling, scene_id: str) -> WindowSamplingConfig:
    """How the windows of a scene are chosen."""
    return sampling[scene_id] if isinstance(sampling, dict) else sampling


def keeper(options: ChipOptions) -> Keep:
    """chip_options.keep_chip, as a function of the chip: it draws from numpy's global generator,
    which is seeded with the chip here, so that chipping again gives the same chips."""

    def keep(image: np.ndarray, labels: np.ndarray) -> bool:
        state = np.random.get_state()
        seed = zlib.crc32(labels.tobytes(), zlib.crc32(image.tobytes()))
        np.random.seed(seed)
        try:
            return bool(options.keep_chip(image, labels))
        finally:
            np.random.set_state(state)

    return keep


def classes_of(config: ClassConfig) -> Classes:
    """Raster Vision's class config as the training core takes it."""
    colors = ["#" + "".join(f"{round(c * 255):02x}" for c in rgb) for rgb in config.color_triples]
    null_id = config.null_class_id if config.null_class else None
    return Classes(tuple(config.names), tuple(colors), null_id)
