"""Scenes of several files: the mosaic that Raster Vision has the program gdalbuildvrt make, without
that program.

The mosaic is XML in memory, which rasterio and GDAL open as they open a path
(https://gdal.org/en/stable/drivers/raster/vrt.html). Raster Vision's is always called index.vrt:
where two lie in one folder, rasterio reads the later one's pixels for both, since it opens a
dataset again by its name for every window that reaches over an edge.

As in gdalbuildvrt later files lie over earlier ones, except where they have no data. What that
program leaves out with a warning is an error here, and so are files of several resolutions. A file
whose pixels lie between those of the first one is moved to the nearest whole pixel: resampling
would mix the ids of labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio import Affine
from rasterio.dtypes import _gdal_typename
from rasterio.enums import ColorInterp, MaskFlags
from rastervision.core.data.raster_source import rasterio_source
from rastervision.core.data.utils.rasterio import get_aws_session
from rastervision.pipeline.file_system import download_if_needed

from rvk8s import storage
from rvk8s.errors import InputError


def install() -> None:
    """Make Raster Vision's raster sources use build()."""
    rasterio_source.download_and_build_vrt = build


def build(image_uris: Sequence[str], vrt_dir: str, stream: bool = False) -> str:
    """The mosaic of several files, for rasterio.open.

    Args:
        vrt_dir: not used; Raster Vision gives it.
        stream: read files on S3 where they lie; else they are downloaded.

    Raises:
        InputError: a file has no place on a map, is rotated, or is of another kind than the first.
    """
    paths = [uri if stream else download_if_needed(uri) for uri in image_uris]
    remote = any(storage.is_s3(path) for path in paths)
    with rasterio.Env(session=get_aws_session() if remote else None):
        files = [_look(uri, path) for uri, path in zip(image_uris, paths, strict=True)]
    for file in files[1:]:
        _compare(files[0], file)
    return _xml(files)


@dataclass(frozen=True)
class _File:
    """What a mosaic must know of a file.

    Attributes:
        path: as GDAL takes it.
        kind: what all files have in common, by its name in an error message.
        masked: it has a mask beside its bands.
    """

    uri: str
    path: str
    width: int
    height: int
    transform: Affine
    wkt: str
    kind: dict[str, Any]
    dtypes: tuple[str, ...]
    colors: tuple[ColorInterp, ...]
    nodata: tuple[float | None, ...]
    blocks: tuple[tuple[int, int], ...]
    masked: bool


def _look(uri: str, path: str) -> _File:
    with rasterio.open(path) as image:
        place = image.transform
        if not (place.a > 0 > place.e and place.b == place.d == 0):
            rotated = place != Affine.identity()
            what = "is rotated or mirrored" if rotated else "does not say where on a map it lies"
            fix = "give georeferenced files that are north up, or one file for the scene"
            raise InputError(
                f"{uri} {what}, so it cannot be part of a scene of several files", fix=fix
            )
        colors = tuple(image.colorinterp)
        palettes = [i for i, c in enumerate(colors, 1) if c == ColorInterp.palette]
        flags = image.mask_flag_enums[0]
        return _File(
            uri=uri,
            path=_gdal_path(path),
            width=image.width,
            height=image.height,
            transform=place,
            wkt=image.crs.to_wkt() if image.crs else "",
            kind={
                "coordinate reference system": image.crs,
                "number of bands": image.count,
                "pixel type": "/".join(dict.fromkeys(image.dtypes)),
                "colors of bands": "/".join(color.name for color in colors),
                "color table": [image.colormap(i) for i in palettes],
            },
            dtypes=tuple(image.dtypes),
            colors=colors,
            nodata=tuple(image.nodatavals),
            blocks=tuple(image.block_shapes),
            masked=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        )


def _gdal_path(path: str) -> str:
    if storage.is_s3(path):
        return f"/vsis3/{path.removeprefix('s3://')}"
    if path.startswith(("http://", "https://")):
        return f"/vsicurl/{path}"
    return path if path.startswith("/vsi") else os.path.abspath(path)


