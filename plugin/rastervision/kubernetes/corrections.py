"""What Raster Vision 0.31 gets wrong about the places of scenes, put right.

Like the mosaic it holds wherever our wheel is installed: in stages, under `rastervision run local`
and for predictions with a bundle.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from functools import cache, wraps
from typing import Any

from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning
from rastervision.core import predictor
from rastervision.core.box import Box
from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ObjectDetectionGeoJSONStore,
    ObjectDetectionLabels,
    RasterioCRSTransformer,
    RasterioSource,
    SemanticSegmentationLabelStore,
)
from rastervision.core.data import scene as scene_module
from rastervision.core.data.label_source import chip_classification_label_source as cell_labels
from rastervision.core.evaluation import SemanticSegmentationEvaluator
from rastervision.kubernetes import corners, gdal, vector_places
from rastervision.kubernetes.places import place_by_pixels

from rvk8s.contract import Env

log = logging.getLogger(__name__)


def install() -> None:
    """Wrap Raster Vision's functions."""
    silence_georeference_warnings()
    _place_on_local_grids()
    corners.install()
    vector_places.install()
    _read_predictions_whole()
    _mask_in_pixels_of_the_crop()
    _give_labels_the_size_of_images()
    _predict_whole_images()
    _keep_cells_with_their_classes()
    _save_boxes_of_a_crop()
    _need_no_chip_size_for_cells()


def silence_georeference_warnings() -> None:
    """Drop rasterio's warning about files without a transform.

    It names no file, and Raster Vision reads them as pixels. configure says which labels are read
    on the pixels of their images.
    """
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def _place_on_local_grids() -> None:
    """A site's own grid (LOCAL_CS) has no longitudes: its coordinates are those of the map."""
    init = RasterioCRSTransformer.__init__

    @wraps(init)
    def place(self: Any, transform: Any, image_crs: Any, *args: Any, **kwargs: Any) -> None:
        if image_crs is not None and CRS(image_crs).type_name == "Engineering CRS":
            args, kwargs = (), {**kwargs, "map_crs": image_crs}
        init(self, transform, image_crs, *args, **kwargs)

    RasterioCRSTransformer.__init__ = place  # type: ignore[method-assign]


def _read_predictions_whole() -> None:
    """The prediction of a scene with a bbox is a file of the bbox's size, and Raster Vision reads
    it with that bbox once more: beyond its edges, as class 0."""
    open_store = SemanticSegmentationLabelStore.__init__

    @wraps(open_store)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        open_store(self, *args, **kwargs)
        labels = self.label_source.raster_source if self.label_source else None
        for source in (labels, self.score_source):
            if isinstance(source, RasterioSource):
                source.set_bbox(Box(0, 0, source.image_dataset.height, source.image_dataset.width))

    SemanticSegmentationLabelStore.__init__ = init  # type: ignore[method-assign]


def _mask_in_pixels_of_the_crop() -> None:
    """Labels lie in the bbox's pixels, the areas of interest that they are masked with do not."""
    evaluate = SemanticSegmentationEvaluator.evaluate_scene

    @wraps(evaluate)
    def evaluate_scene(self: Any, scene: Any) -> Any:
        scene = copy.copy(scene)
        scene.aoi_polygons = scene.aoi_polygons_bbox_coords
        return evaluate(self, scene)

    SemanticSegmentationEvaluator.evaluate_scene = evaluate_scene


