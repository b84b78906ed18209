"""Where features of vector files lie: Raster Vision leaves out what does not lie on the image."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rastervision.core.box import Box
from rastervision.core.data import GeoJSONVectorSource, IdentityCRSTransformer, SceneConfig
from rastervision.kubernetes import corners
from rastervision.kubernetes.vectors import files, read, read_local, vector_source
from rastervision.pipeline.file_system import download_if_needed

from rvk8s.errors import InputError

if TYPE_CHECKING:
    import geopandas
    from rastervision.core.data import CRSTransformer, Scene

#: An image nearer than this to where longitude and latitude are equal (degrees): features that lie
#: beside it may lie on it with both swapped and be right.
_DIAGONAL = 1.0
_SWAPPED = "write longitude first, as GeoJSON has it"


def install() -> None:
    """Refuse features that have no place on an image, wherever Raster Vision reads vectors."""
    load = GeoJSONVectorSource._get_geojson_single

    @wraps(load)
    def get_geojson_single(self: Any, uri: str) -> dict[str, Any]:
        try:
            found = read_local(download_if_needed(uri))
        except InputError as error:
            raise InputError(f"{uri} {error.what}", fix=error.fix) from error
        _refuse_endless(found, self.crs_transformer, uri)
        geojson: dict[str, Any] = found.__geo_interface__
        return geojson

    GeoJSONVectorSource._get_geojson_single = get_geojson_single


def check_vector_places(scene: Scene, config: SceneConfig, where: str) -> list[str]:
    """Compare the places of a scene's image and of its vector files; what is only strange.

    Raises:
        InputError: labels lie elsewhere, or longitude and latitude are swapped.
    """
    transformer, place = scene.raster_source.crs_transformer, scene.raster_source.bbox
    areas = files(config.aoi_uris)
    for uri in areas:
        _check_file(_Features(read(uri, where), transformer), place, uri, where)
    source = vector_source(config.label_source)
    uris = files(source.uris) if source else []
    found = {uri: _Features(read(uri, where), transformer) for uri in uris}
    for uri, features in found.items():
        _check_file(features, place, uri, where)
    bounds = np.concatenate([f.bounds for f in found.values()] or [np.empty((0, 4))])
    if not len(bounds) or _touch(bounds, place).any():
        return []
    whole = np.array([[*bounds[:, :2].min(0), *bounds[:, 2:].max(0)]])
    named = ", ".join(uris)
    if _touch(whole, place).all():
        return [f"{where}: none of the {len(bounds)} features of {named} lies on the image"]
    columns, rows = ("{:.0f} to {:.0f}".format(*whole[0, [i, i + 2]]) for i in (0, 1))
    size = f"{place.width} x {place.height}"
    what = f"{named}: the {len(bounds)} features lie in another place than the image of {size} "
    what += f"pixels: columns {columns}, rows {rows}"
    fix = "give the labels of this image, as longitudes and latitudes or with their CRS"
    if _lacks_crs(transformer):
        fix = "the image has no CRS: give it one, or labels in its pixels, rows counted downwards"
    raise InputError(what, where=where, fix=fix)


class _Features:
    """The corners of a file's features on the map and in pixels of an image."""

    def __init__(self, found: geopandas.GeoDataFrame, transformer: CRSTransformer):
        self.transformer = transformer
        shapes = np.array(found.geometry.values, object)
        self.at, self.index = shapely.get_coordinates(shapes, return_index=True)
        #: Where each feature begins among the corners; those without a geometry have none.
        self.first = np.flatnonzero(np.diff(self.index, prepend=-1))
        self.numbers = self.index[self.first]
        self.is_polygon = bool(len(shapes)) and (shapely.get_dimensions(shapes) == 2).all()
        self.bounds = self._bounds(self.at)

    def swapped(self) -> np.ndarray:
        """Their bounds with longitude and latitude swapped."""
        return self._bounds(self.at[:, ::-1])

    def _bounds(self, at: np.ndarray) -> np.ndarray:
        """Left, top, right and bottom of each feature in pixels, NaN for none."""
        pixels = np.column_stack(_to_pixels(self.transformer, at))
        pixels[~np.isfinite(pixels).all(1)] = np.nan
        if not len(self.first):
            return np.empty((0, 4))
        return np.hstack([f.reduceat(pixels, self.first) for f in (np.minimum, np.maximum)])


def _check_file(features: _Features, place: Box, uri: str, where: str) -> None:
    """Raise InputError where longitude and latitude are swapped, or taken for pixels."""
    total, here = len(features.bounds), _touch(features.bounds, place)
    if not total:
        return
    if _lacks_crs(features.transformer):
        sides = features.bounds[:, 2:] - features.bounds[:, :2]
        if features.is_polygon and (sides < 1).all() and (np.abs(features.at) <= (180, 90)).all():
            what = f"{uri}: all of its {total} features are smaller than a pixel: the image has no "
            what += "CRS, so longitudes and latitudes are read as pixels"
            fix = "give the image its CRS, or features in its pixels, rows counted downwards"
            raise InputError(what, where=where, fix=fix)
        return
    swapped = ~here & _touch(features.swapped(), place)
    if not swapped.any() or (here.any() and _is_near_diagonal(features.transformer, place)):
        return
    what = f"{uri}: {swapped.sum()} of {total} features have latitude and longitude swapped; the "
    what += f"first is feature {features.numbers[np.argmax(swapped)]}"
    raise InputError(what, where=where, fix=_SWAPPED)


def _touch(bounds: np.ndarray, place: Box) -> np.ndarray:
    """Which bounds overlap an image's."""
    left, top, right, bottom = bounds.T
    return (left < place.xmax) & (right > place.xmin) & (top < place.ymax) & (bottom > place.ymin)


def _is_near_diagonal(transformer: CRSTransformer, place: Box) -> bool:
    longitude, latitude = map(float, transformer.pixel_to_map((place.xmin, place.ymin)))
    return abs(longitude - latitude) < _DIAGONAL


def _to_pixels(transformer: CRSTransformer, at: np.ndarray) -> tuple[Any, Any]:
    if isinstance(transformer, IdentityCRSTransformer):
        return at[:, 0], at[:, 1]
    return corners.map_to_pixel(transformer, at[:, 0], at[:, 1])


def _lacks_crs(transformer: CRSTransformer) -> bool:
    return transformer.image_crs is None


def _refuse_endless(found: geopandas.GeoDataFrame, transformer: CRSTransformer, uri: str) -> None:
    """Raise InputError where a feature has no finite place on the image."""
    at, index = shapely.get_coordinates(np.array(found.geometry.values, object), return_index=True)
    pixels = np.column_stack(_to_pixels(transformer, at))
    lost = ~np.isfinite(pixels).all(1)
    if not _lacks_crs(transformer):
        lost |= (np.abs(at) > (360, 90)).any(1)
    if not lost.any():
        return
    which = np.unique(index[lost])
    x, y = at[np.argmax(lost)]
    what = f"{uri}: {len(which)} of {len(found)} features have no finite place on the image; the "
    what += f"first is feature {which[0]} at {x:.10g}, {y:.10g}"
    fix = "write longitudes and latitudes, or name the file's CRS in it"
    if (np.abs(at[lost]) <= (90, 180)).all():
        fix = f"latitude and longitude are swapped: {_SWAPPED}"
    raise InputError(what, fix=corners.mend_endless(fix))
