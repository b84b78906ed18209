"""Looks at the user's data before anything is computed from it: every mistake at once, a line each.

Files are opened and their last block is read, GeoTIFFs on S3 without downloading them; images and
labels are looked at in windows spread over the scene, all of it where it is small.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rasterio import Affine
from rasterio.features import rasterize
from rastervision.core.box import Box
from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ClassConfig,
    MinMaxTransformerConfig,
    MultiRasterSourceConfig,
    ObjectDetectionLabelSourceConfig,
    RasterizedSourceConfig,
    RasterSourceConfig,
    Scene,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
    StatsTransformerConfig,
)
from rastervision.core.rv_pipeline import ObjectDetectionConfig, RVPipelineConfig
from rastervision.fastai_backend.backend.scenes import windows_of
from rastervision.fastai_backend.chips import common_format
from rastervision.fastai_backend.config import FastaiConfig
from rastervision.fastai_backend.windows import RandomWindows, chip_dtype
from rastervision.kubernetes.cells import (
    cells_by_class,
    check_background,
    check_class_ids,
    check_scored,
)
from rastervision.kubernetes.failures import explain, one_line
from rastervision.kubernetes.input_files import check_files
from rastervision.kubernetes.label_checks import LabelCounts, shared_scenes
from rastervision.kubernetes.name_checks import check_colors, check_names
from rastervision.kubernetes.nodata import misread, replaced
from rastervision.kubernetes.objects import boxes_by_class, check_object_windows
from rastervision.kubernetes.option_checks import (
    backend_of_task,
    check_backend,
    check_commands,
    check_sampling,
    sampling_of,
)
from rastervision.kubernetes.pixel_checks import check_image_pixels, check_label_source
from rastervision.kubernetes.places import check_area, compare_places, parts
from rastervision.kubernetes.streaming import check as check_streaming
from rastervision.kubernetes.streaming import raster_sources, streamed_for_check
from rastervision.kubernetes.vector_places import check_vector_places
from rastervision.kubernetes.vectors import check_areas, check_vectors
from shapely.ops import unary_union

from rvk8s.errors import InputError, Rvk8sError, StorageUnavailable

if TYPE_CHECKING:
    from rastervision.core.rv_pipeline import PredictOptions, WindowSamplingConfig
    from rastervision.pipeline.pipeline_config import PipelineConfig
    from shapely.geometry.base import BaseGeometry

log = logging.getLogger(__name__)

#: A scene of at most this many pixels on a side is looked at as a whole.
_WHOLE = 2048
#: Windows looked at in a larger scene, and their size in pixels.
_WINDOWS, _WINDOW = 16, 512


def check(
    config: PipelineConfig, gpus: int, ranks: int = 1, commands: Sequence[str] | None = None
) -> tuple[list[InputError], list[str]]:
    """What is wrong with the options and data of a pipeline, and what is only strange.

    Args:
        gpus: how many the training will have.
        ranks: how many processes train.
        commands: those that will be run; None: all that the pipeline has.

    Raises:
        StorageUnavailable: the storage that holds the data does not answer.
    """
    if not isinstance(config, RVPipelineConfig):
        return [], []
    dataset = config.dataset
    if errors := check_colors(dataset.class_config):
        return errors, []  # nothing can be built with them
    options = [*check_names(dataset), *check_backend(config, gpus, ranks)]
    if commands is None:
        commands = config.backend.filter_commands(["analyze", "chip", "train", "predict", "eval"])
    options += check_commands(config, commands)
    if not dataset.train_scenes:
        fix = "give dataset.train_scenes at least one scene"
        return [*options, InputError("there is no training scene", fix=fix)], []
    ours = config.backend if isinstance(config.backend, FastaiConfig) else None
    if ours is not None and not dataset.validation_scenes:
        fix = "give dataset.validation_scenes at least one scene: it scores every epoch"
        options.append(InputError("there is no validation scene", fix=fix))
    learns = "chip" in commands or "train" in commands
    labels = LabelCounts(
        dataset.class_config,
        getattr(config.backend, "solver", None),
        of_objects=isinstance(config, ObjectDetectionConfig),
        learns=learns,
    )
    analyze = bool(config.analyzers) and "analyze" in commands
    checker = _Checker(dataset.class_config, labels, analyze=analyze)
    if learns:
        checker.labelled = backend_of_task(config)
    if ours is not None:
        checker.ignored = ours.solver.ignore_class_index
        if learns:
            checker.backend = ours
        if "eval" in commands:
            checker.predicted = config.predict_options
    if checker.backend is not None:
        options += check_sampling(config)
    checker.errors += [*options, *labels.check_config(), *check_streaming(config)]
    checker.warnings += shared_scenes(dataset)
    for scene in dataset.train_scenes:
        checker.check_scene(scene, "train", sampling_of(config, scene.id, checker.errors))
    for scene in dataset.validation_scenes:
        checker.check_scene(scene, "validation", sampling_of(config, scene.id, checker.errors))
    for scene in dataset.test_scenes:
        checker.check_scene(scene, "test", None)
    checker.check_places()
    checker.check_classes()
    return checker.errors, checker.warnings


@dataclass
class _Format:
    id: str
    channels: int
    dtype: np.dtype


class _Checker:
    """Collects errors and warnings over the scenes of a data set.

    Args:
        analyze: scenes will be analyzed, for which Raster Vision opens them without transformers.
    """

    def __init__(
        self, classes: ClassConfig, labels: LabelCounts | None = None, *, analyze: bool = False
    ):
        self.classes, self.analyze = classes, analyze
        #: Says which labels the task has, if something will chip or train.
        self.labelled: type[FastaiConfig] | None = None
        #: The fastai backend, if it will chip or train.
        self.backend: FastaiConfig | None = None
        #: How scenes are predicted whose predictions are scored then.
        self.predicted: PredictOptions | None = None
        #: The class that it does not train.
        self.ignored: int | None = None
        #: What the first scene's chips are.
        self.format: _Format | None = None
        self.errors: list[InputError] = []
        self.warnings: list[str] = []
        self.labels = labels or LabelCounts(classes, of_objects=False, learns=False)
        #: Scenes whose labels have no CRS, and are taken to lie on the pixels of their images.
        self.without_crs: list[str] = []

    def check_scene(
        self, scene: SceneConfig, group: str, sampling: WindowSamplingConfig | None
    ) -> None:
        """Check one scene; group is train, validation or test."""
        where = f"{group} scene {scene.id}"
        before = len(self.errors)
        scene = streamed_for_check(scene)
        _replace_stats(scene.raster_source)
        for source in raster_sources(scene.raster_source):
            self.errors += check_files(source, where)
        label = scene.label_source
        raster_label = isinstance(label, SemanticSegmentationLabelSourceConfig)
        in_files = raster_label and not isinstance(label.raster_source, RasterizedSourceConfig)
        if in_files:
            for source in raster_sources(label.raster_source):
                self.errors += check_files(source, f"label of {where}")
        of_task = self.labelled if group != "test" else None
        if of_task and not isinstance(label, of_task.label_type):
            fix = "give it one, or leave the scene out"
            what = f"has no label_source for {of_task.task}"
            self.errors.append(InputError(what, where=where, fix=fix))
        else:
            errors, warnings = check_vectors(label, self.classes, f"label of {where}")
            self.errors += errors
            self.warnings += warnings
        self.errors += check_areas(scene.aoi_uris, f"area of interest of {where}")
        if len(self.errors) > before:
            return
        try:
            if self.analyze and isinstance(scene.raster_source, MultiRasterSourceConfig):
                scene.raster_source.build(use_transformers=False)
            built = scene.build(self.classes)
            if self.backend:
                self._check_format(built, group)
            if in_files and compare_places(built, where):
                self.without_crs.append(where)
            self.warnings += check_vector_places(built, scene, where)
            check_area(built, scene.aoi_uris or (), where)
            self._check_pixels(built, where)
            of_cells = isinstance(label, ChipClassificationLabelSourceConfig)
            fits = sampling is None or of_cells or self._check_windows(built, sampling, where)
            if raster_label:
                within = sampling is None or sampling.within_aoi
                self._check_labels(built, where, group, within)
            elif of_cells:
                self._check_cells(built, where, group, sampling)
            elif isinstance(label, ObjectDetectionLabelSourceConfig):
                boxes = boxes_by_class(built, len(self.classes), where)
                self.labels.add(group, boxes, sampled=False)
                if sampling is not None and fits and self.backend is not None:
                    self.warnings += check_object_windows(built, sampling, where)
        except Exception as error:  # noqa: BLE001 - whatever a scene raises is a line
            self._add(error, where)

    def check_places(self) -> None:
        """Say once how labels without a CRS are read."""
        if self.without_crs:
            named = ", ".join(self.without_crs[:2]) + (", ..." if self.without_crs[2:] else "")
            what = f"labels without a CRS ({named}) are read as lying on the pixels of their images"
            self.warnings.append(what)

    def check_classes(self) -> None:
        """Say what all labels together hold too little of."""
        if not self.errors:
            self.errors, warnings = self.labels.check()
            self.warnings += warnings

    def _check_format(self, scene: Scene, group: str) -> None:
        """Raises InputError where a scene's chips are of another kind than the first scene's."""
        source = scene.raster_source
        found = _Format(scene.id, source.num_channels, chip_dtype(source.dtype))
        self.format = self.format or found
        if group == "test":  # predicted in the pixel type of the training
            found.dtype = self.format.dtype
        common_format([self.format, found])

    def _check_pixels(self, scene: Scene, where: str) -> None:
        """Add an error for a scene that has no pixels in any of its files, or pixels of no data
        that nothing says to be so."""
        sources = list(parts(scene.raster_source))
        for source in sources:
            source.raster_transformers = []
            self.errors += check_image_pixels(source, _spread(source.extent), where)
        if any(source[window].any() for source in sources for window in _spread(source.extent)):
            return
        if not any(source[window].any() for source in sources for window in _tiles(source.extent)):
            fix = "leave the scene out, or look at the file and its channel_order"
            self.errors.append(InputError("all its pixels are nodata (0)", where=where, fix=fix))

    def _check_windows(self, scene: Scene, sampling: WindowSamplingConfig, where: str) -> bool:
        """Whether windows fit the scene; adds an error where none does."""
        extent, size = scene.extent, sampling.size
        if sampling.method.value == "sliding":
            empty = not extent.get_windows(
                size, sampling.stride, sampling.padding, sampling.pad_direction
            )
        else:
            drawn = windows_of(scene, sampling, seed=0)
            assert isinstance(drawn, RandomWindows)
            sides = zip(extent.size, drawn.padding, (drawn.heights, drawn.widths), strict=True)
            misfits = [high - 1 for side, pad, (_, high) in sides if high - 1 > side + 2 * pad]
            size, empty = max(misfits, default=sampling.size), bool(misfits) or not drawn.count
        if empty:
            what = f"no window of {size} pixels fits its {extent.width} x {extent.height}"
            fix = "use smaller chips, or set sampling.padding"
            self.errors.append(InputError(what, where=where, fix=fix))
        return not empty

    def _check_labels(self, scene: Scene, where: str, group: str, within_aoi: bool) -> None:
        """within_aoi: what lies outside of the areas of interest is never read."""
        known = len(self.classes)
        counts = np.zeros(known, dtype=np.int64)
        others: set[int] = set()
        source, read_as = scene.label_source.raster_source, set[int]()
        windows = _spread(scene.extent)
        check_label_source(scene, windows, where)
        area = None
        if scene.aoi_polygons_bbox_coords and within_aoi:
            # Windows lie in it: pixels that its edge crosses are in none.
            area = unary_union(scene.aoi_polygons_bbox_coords).buffer(-1)
        for window in self._label_windows(windows, scene.extent, group, counts):
            labels, gone = scene.label_source.get_label_arr(window), replaced(source, window)
            if area is not None:
                here = _inside(area, window)
                labels, gone = labels[here], gone[here]
            read_as.update(np.unique(labels[gone]).tolist())
            inside = (labels >= 0) & (labels < known)
            others.update(np.unique(labels[~inside])[:6].tolist())
            counts += np.bincount(labels[inside].astype(np.int64), minlength=known)
        if others:
            outside = sorted(others)
            ids = ", ".join(str(i) for i in outside[:5]) + (", ..." if len(outside) > 5 else "")
            fix = "name the classes in the class config, or map the ids with a ReclassTransformer"
            what = f"its label holds the ids {ids}, the class config has 0 to {known - 1}"
            self.errors.append(InputError(what, where=where, fix=fix))
        elif error := misread(source, read_as, self.classes, self.ignored, where):
            self.errors.append(error)
        self.labels.add(group, counts, sampled=len(windows) > 1)

    def _label_windows(
        self, windows: Sequence[Box], extent: Box, group: str, counts: np.ndarray
    ) -> Iterator[Box]:
        """Windows of a scene's label, all of it if too few classes are in them.

        Args:
            counts: labels by class of the windows so far; the caller adds to it.
        """
        yield from windows
        if len(windows) > 1:
            for tile in _tiles(extent):
                if not self.labels.lacks(group, counts):
                    return
                yield tile

    def _check_cells(
        self, scene: Scene, where: str, group: str, sampling: WindowSamplingConfig | None
    ) -> None:
        known = len(self.classes)
        check_class_ids(scene.label_source.labels_df["class_id"], known, where)
        check_background(scene, known, where)
        if sampling is not None and self._check_windows(scene, sampling, where):
            counts = cells_by_class(scene, sampling, known, where)
            self.labels.add(group, counts, sampled=sampling.method.value != "sliding")
        if group != "train" and self.predicted is not None:
            self.warnings += check_scored(scene, self.predicted, where)

    def _add(self, error: Exception, where: str) -> None:
        known: Rvk8sError | None = explain(error)
        if isinstance(known, StorageUnavailable):
            raise known from error
        fix = known.fix if isinstance(known, InputError) else "look at the scene's config"
        text = known.what if isinstance(known, InputError) else one_line(error)
        self.errors.append(InputError(text, where=where, fix=fix))


def _replace_stats(source: RasterSourceConfig) -> None:
    """Put what gives the same pixel type in the place of what reads statistics: analyze makes
    those later."""
    source.transformers = [
        MinMaxTransformerConfig() if isinstance(t, StatsTransformerConfig) else t
        for t in source.transformers
    ]
    if isinstance(source, MultiRasterSourceConfig):
        for part in source.raster_sources:
            _replace_stats(part)


def _spread(extent: Box) -> Sequence[Box]:
    """The whole extent where it is small, else windows on a grid over it."""
    if max(extent.size) <= _WHOLE:
        return [Box(0, 0, extent.height, extent.width)]
    rows = _starts(extent.height, int(_WINDOWS**0.5))
    cols = _starts(extent.width, int(_WINDOWS**0.5))
    size = (min(_WINDOW, extent.height), min(_WINDOW, extent.width))
    return [Box(row, col, row + size[0], col + size[1]) for row in rows for col in cols]


def _starts(length: int, count: int) -> list[int]:
    last = max(length - _WINDOW, 0)
    return sorted({int(start) for start in np.linspace(0, last, count)})


def _inside(area: BaseGeometry, window: Box) -> np.ndarray:
    """(height, width) bool: which pixels of a window lie in an area, given in pixels."""
    if area.is_empty:
        return np.zeros(window.size, bool)
    at = Affine.translation(window.xmin, window.ymin)
    inside: np.ndarray = rasterize([area], window.size, transform=at) > 0
    return inside


def _tiles(extent: Box) -> Iterator[Box]:
    """Windows that cover an extent."""
    for row in range(0, extent.height, _WHOLE):
        for col in range(0, extent.width, _WHOLE):
            end_row, end_col = min(row + _WHOLE, extent.height), min(col + _WHOLE, extent.width)
            yield Box(row, col, end_row, end_col)