def _give_labels_the_size_of_images() -> None:
    """Where a label's grid lies half a pixel off its image's, or is a little coarser, rounding
    gives the label's bbox a row or column more or less than the image's. The one that is missing
    would be class 0, and cannot be compared with the prediction.

    A label without a CRS would be read beside its image, as class 0 (Raster Vision's pull request
    2319 does the same for the labels of ISPRS Potsdam, in no release yet)."""
    match = scene_module.match_bboxes

    @wraps(match)
    def match_bboxes(raster_source: Any, label_source: Any) -> None:
        if place_by_pixels(raster_source, getattr(label_source, "raster_source", None)):
            _warn_of_labels_without_crs()
        file = label_source.bbox
        match(raster_source, label_source)
        place, (height, width) = label_source.bbox, raster_source.bbox.size
        if file is None or max(abs(place.height - height), abs(place.width - width)) != 1:
            return
        top = _start(place.ymin, place.ymax, height, file.ymin, file.ymax)
        left = _start(place.xmin, place.xmax, width, file.xmin, file.xmax)
        label_source.set_bbox(Box(top, left, top + height, left + width))

    scene_module.match_bboxes = match_bboxes


@cache
def _warn_of_labels_without_crs() -> None:
    """Warn once a process under Raster Vision's own runners.

    In our stages configure alone warns, and names the scenes.
    """
    if Env.RUN_URI not in os.environ:
        log.warning("labels without a CRS are read as lying on the pixels of their images")


def _start(low: int, high: int, size: int, first: int, last: int) -> int:
    """Where `size` pixels begin that begin at `low` or end at `high`: of both, the place that
    lies less outside of [first, last)."""

    def outside(start: int) -> int:
        return max(first - start, 0) + max(start + size - last, 0)

    return min((low, high - size), key=outside)


def _predict_whole_images() -> None:
    """Raster Vision's predictors take a validation scene's config with only another image: with its
    bbox too, and with allow_streaming, for which GDAL must know the S3 server."""
    open_bundle = predictor.Predictor.__init__

    @wraps(open_bundle)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        open_bundle(self, *args, **kwargs)
        self.scene.raster_source.bbox = None

    predictor.Predictor.__init__ = init
    for kind in (predictor.Predictor, predictor.ScenePredictor):
        kind.predict = gdal.prepared()(kind.predict)


def _keep_cells_with_their_classes() -> None:
    """Cells of a chip classification that lie outside of the scene are dropped, but their classes
    are not, so that all cells after one have the class of another."""
    read = cell_labels.read_labels

    @wraps(read)
    def read_labels(labels_df: Any, bbox: Box | None = None) -> Any:
        if bbox is not None:
            boxes = (Box.from_shapely(geometry).to_int() for geometry in labels_df.geometry)
            labels_df = labels_df.loc[[box.intersects(bbox) for box in boxes]]
        return read(labels_df)

    cell_labels.read_labels = read_labels


def _save_boxes_of_a_crop() -> None:
    """Boxes are predicted in the pixels of the scene's bbox, and saved as those of the whole."""
    save = ObjectDetectionGeoJSONStore.save

    @wraps(save)
    def save_in_place(self: Any, labels: ObjectDetectionLabels) -> None:
        if self.bbox is not None:
            boxes = ObjectDetectionLabels.local_to_global(labels.get_npboxes(), self.bbox)
            labels = ObjectDetectionLabels(boxes, labels.get_class_ids(), labels.get_scores())
        save(self, labels)

    ObjectDetectionGeoJSONStore.save = save_in_place  # type: ignore[method-assign]


def _need_no_chip_size_for_cells() -> None:
    """A label source of cells without cell_sz asks for the chips' size, and fails where a scene has
    none: a test scene, or one of a pipeline that does not chip."""
    update = ChipClassificationLabelSourceConfig.update

    @wraps(update)
    def update_where_known(self: Any, pipeline: Any = None, scene: Any = None) -> None:
        if self.cell_sz is None and pipeline is not None:
            backend = getattr(pipeline.backend, "sampling", None)
            sampling = backend or (pipeline.chip_options and pipeline.chip_options.sampling)
            if isinstance(sampling, dict):
                sampling = sampling.get(scene.id)
            if sampling is None or not isinstance(sampling.size, int):
                return update(self, None, scene)
            self.cell_sz = sampling.size
        return update(self, pipeline, scene)

    ChipClassificationLabelSourceConfig.update = update_where_known  # type: ignore[method-assign]
