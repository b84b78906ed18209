"""What Raster Vision 0.31 gets wrong about the places of scenes, put right.

Like the mosaic it holds wherever our wheel is installed: in stages, under `rastervision run local`
and for predictions with a bundle.
"""

from __future__ import annotations

import copy
from functools import wraps
from typing import Any

from rastervision.core import predictor
from rastervision.core.box import Box
from rastervision.core.data import RasterioSource, SemanticSegmentationLabelStore
from rastervision.core.data import scene as scene_module
from rastervision.core.evaluation import SemanticSegmentationEvaluator
from rastervision.kubernetes import gdal


def install() -> None:
    """Wrap Raster Vision's functions."""
    _read_predictions_whole()
    _mask_in_pixels_of_the_crop()
    _give_labels_the_size_of_images()
    _predict_whole_images()


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
    would be class 0, and cannot be compared with the prediction."""
    match = scene_module.match_bboxes

    @wraps(match)
    def match_bboxes(raster_source: Any, label_source: Any) -> None:
        file = label_source.bbox
        match(raster_source, label_source)
        place, (height, width) = label_source.bbox, raster_source.bbox.size
        if file is None or max(abs(place.height - height), abs(place.width - width)) != 1:
            return
        top = _start(place.ymin, place.ymax, height, file.ymin, file.ymax)
        left = _start(place.xmin, place.xmax, width, file.xmin, file.xmax)
        label_source.set_bbox(Box(top, left, top + height, left + width))

    scene_module.match_bboxes = match_bboxes


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
