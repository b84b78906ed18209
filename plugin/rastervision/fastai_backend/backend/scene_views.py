"""Reads a scene's image, truth and prediction for a picture, through Raster Vision's own sources.

So every kind of scene works that Raster Vision can evaluate: several files, vector labels, colour
coded labels, areas of interest. Scenes are read in strips and thinned on the way: a scene of any
size takes the memory of one strip.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pyproj import Geod
from rasterio import Affine
from rasterio.features import rasterize
from rastervision.core.box import Box
from rastervision.core.data import (
    ChipClassificationLabelSource,
    IdentityCRSTransformer,
    ObjectDetectionLabels,
    ObjectDetectionLabelSource,
    Scene,
    SceneConfig,
)
from rastervision.fastai_backend.pictures import BoxView, SceneView
from rastervision.pipeline.config import build_config, upgrade_config

#: Pixels of a strip that is read at once.
STRIP_PIXELS = 8_000_000


def read_views(
    pipeline_config: dict[str, Any], scene_ids: set[str], side: int
) -> Iterator[SceneView | BoxView]:
    """Yield the given validation and test scenes, thinned to `side` to 2 * `side` pixels.

    (That is of the longer side. Scenes that are smaller are not thinned.)

    Args:
        pipeline_config: the config of a pipeline of one of scores.TASKS, as in
            pipeline-config.json.
    """
    for scene in _scenes(pipeline_config, lambda config: config.id in scene_ids):
        yield _read_view(scene, side)


def outside_areas(pipeline_config: dict[str, Any]) -> dict[str, int]:
    """How many pixels of each validation and test scene with areas of interest lie outside them.

    (As Raster Vision's evaluator counts: a pixel lies where its middle does.)
    """
    return {
        scene.id: sum(_outside(scene, window) for window in _strips(scene, 1))
        for scene in _scenes(pipeline_config, lambda config: bool(config.aoi_uris))
    }


def _outside(scene: Scene, window: Box) -> int:
    inside = rasterize(
        scene.aoi_polygons_bbox_coords,
        window.size,
        transform=Affine.translation(window.xmin, window.ymin),
        dtype=np.uint8,
    )
    return inside.size - int(np.count_nonzero(inside))


def _scenes(
    pipeline_config: dict[str, Any], wanted: Callable[[SceneConfig], bool]
) -> Iterator[Scene]:
    """The validation and test scenes that are wanted, each while it is looked at."""
    config: Any = build_config(upgrade_config(copy.deepcopy(pipeline_config)))  # type: ignore[arg-type]  # hinted wrongly
    for scene in config.dataset.validation_scenes + config.dataset.test_scenes:
        if wanted(scene):
            with tempfile.TemporaryDirectory() as tmp:
                yield scene.build(config.dataset.class_config, tmp)


def _read_view(scene: Scene, side: int) -> SceneView | BoxView:
    height, width = scene.extent.size
    step = max(1, max(height, width) // side)
    pixel = metres_of_pixel(scene)
    metres = pixel * step if pixel else None
    if isinstance(scene.label_source, ChipClassificationLabelSource):
        truth, prediction = _cells(scene, step)
        return SceneView(scene.id, _thin_image(scene, step), truth, prediction, metres)
    if isinstance(scene.label_source, ObjectDetectionLabelSource):
        return BoxView(scene.id, _thin_image(scene, step), *_boxes(scene, step), metres)
    truth = _thin_labels(scene, scene.label_source.get_label_arr, step)
    if scene.aoi_polygons_bbox_coords:
        inside = rasterize(
            scene.aoi_polygons_bbox_coords, truth.shape, transform=Affine.scale(step)
        )
        truth = np.where(inside > 0, truth.astype(np.int16), -1)
    return SceneView(
        scene_id=scene.id,
        image=_thin_image(scene, step),
        truth=truth,
        prediction=_thin_labels(scene, scene.label_store.label_source.get_label_arr, step),
        metres=metres,
    )


def metres_of_pixel(scene: Scene) -> float | None:
    """The width on the ground of a pixel in the scene's middle; None where nobody knows the place.

    Raster Vision's transformers give longitude and latitude.
    """
    transformer = scene.raster_source.crs_transformer
    if isinstance(transformer, IdentityCRSTransformer) or transformer.map_crs != "epsg:4326":
        return None
    height, width = scene.extent.size
    ends = (width // 2, height // 2), (width // 2 + 1, height // 2)
    (west, south), (east, north) = (transformer.pixel_to_map(end) for end in ends)
    metres = Geod(ellps="WGS84").inv(west, south, east, north)[2]
    return metres if np.isfinite(metres) and metres > 0 else None


def _cells(scene: Scene, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The thinned truth and prediction of a chip classification; -1 where no cell is.

    The truth is of the cells that are scored alone: those that are predicted, too.
    """
    truth, predicted = scene.label_source.get_labels(), scene.label_store.get_labels()
    if scene.aoi_polygons:
        truth = truth.filter_by_aoi(scene.aoi_polygons)
    scored = [cell for cell in truth.get_cells() if cell in predicted]
    maps = []
    # The scored cells last, where windows overlap: their errors are to be seen.
    for labels, cells in ((truth, scored), (predicted, [*predicted.get_cells(), *scored])):
        ids = np.full([size // step for size in scene.extent.size], -1, np.int16)
        for cell in cells:
            box = cell.to_local_coords(scene.raster_source.bbox)
            rows = slice(max(box.ymin, 0) // step, -(-max(box.ymax, 0) // step))
            columns = slice(max(box.xmin, 0) // step, -(-max(box.xmax, 0) // step))
            ids[rows, columns] = labels.get_cell_class_id(cell)
        maps.append(ids)
    return maps[0], maps[1]


def _boxes(scene: Scene, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of an object detection that are scored, in the thinned image's pixels: the true
    ones, and those that were found."""
    place, found = scene.raster_source.bbox, []
    for labels in (scene.label_source.get_labels(), scene.label_store.get_labels()):
        if scene.aoi_polygons:
            labels = labels.filter_by_aoi(scene.aoi_polygons)
        order = np.argsort(-labels.get_scores(), kind="stable")
        boxes = ObjectDetectionLabels.global_to_local(labels.get_npboxes(), place) / step
        found.append(np.column_stack([boxes, labels.get_class_ids()])[order].reshape(-1, 5))
    return found[0], found[1]


def _strips(scene: Scene, step: int) -> Iterator[Box]:
    """Windows over the whole width, from top to bottom, of a multiple of `step` rows each."""
    height, width = scene.extent.size
    rows = max(1, STRIP_PIXELS // (width * step)) * step
    for top in range(0, height, rows):
        yield Box(top, 0, min(top + rows, height), width)


def _thin_image(scene: Scene, step: int) -> np.ndarray:
    """Mean of step x step pixels; what is left over at the right and lower edges is dropped."""
    parts = []
    for window in _strips(scene, step):
        chip = scene.raster_source.get_chip(window)
        rows, columns = chip.shape[0] // step, chip.shape[1] // step
        if rows:
            blocks = chip[: rows * step, : columns * step]
            blocks = blocks.reshape(rows, step, columns, step, chip.shape[2])
            parts.append(blocks.mean((1, 3), dtype=np.float32).astype(chip.dtype))
    return np.concatenate(parts)


def _thin_labels(scene: Scene, read: Callable[[Box], np.ndarray], step: int) -> np.ndarray:
    """The pixel in the middle of step x step pixels: class ids have no mean."""
    rows, columns = (size // step for size in scene.extent.size)
    middle = step // 2
    parts = [read(window)[middle::step, middle::step] for window in _strips(scene, step)]
    return np.concatenate(parts)[:rows, :columns]