def _compare(first: _File, other: _File) -> None:
    for name, value in first.kind.items():
        found = other.kind[name]
        if found != value:
            says = "" if name == "color table" else f" ({value or 'none'} and {found or 'none'})"
            raise _differ(first, other, name + says)
    one, two = first.transform, other.transform
    # Half a pixel over the whole file is a transform's rounding.
    if abs(two.a / one.a - 1) * other.width > 0.5 or abs(two.e / one.e - 1) * other.height > 0.5:
        raise _differ(
            first, other, f"resolution ({one.a:.9g} x {-one.e:.9g} and {two.a:.9g} x {-two.e:.9g})"
        )


def _differ(first: _File, other: _File, how: str) -> InputError:
    return InputError(
        f"{first.uri} and {other.uri} are files of one scene and differ in their {how}",
        fix="convert them to the same, or make them scenes of their own",
    )


def _xml(files: Sequence[_File]) -> str:
    first = files[0]
    left = min(file.transform.c for file in files)
    top = max(file.transform.f for file in files)
    place = Affine(first.transform.a, 0, left, 0, first.transform.e, top)
    corners = [
        (round((file.transform.c - left) / place.a), round((file.transform.f - top) / place.e))
        for file in files
    ]
    width = max(x + file.width for (x, _), file in zip(corners, files, strict=True))
    height = max(y + file.height for (_, y), file in zip(corners, files, strict=True))
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    _text(root, "SRS", first.wkt)
    _text(root, "GeoTransform", ", ".join(repr(number) for number in place.to_gdal()))
    # Raster Vision asks for credentials if it finds s3:// in what it opens.
    about = ElementTree.SubElement(root, "Metadata")
    for number, file in enumerate(files):
        _text(about, "MDI", file.uri, key=f"FILE_{number}")
    for i, dtype in enumerate(first.dtypes):
        band = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=_gdal_typename(dtype), band=str(i + 1)
        )
        if first.nodata[i] is not None:
            _text(band, "NoDataValue", repr(first.nodata[i]))
        _text(band, "ColorInterp", first.colors[i].name.capitalize())
        for file, corner in zip(files, corners, strict=True):
            _add_band(band, file, i, corner)
    if any(file.masked for file in files):
        mask = ElementTree.SubElement(
            ElementTree.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte"
        )
        for file, corner in zip(files, corners, strict=True):
            source = _add_source(mask, file, "mask,1", "uint8", file.blocks[0], corner)
            _text(source, "NODATA", "0")
    return ElementTree.tostring(root, encoding="unicode")


def _add_band(band: ElementTree.Element, file: _File, i: int, corner: tuple[int, int]) -> None:
    """Add a file's band i (from 0): its pixels, except those that its nodata value, its alpha band
    or its mask says are none."""
    source = _add_source(band, file, str(i + 1), file.dtypes[i], file.blocks[i], corner)
    if file.nodata[i] is not None:
        _text(source, "NODATA", repr(file.nodata[i]))
    elif file.colors[i] == ColorInterp.alpha:
        _text(source, "NODATA", "0")
    elif file.masked or ColorInterp.alpha in file.colors:
        _text(source, "UseMaskBand", "true")


def _add_source(
    band: ElementTree.Element,
    file: _File,
    number: str,
    dtype: str,
    block: tuple[int, int],
    corner: tuple[int, int],
) -> ElementTree.Element:
    """Add a file's band; corner is its upper left pixel in the mosaic: (column, row)."""
    source = ElementTree.SubElement(band, "ComplexSource")
    _text(source, "SourceFilename", file.path, relativeToVRT="0")
    _text(source, "SourceBand", number)
    # With these a file is opened only when one of its pixels is read.
    ElementTree.SubElement(
        source,
        "SourceProperties",
        RasterXSize=str(file.width),
        RasterYSize=str(file.height),
        DataType=_gdal_typename(dtype),
        BlockXSize=str(block[1]),
        BlockYSize=str(block[0]),
    )
    size = {"xSize": str(file.width), "ySize": str(file.height)}
    ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    at = {"xOff": str(corner[0]), "yOff": str(corner[1])}
    ElementTree.SubElement(source, "DstRect", {**at, **size})
    return source


def _text(parent: ElementTree.Element, name: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, name, attributes).text = text
