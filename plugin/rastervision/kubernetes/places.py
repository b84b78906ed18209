"""Where an image and its label lie: Raster Vision reads the label at the place of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rastervision.core.data import (
    IdentityCRSTransformer,
    MultiRasterSource,
    RasterioSource,
    RasterSource,
    Scene,
)

from rvk8s.errors import InputError


def compare_places(scene: Scene, where: str) -> None:
    """Compare the places of a scene's image and of its label in files.

    Raises:
        InputError: the label does not cover the image, or the part of it that is of interest.
    """
    image, label = scene.raster_source, scene.label_source.raster_source
    size, label_size = _file_size(image), _file_size(label)
    if size is None or label_size is None:
        return
    fix = "give the label of this image, or crop one to the other"
    on_map = [not isinstance(s.crs_transformer, IdentityCRSTransformer) for s in (image, label)]
    if any(on_map) and not all(on_map):
        known, unknown = ("image", "label") if on_map[0] else ("label", "image")
        what = f"its {known} says where on a map it lies, its {unknown} does not"
        raise InputError(what, where=where, fix="give both their place, or none")
    if size == label_size if not any(on_map) else _covers(scene, label_size):
        return
    if size != label_size:
        shapes = f"{size[1]} x {size[0]} pixels, its label {label_size[1]} x {label_size[0]}"
        raise InputError(f"the image has {shapes}", where=where, fix=fix)
    what = "its label lies in another place, or has pixels of another size"
    raise InputError(what, where=where, fix=fix)


def check_area(scene: Scene, uris: Sequence[str], where: str) -> None:
    """Raises InputError where nothing of a scene is of interest: all of it would be used then."""
    if uris and not scene.aoi_polygons:
        what = f"its area of interest has no polygon that touches the image ({', '.join(uris)})"
        fix = "give this scene's own, as GeoJSON of longitudes and latitudes, or leave aoi_uris out"
        raise InputError(what, where=where, fix=fix)


def parts(source: RasterSource) -> Iterator[RasterSource]:
    """A raster source, or the parts that a compound one is made of."""
    if isinstance(source, MultiRasterSource):
        for part in source.raster_sources:
            yield from parts(part)
    else:
        yield source


def _file_size(source: RasterSource) -> tuple[int, int] | None:
    """Height and width of the file that says where a source lies; None if it is no file."""
    while isinstance(source, MultiRasterSource):
        source = source.primary_source
    if not isinstance(source, RasterioSource):
        return None
    return source.image_dataset.height, source.image_dataset.width


def _covers(scene: Scene, label_size: tuple[int, int]) -> bool:
    """Whether a label, as placed by Raster Vision, has a pixel for each of the image's.

    A pixel more or less is rounding: grids may be shifted by half a pixel.
    """
    place, extent = scene.label_source.bbox, scene.extent
    if max(abs(place.height - extent.height), abs(place.width - extent.width)) > 1:
        return False
    top, left, bottom, right = 0, 0, extent.height, extent.width
    if scene.aoi_polygons_bbox_coords:
        bounds = np.array([area.bounds for area in scene.aoi_polygons_bbox_coords])
        left, top = (max(int(low), 0) for low in bounds[:, :2].min(0))
        right, bottom = min(right, int(bounds[:, 2].max())), min(bottom, int(bounds[:, 3].max()))
    return bool(
        place.ymin + top >= -1
        and place.xmin + left >= -1
        and place.ymin + bottom <= label_size[0] + 1
        and place.xmin + right <= label_size[1] + 1
    )
