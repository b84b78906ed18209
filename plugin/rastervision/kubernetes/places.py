"""Where an image and its label lie: Raster Vision reads the label at the place of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rasterio import Affine
from rastervision.core.data import (
    IdentityCRSTransformer,
    MultiRasterSource,
    RasterioSource,
    RasterSource,
    Scene,
)
from rastervision.kubernetes.pixel_checks import check_places_of_files

from rvk8s.errors import InputError


def compare_places(scene: Scene, where: str) -> bool:
    """Compare the places of a scene's image and of its label in files.

    Returns:
        Whether the label has no CRS and is taken to lie on the image's pixels.

    Raises:
        InputError: the label does not cover the image, or the part of it that is of interest.
    """
    image, label = scene.raster_source, scene.label_source.raster_source
    size, label_size = _file_size(image), _file_size(label)
    if size is None or label_size is None:
        return False
    fix = "give the label of this image, or crop one to the other"
    shapes = f"{size[1]} x {size[0]} pixels, its label {label_size[1]} x {label_size[0]}"
    on_map = [not isinstance(s.crs_transformer, IdentityCRSTransformer) for s in (image, label)]
    if on_map == [True, False]:  # of another size: else it was placed when the scene was built
        what = f"the image has {shapes} pixels and no CRS"
        raise InputError(what, where=where, fix=f"{fix}, or give it its CRS")
    if size == label_size if not any(on_map) else _covers(scene, label_size):
        return place_by_pixels(image, label)
    if size != label_size:
        raise InputError(f"the image has {shapes}", where=where, fix=fix)
    what = "its label lies in another place, or has pixels of another size"
    raise InputError(what, where=where, fix=fix)


def place_by_pixels(image: RasterSource, label: RasterSource | None) -> bool:
    """Place a label file without a CRS on the pixels of its image.

    ISPRS hands out Potsdam's labels so. The label gets the image's transform: it is read as a file
    with the image's CRS would be.

    Returns:
        Whether the label is such a file, of the image's size.

    Raises:
        InputError: the label has a CRS, and its image has none.
    """
    source, target = _primary(image), None if label is None else _primary(label)
    if source is None or target is None:
        return False
    check_places_of_files(source, target)
    if not _lacks_crs(source, target):
        return False
    target._crs_transformer = source.crs_transformer
    return True


def _lacks_crs(image: RasterioSource, label: RasterioSource) -> bool:
    """Return whether a label file has no CRS and is to be read on the pixels of its image.

    It must have the image's size. If its world file (.tfw) has the image's pixel size and names
    another place, it is the label of another scene.
    """
    known, unknown = image.image_dataset, label.image_dataset
    if unknown.crs is not None or known.shape != unknown.shape:
        return False
    here, there = known.transform, unknown.transform
    if known.crs is None and here == there:
        return False  # Raster Vision reads it so
    if not (_names_place(here) and _names_place(there)):
        return True
    if not np.allclose(here[:6:4], there[:6:4], rtol=1e-3):
        return True
    column, row = ~here @ (there.c, there.f)
    return max(abs(column), abs(row)) <= 1


def _names_place(transform: Affine) -> bool:
    """Return False for pixel coordinates, with rows counted down or up.

    GIS programs write the latter into world files of rasters that have no place.
    """
    return tuple(transform)[:6] not in ((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0))


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


def _primary(source: RasterSource) -> RasterioSource | None:
    """The part that says where a source lies; None if it is no file."""
    while isinstance(source, MultiRasterSource):
        source = source.primary_source
    return source if isinstance(source, RasterioSource) else None


def _file_size(source: RasterSource) -> tuple[int, int] | None:
    """Height and width of the file that says where a source lies; None if it is no file."""
    file = _primary(source)
    return file and file.image_dataset.shape


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
