"""Opens the files of a scene: whether they are there, whole, and have the bands asked for."""

from __future__ import annotations

import os
from collections.abc import Callable

import rasterio
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window
from rastervision.core.data import (
    RasterioSourceConfig,
    RasterSourceConfig,
)
from rastervision.core.data.utils.rasterio import get_aws_session
from rastervision.pipeline.file_system import NotReadableError, download_if_needed

from rvk8s import storage
from rvk8s.errors import InputError


def check_files(source: RasterSourceConfig, where: str) -> list[InputError]:
    """Open every file of a raster source; what is wrong with each.

    Raises:
        StorageUnavailable: the storage that holds them does not answer.
    """
    if not isinstance(source, RasterioSourceConfig):
        return []
    if not source.uris:
        return [InputError("its source has no file", where=where, fix="give uris at least one")]
    if source.channel_order is not None and not len(source.channel_order):
        fix = "name its bands, counted from 0, or leave it out"
        return [InputError("its channel_order is empty", where=where, fix=fix)]
    return _each(source.uris, lambda uri: _check_file(uri, source, where))


def _each(uris: str | list[str], check: Callable[[str], None]) -> list[InputError]:
    errors: list[InputError] = []
    for uri in [uris] if isinstance(uris, str) else uris:
        try:
            check(uri)
        except InputError as error:
            errors.append(error)
    return errors


def _check_file(uri: str, source: RasterioSourceConfig, where: str) -> None:
    stream = source.allow_streaming and storage.is_s3(uri)
    path = uri if stream else local_file(uri, where)
    try:
        with (
            rasterio.Env(session=get_aws_session() if stream else None),
            rasterio.open(path) as image,
        ):
            _check_upright(image, uri, where)
            count = image.count
            bands = source.channel_order or ()
            outside = [band for band in bands if not 0 <= band < count]
            if outside:
                fix = f"channel_order may name 0 to {count - 1}"
                what = f"{uri} has {count} bands, channel_order names {outside[0]}"
                raise InputError(what, where=where, fix=fix)
            _read_last_block(image)
    except (RasterioError, RasterioIOError) as error:
        if stream:
            # Or is it the server? Then this raises StorageUnavailable.
            _existing(uri, where)
        text = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        fix = "is it complete, and a GeoTIFF? copy it again"
        raise InputError(f"{uri} cannot be read: {text}", where=where, fix=fix) from error


def _check_upright(image: rasterio.DatasetReader, uri: str, where: str) -> None:
    """Raise InputError for a turned image: rasterio reads windows of it from another place, if it
    may read beyond the edges, as Raster Vision does (1.3.11: every pixel of a window was wrong)."""
    at = image.transform
    off = max(abs(at.b) * image.height, abs(at.d) * image.width)
    if off > 0.01 * min(abs(at.a), abs(at.e)):
        fix = "turn it north up, with gdalwarp for one"
        raise InputError(f"{uri} is rotated, and windows would be misread", where=where, fix=fix)


def local_file(uri: str, where: str) -> str:
    """The path of a file; a remote one is downloaded to Raster Vision's cache.

    Raises:
        InputError: it is not there or cannot be read.
    """
    fix = "look at the path; relative ones start at the folder of rvk8s.yaml"
    try:
        if storage.is_s3(uri):
            _existing(uri, where)
        if "://" not in uri and not uri.startswith("/vsi") and not os.path.isfile(uri):
            raise InputError(f"{uri} does not exist", where=where, fix=fix)
        path: str = download_if_needed(uri)
        return path
    except InputError as error:
        if error.where == where:
            raise
        raise InputError(f"{uri}: {error.what}", where=where, fix=error.fix) from error
    except NotReadableError as error:
        raise InputError(f"{uri} cannot be read", where=where, fix="look at the URI") from error


def _existing(uri: str, where: str) -> None:
    """Raises InputError if there is no such object, StorageUnavailable if nothing can be known."""
    if not storage.exists(uri):
        raise InputError(f"{uri} does not exist", where=where, fix="look at the URI")


def _read_last_block(image: rasterio.DatasetReader) -> None:
    """Read the block that a file that was cut off lacks.

    Raises:
        RasterioError, RasterioIOError: it cannot be read.
    """
    height, width = image.block_shapes[-1]
    row = (image.height - 1) // height * height
    col = (image.width - 1) // width * width
    window = Window(col, row, image.width - col, image.height - row)
    image.read(image.count, window=window)
