"""Pixels and map of Raster Vision 0.31, put right: whole numbers are the corners of pixels.

Raster Vision takes the centre of a pixel on the way to the map, and the pixel that holds a point on
the way back. So polygons that are written lie half a pixel to the lower right, and those that are
read half a pixel to the upper left on the average.
"""

from __future__ import annotations

import math
from functools import wraps
from typing import Any

import cv2
import numpy as np
import pyproj.network
from rasterio.transform import from_origin
from rastervision.core.box import Box
from rastervision.core.data import RasterioCRSTransformer, utils
from rastervision.core.data.label_store import semantic_segmentation_label_store_config as stores
from rastervision.core.data.utils import rasterio as raster_files
from rastervision.core.data.utils import vectorization

from rvk8s.errors import InputError

#: Within this part of a pixel a coordinate is taken for the whole number: what is left of the way
#: over degrees. It decides which pixels an edge touches, and whether a window lies in an area.
_EXACT = 5e-7
#: How far a coordinate may lie beyond a half to be taken for one.
_HALF = 1e-3
#: No shift of datum is larger, in metres.
_SHIFT = 1000


def install() -> None:
    """Wrap Raster Vision's functions."""
    _convert_corners()
    _round_boxes_to_the_nearest()
    _write_boxes_of_oblong_pixels()
    _denoise_in_place()
    _break_up_buildings_in_place()


def map_to_pixel(transformer: RasterioCRSTransformer, x: Any, y: Any) -> tuple[Any, Any]:
    """Return columns and rows of points on a map, of which some may not be finite."""
    at, size = transformer.transform, _area(transformer)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        x, y = _to_image(transformer, x, y)
        x, y = x - at.c, y - at.f
        return _whole((at.e * x - at.b * y) / size), _whole((at.a * y - at.d * x) / size)


def _area(transformer: RasterioCRSTransformer) -> float:
    at = transformer.transform
    return float(at.a * at.e - at.b * at.d)


def _to_image(transformer: RasterioCRSTransformer, x: Any, y: Any) -> Any:
    """Return points on a map in the image's CRS, so that image2map gives the same points again.

    PROJ undoes a shift of datum to a millimetre only: 0.01 of a pixel for EPSG:2056, 27700 and
    31468. Labels are drawn in the image's CRS, so its way out is the one that counts.
    """
    first = np.asarray(transformer.map2image(x, y), float)
    found = first
    enough = _EXACT * abs(_area(transformer)) ** 0.5 / 10
    for _ in range(3):
        step = first - np.asarray(transformer.map2image(*transformer.image2map(*found)), float)
        step = np.where(np.abs(step) < _SHIFT, step, 0)  # far beside the CRS's area
        found = found + step
        if not (np.abs(step) > enough).any():
            break
    return found


def pixel_to_map(transformer: RasterioCRSTransformer, column: Any, row: Any) -> tuple[Any, Any]:
    """Return where on a map the upper left corners of pixels lie."""
    at = transformer.transform
    column, row = np.asarray(column, float), np.asarray(row, float)
    with np.errstate(invalid="ignore"):
        x, y = at.a * column + at.b * row + at.c, at.d * column + at.e * row + at.f
    found: tuple[Any, Any] = transformer.image2map(x, y)
    return found


def _convert_corners() -> None:
    """Proof: for a transform of 1 m from (0, 0), xy(transform, 10, 20) is (20.5, -10.5)."""
    box_to_pixel = RasterioCRSTransformer.map_to_pixel

    def to_pixel(self: Any, point: tuple[Any, Any]) -> tuple[Any, Any]:
        return _finite(self, map_to_pixel(self, *map(np.asarray, point)), point)

    def to_map(self: Any, point: tuple[Any, Any]) -> tuple[Any, Any]:
        return _finite(self, pixel_to_map(self, *point), point)

    @wraps(box_to_pixel)
    def to_pixel_or_window(self: Any, inp: Any, bbox: Box | None = None) -> Any:
        """Boxes become windows, of whole pixels: the nearest."""
        found = box_to_pixel(self, inp, bbox)
        if not isinstance(inp, Box) or not self.round_pixels:
            return found
        return Box(*(math.floor(value + 0.5 + _HALF) for value in found))

    RasterioCRSTransformer._map_to_pixel = to_pixel
    RasterioCRSTransformer._pixel_to_map = to_map
    RasterioCRSTransformer.map_to_pixel = to_pixel_or_window  # type: ignore[method-assign]


