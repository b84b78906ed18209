"""Opens the files of a scene: whether they are there, whole, and have the bands asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rasterio
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window
from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ClassInferenceTransformerConfig,
    GeoJSONVectorSourceConfig,
    LabelSourceConfig,
    RasterioSourceConfig,
    RasterSourceConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.data.utils.rasterio import get_aws_session
from rastervision.kubernetes.failures import one_line
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
    return _each(source.uris, lambda uri: _check_file(uri, source, where))


def check_polygons(
    label: LabelSourceConfig | None, classes: Sequence[str], where: str
) -> list[InputError]:
    """Open every file of polygons that labels are made of; what is wrong with each.

    Args:
        classes: names of the classes that there are.

    Raises:
        StorageUnavailable: the storage that holds them does not answer.
    """
    if isinstance(label, SemanticSegmentationLabelSourceConfig):
        label = label.raster_source
    vectors = getattr(label, "vector_source", None)
    if not isinstance(vectors, GeoJSONVectorSourceConfig):
        return []
    # Raster Vision reads cells from a file only where it has one; all else may be background.
    of_cells = isinstance(label, ChipClassificationLabelSourceConfig)
    strangers = partial(_unknown_names, source=vectors, classes=classes)
    return _each(vectors.uris, lambda uri: _check_polygons(uri, where, of_cells, strangers))


def _each(uris: str | list[str], check: Callable[[str], None]) -> list[InputError]:
    errors: list[InputError] = []
    for uri in [uris] if isinstance(uris, str) else uris:
        try:
            check(uri)
        except InputError as error:
            errors.append(error)
    return errors


def _check_polygons(
    uri: str, where: str, of_cells: bool, strangers: Callable[[Any], list[str]]
) -> None:
    import geopandas

    path = _local(uri, where)
    try:
        found = geopandas.read_file(path)
    except (OSError, ValueError, RuntimeError) as error:
        text = one_line(error).partition(": ")[2].replace(path, uri)
        fix = "is it complete, and GeoJSON? write it again"
        raise InputError(f"{uri} cannot be read: {text}", where=where, fix=fix) from error
    if of_cells and not len(found):
        fix = "leave the scene out, or write its labels"
        raise InputError(f"{uri} holds no feature", where=where, fix=fix)
    if names := strangers(found):
        listed = ", ".join(repr(name) for name in names[:5]) + (", ..." if names[5:] else "")
        fix = "name them in the class config, or map them with a ClassInferenceTransformer"
        raise InputError(f"{uri} names classes that there are not: {listed}", where=where, fix=fix)


def _unknown_names(
    found: Any, source: GeoJSONVectorSourceConfig, classes: Sequence[str]
) -> list[str]:
    """Names of classes in a table of features that Raster Vision would take for none.

    It looks at class_id, then at class_name, then at label (ClassInferenceTransformer); features of
    which nothing is known are left out without a word.
    """
    infer = [t for t in source.transformers if isinstance(t, ClassInferenceTransformerConfig)]
    if any(t.class_id_to_filter or t.default_class_id is not None for t in infer):
        return []
    mapped = {old for t in infer for old in t.class_name_mapping or {}}
    names: set[str] = set()
    for feature in found.drop(columns="geometry").to_dict("records"):
        if _given(feature.get("class_id")) is None:
            name = _given(feature.get("class_name")) or _given(feature.get("label"))
            names.update([] if name is None else [str(name)])
    return sorted(names - mapped - set(classes))


def _given(value: Any) -> Any:
    """A table's value, None where there is none."""
    return None if value is None or value != value else value  # NaN is unlike itself


def _check_file(uri: str, source: RasterioSourceConfig, where: str) -> None:
    stream = source.allow_streaming and storage.is_s3(uri)
    path = uri if stream else _local(uri, where)
    try:
        with (
            rasterio.Env(session=get_aws_session() if stream else None),
            rasterio.open(path) as image,
        ):
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


def _local(uri: str, where: str) -> str:
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
