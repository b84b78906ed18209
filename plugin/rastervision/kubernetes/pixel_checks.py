"""Looks at what pixels of images and of labels are: numbers that are read as others, or as none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pyproj import CRS
from rasterio.enums import ColorInterp
from rastervision.core.box import Box
from rastervision.core.data import RasterioSource, RasterSource, Scene

from rvk8s.errors import InputError

#: What programs write where there is no data: the least 16-bit number, the least and the greatest
#: 32-bit float, and what people type.
_NO_DATA = (-32768.0, -9999.0, -99999.0, *map(float, (np.finfo("f4").min, np.finfo("f4").max)))


def check_image_pixels(
    source: RasterSource, windows: Iterable[Box], where: str
) -> list[InputError]:
    """Return what is wrong with the pixels of an image file, of what its windows show.

    Args:
        source: without transformers.
    """
    if not isinstance(source, RasterioSource):
        return []
    image, uris = source.image_dataset, source.uris
    named = ", ".join([uris] if isinstance(uris, str) else uris)
    if image.count == 1 and image.colorinterp[0] == ColorInterp.palette:
        fix = "write its colours: gdal_translate -expand rgb"
        what = f"the pixels of {named} are numbers of colours in a palette"
        return [InputError(what, where=where, fix=fix)]
    if np.dtype(source.dtype).kind == "u":
        return []
    errors = []
    for window in windows:
        pixels = np.asarray(source[window])
        value = _no_number(pixels)
        if value is not None:
            fix = f"`rio edit-info --nodata {value:.9g}` the file, so that they are read as 0"
            what = f"{named} has pixels of {value:.9g}, which would be trained as brightness"
            errors.append(InputError(what, where=where, fix=fix))
            break
    return errors


def check_label_source(scene: Scene, windows: Iterable[Box], where: str) -> None:
    """Raise InputError where a label raster has no class ids."""
    source = scene.label_source.raster_source
    if not isinstance(source, RasterioSource):
        return
    named = ", ".join([source.uris] if isinstance(source.uris, str) else source.uris)
    if source.num_channels != 1:
        what = f"its label {named} has {source.num_channels} bands, class ids are one"
        fix = (
            "if they are colours, name the classes' in ClassConfig(names, colors) and read them "
            "with RasterioSourceConfig(transformers=[RGBClassTransformerConfig(class_config=...)]);"
            " else name one band: channel_order=[0]"
        )
        raise InputError(what, where=where, fix=fix)
    if np.dtype(source.image_dataset.dtypes[0]).kind != "f" or source.raster_transformers:
        return
    for window in windows:
        pixels = np.asarray(source[window])
        broken = pixels[~(np.isfinite(pixels) & (pixels == np.round(pixels)))]
        if broken.size:
            what = f"its label {named} has pixels of {broken[0]:.6g}, which are no class ids"
            fix = "write it as whole numbers, such as uint8"
            raise InputError(what, where=where, fix=fix)


def check_places_of_files(image: RasterioSource, label: RasterioSource) -> None:
    """Raise InputError where a label has a CRS and its image has none, or one is a site's grid."""
    known, unknown = label.image_dataset, image.image_dataset
    if known.crs is None:
        return
    if unknown.crs is not None:
        if _is_site(known.crs) != _is_site(unknown.crs):
            what = "one of image and label lies on a site's own grid (LOCAL_CS), the other on a map"
            raise InputError(what, fix="give both the same CRS")
        return
    what = "its label says where on a map it lies, its image does not"
    fix = "give both their place, or none"
    if unknown.gcps[0]:
        what = f"{what}: {unknown.name} has ground control points, which Raster Vision leaves out"
        fix = "write it to the map: gdalwarp"
    raise InputError(what, fix=fix)


def _is_site(crs: Any) -> bool:
    return bool(CRS(crs.wkt).type_name == "Engineering CRS")


def _no_number(pixels: np.ndarray) -> float | None:
    """The first value that stands for no data; None where none does."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return float(pixels[~np.isfinite(pixels)][0])
    least, most = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    return next((v for v in _NO_DATA if v in (least, most)), None)