def _whole(pixels: np.ndarray) -> np.ndarray:
    whole = np.round(pixels)
    return np.where(np.abs(pixels - whole) < _EXACT, whole, pixels)


def _finite(transformer: Any, found: tuple[Any, Any], given: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return what was found, as numbers where a number was given.

    Raises:
        InputError: a coordinate has no place there; Raster Vision goes on with infinity.
    """
    x, y = np.asarray(found[0], float), np.asarray(found[1], float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        first = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))[0]
        at = ", ".join(f"{np.ravel(np.asarray(values, float))[first]:.10g}" for values in given)
        raise InputError(
            f"the coordinates {at} have no finite place between the image's CRS and "
            f"{transformer.map_crs}",
            fix=mend_endless("look at the CRS of the image and at what lies on it"),
        )
    return (x, y) if x.ndim else (float(x), float(y))


def mend_endless(fix: str) -> str:
    """Return what to do about coordinates that are not finite."""
    if not pyproj.network.is_network_enabled():
        return fix
    return "set PROJ_NETWORK=OFF: with ON, PROJ needs the internet for many a CRS"


def _round_boxes_to_the_nearest() -> None:
    """Box.to_int cuts towards 0: cells of labels whose corners lie at 31.9999 or at -0.9 become
    others. Proof: int(31.9999) is 31, and int(-0.9) is 0.

    Halves are rounded down: so lie the cells that Raster Vision has written without all this.
    """

    def to_int(self: Box) -> Box:
        return Box(*(math.ceil(value - 0.5 - _HALF) for value in self))

    Box.to_int = to_int  # type: ignore[method-assign]


def _write_boxes_of_oblong_pixels() -> None:
    """write_bbox gives from_origin the height of a pixel where it takes the width first.

    Proof: its `resolution = h_bbox / h_arr, w_bbox / w_arr`, against rasterio's
    from_origin(west, north, xsize, ysize).
    """
    write = raster_files.write_bbox

    @wraps(write)
    def write_bbox(path: str, arr: np.ndarray, bbox: Box, crs_wkt: str, **kwargs: Any) -> None:
        height, width = arr.shape[:2]
        place = from_origin(bbox.xmin, bbox.ymax, bbox.width / width, bbox.height / height)
        write(path, arr, bbox, crs_wkt, **{"transform": place, **kwargs})

    for module in (raster_files, utils):
        module.write_bbox = write_bbox


def _denoise_in_place() -> None:
    """OpenCV dilates with the kernel that it erodes with: one of an even size, as Raster Vision's
    default of 8 is, moves all polygons by a pixel to the lower right.

    Proof: a square of columns 20..60 comes out as 21..61; an opening adds no pixel.
    """

    def denoise(mask: np.ndarray, diameter: int) -> np.ndarray:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
        other_end = diameter - 1 - diameter // 2
        eroded = cv2.erode(mask, kernel)
        return cv2.dilate(eroded, kernel[::-1, ::-1].copy(), anchor=(other_end, other_end))

    for module in (vectorization, utils, stores):
        module.denoise = denoise


def _break_up_buildings_in_place() -> None:
    """The same of the kernel that breaks up clusters of buildings: it is made one of an odd size
    that looks the same from both ends. Proof: as above, 21..61."""
    build = vectorization.get_kernel

    @wraps(build)
    def get_kernel(*args: Any, **kwargs: Any) -> np.ndarray | None:
        kernel = build(*args, **kwargs)
        if kernel is None:
            return None
        more = [(0, 1 - side % 2) for side in kernel.shape]
        kernel = np.pad(kernel, more)
        return np.maximum(kernel, kernel[::-1, ::-1])

    vectorization.get_kernel = get_kernel
