"""Labels with pixels that say "no data", which Raster Vision reads as 0: as a rule, as class 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rastervision.core.box import Box
from rastervision.core.data import RasterioSource
from rastervision.core.data.utils.rasterio import read_window

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig, RasterSource


def replaced(source: RasterSource, window: Box) -> np.ndarray:
    """(height, width) bool: which pixels of a window are not read as they are in the file, because
    they are its nodata value, or its mask or alpha band leaves them out."""
    found = np.zeros(window.size, bool)
    if not isinstance(source, RasterioSource) or not source.is_masked:
        return found
    file = Box(0, 0, source.image_dataset.height, source.image_dataset.width)
    place = window.to_global_coords(source.bbox)
    inside = place.intersection(file)
    if inside.height <= 0 or inside.width <= 0:
        return found
    where, bands = inside.rasterio_format(), source.bands_to_read.tolist()
    with rasterio.Env(session=source.session):
        raw = source.image_dataset.read(bands, window=where).transpose(1, 2, 0)
    read = read_window(source.image_dataset, bands, where, True, session=source.session)
    top, left = inside.ymin - place.ymin, inside.xmin - place.xmin
    found[top : top + inside.height, left : left + inside.width] = (raw != read).any(2)
    return found


def misread(
    source: RasterSource, read_as: set[int], classes: ClassConfig, ignored: int | None, where: str
) -> InputError | None:
    """The error for a label with pixels that were replaced; None where they are of no class.

    Args:
        read_as: the ids that replaced() pixels of the label are read as.
        ignored: a class that is not trained; the null class is none either.
    """
    known = set(range(len(classes))) - {classes.null_class_id, ignored}
    if not read_as or not isinstance(source, RasterioSource):
        return None
    value = next((v for v in source.image_dataset.nodatavals if v is not None), None)
    is_class = value in known and not source.raster_transformers
    if not is_class and not read_as & known:
        return None
    uri, read = source.uris[0], min(read_as & known or read_as)
    name = f"class {read} ({classes.names[read]})"
    if value is None:
        what = f"pixels that the mask of its label {uri} leaves out are read as {name}"
        return InputError(what, where=where, fix="write it without a mask, with an id for them")
    what = f"the nodata value {value:g} of its label {uri} is read as {name}"
    fix = "`rio edit-info --unset-nodata` the file"
    if not is_class:
        fix += f", and map {value:g} with a ReclassTransformer"
    return InputError(what, where=where, fix=fix)
