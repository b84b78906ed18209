"""Files of vector labels and areas of interest: whether each feature has a geometry and a class.

Raster Vision leaves out what it cannot read: features without a geometry, or of unknown classes.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rastervision.core.data import (
    BufferTransformerConfig,
    ChipClassificationLabelSourceConfig,
    ClassConfig,
    ClassInferenceTransformerConfig,
    GeoJSONVectorSourceConfig,
    LabelSourceConfig,
    SemanticSegmentationLabelSourceConfig,
    VectorSourceConfig,
)
from rastervision.kubernetes.failures import one_line
from rastervision.kubernetes.input_files import local_file

from rvk8s.errors import InputError

if TYPE_CHECKING:
    import geopandas

#: Values that a message names.
_NAMED = 5
_POLYGONS = ("Polygon", "MultiPolygon")
_READ_AGAIN = "is it complete, and GeoJSON? write it again"


def vector_source(label: LabelSourceConfig | None) -> GeoJSONVectorSourceConfig | None:
    """Return the files that labels are made of, where they are vectors."""
    if isinstance(label, SemanticSegmentationLabelSourceConfig):
        label = label.raster_source
    found = getattr(label, "vector_source", None)
    return found if isinstance(found, GeoJSONVectorSourceConfig) else None


def files(uris: str | Sequence[str] | None) -> list[str]:
    """Return URIs as Raster Vision takes them, as a list."""
    return [uris] if isinstance(uris, str) else list(uris or ())


def check_vectors(
    label: LabelSourceConfig | None, classes: ClassConfig, where: str
) -> tuple[list[InputError], list[str]]:
    """Look at every feature of a label's files; what is wrong, and what is only strange.

    Raises:
        StorageUnavailable: the storage that holds them does not answer.
    """
    source = vector_source(label)
    if source is None:
        return [], []
    # Raster Vision reads cells from a file only where it has one; all else may be background.
    of_cells = isinstance(label, ChipClassificationLabelSourceConfig)
    errors, strange = list(_wrong_options(source, classes, where)), list[str]()
    for uri in files(source.uris):
        try:
            found = read(uri, where)
            if of_cells and not len(found):
                fix = "leave the scene out, or write its labels"
                raise InputError(f"{uri} holds no feature", where=where, fix=fix)
            errors += _wrong_geometries(found, uri, where, _made_polygons(source))
            wrong, odd = _wrong_classes(found, source, classes, uri, where)
            errors += wrong
            strange += odd
        except InputError as error:
            errors.append(error)
    return errors, strange


def check_areas(uris: str | Sequence[str] | None, where: str) -> list[InputError]:
    """Look at every feature of a scene's areas of interest; what is wrong with each file.

    Raises:
        StorageUnavailable: the storage that holds them does not answer.
    """
    errors: list[InputError] = []
    for uri in files(uris):
        try:
            errors += _wrong_geometries(read(uri, where), uri, where, set())
        except InputError as error:
            errors.append(error)
    return errors


def read(uri: str, where: str) -> geopandas.GeoDataFrame:
    """Return the features of a file, in longitude and latitude, as Raster Vision reads them.

    Raises:
        InputError: it is not there, cannot be read, or does not say its CRS.
    """
    path = local_file(uri, where)
    try:
        return read_local(path)
    except InputError as error:
        raise InputError(f"{uri} {error.what}", where=where, fix=error.fix) from error


def read_local(path: str) -> geopandas.GeoDataFrame:
    """The same of a local file; the errors do not name it."""
    status = os.stat(path)
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(path: str, mtime: int, size: int) -> geopandas.GeoDataFrame:
    """mtime, size: those of the file, which is read anew if it has changed."""
    import geopandas
    from shapely.errors import ShapelyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is checked below
            found = geopandas.read_file(path)
    except (OSError, ValueError, RuntimeError, ShapelyError) as error:
        if (first := _unreadable_feature(path)) is not None:
            what = f"has a feature whose geometry cannot be read: feature {first[0]} ({first[1]})"
            raise InputError(what, fix="draw it again, or take it out") from error
        text = one_line(error).partition(": ")[2].replace(f"'{path}' ", "").replace(path, "it")
        raise InputError(f"cannot be read: {text.partition(';')[0]}", fix=_READ_AGAIN) from error
    if not isinstance(found, geopandas.GeoDataFrame):
        raise InputError("holds a table without geometry", fix=_READ_AGAIN)
    if found.crs is None:
        fix = "write it as GeoJSON of longitudes and latitudes"
        raise InputError("does not say its CRS", fix=fix)
    return found.to_crs("epsg:4326")


def _unreadable_feature(path: str) -> tuple[int, str] | None:
    """Return the first feature of a GeoJSON file that makes no geometry, and why."""
    for i, feature in enumerate(_as_written(path)):
        try:
            shapely.from_geojson(json.dumps(feature.get("geometry")))
        except shapely.errors.GEOSException as error:
            return i, str(error).partition(": ")[2].strip()
    return None


def _as_written(path: str) -> list[dict[str, Any]]:
    """Return a GeoJSON file's features; none where it is something else."""
    try:
        with open(path, encoding="utf-8") as file:
            features = json.load(file)["features"]
    except (ValueError, KeyError, TypeError):
        return []
    return features if all(isinstance(feature, dict) for feature in features) else []


def _written_as_text(path: str, found: dict[int, Any]) -> dict[int, Any]:
    """Of class ids that were read as text, those that are: a table has one type for all of them."""
    written = {}
    for i, feature in enumerate(_as_written(path)):
        value = (feature.get("properties") or {}).get("class_id")
        if i in found and not _is_nothing(value) and not _is_whole(value):
            written[i] = value
    return written or found


def _line(uri: str, total: int, found: Sequence[int], what: str) -> str:
    return f"{uri}: {len(found)} of {total} features {what}; the first is feature {found[0]}"


def _made_polygons(source: VectorSourceConfig) -> set[str]:
    """Return the types of geometry that a BufferTransformer makes polygons of."""
    return {
        t.geom_type
        for t in source.transformers
        if isinstance(t, BufferTransformerConfig) and (t.default_buf is not None or t.class_bufs)
    }


def _wrong_geometries(
    found: geopandas.GeoDataFrame, uri: str, where: str, buffered: set[str]
) -> Iterator[InputError]:
    shapes = np.array(found.geometry.values, object)
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    at, index = shapely.get_coordinates(shapes, return_index=True)
    endless = np.unique(index[~np.isfinite(at).all(1)])
    broken = dict(_broken(shapes, set(endless.tolist())))
    flat = {
        i: part.geom_type
        for i, part in _parts(shapes)
        if part.geom_type not in (*_POLYGONS, *buffered)
    }
    kinds = ", ".join(sorted({f"{kind}s" for kind in flat.values()}))
    for which, what, fix in (
        (np.flatnonzero(missing).tolist(), "have no geometry", "draw them again or take them out"),
        (
            endless.tolist(),
            "have coordinates that are not finite numbers",
            "draw them again, or write the file in another CRS",
        ),
        (
            sorted(broken),
            f"have a broken geometry ({next(iter(broken.values()), '')})",
            'mend them ("Fix geometries" in QGIS, make_valid in shapely)',
        ),
        (
            sorted(flat),
            f"are no polygons ({kinds})",
            "draw polygons, or add a BufferTransformerConfig for labels of these",
        ),
    ):
        if which:
            yield InputError(_line(uri, len(shapes), which, what), where=where, fix=fix)


def _parts(shapes: np.ndarray) -> Iterator[tuple[int, Any]]:
    parts, index = shapely.get_parts(shapes, return_index=True)
    nested, of_part = shapely.get_parts(parts, return_index=True)  # collections of collections
    yield from zip(index[of_part].tolist(), nested, strict=True)


def _broken(shapes: np.ndarray, skipped: set[int]) -> Iterator[tuple[int, str]]:
    """Polygons of which Raster Vision would read another area than is drawn, by buffer(0)."""
    for i, part in _parts(shapes):
        if i in skipped or part.is_valid or part.geom_type != "Polygon":
            continue
        read_as, drawn = part.buffer(0), shapely.make_valid(part)
        if read_as.is_empty or not np.isclose(read_as.area, drawn.area, rtol=1e-6, atol=0):
            yield i, shapely.is_valid_reason(part)


def _wrong_options(
    source: VectorSourceConfig, classes: ClassConfig, where: str
) -> Iterator[InputError]:
    known = range(len(classes))
    for infer in _inferences(source):
        given = {"class_id_to_filter": list(infer.class_id_to_filter or {})}
        if infer.default_class_id is not None:
            given["default_class_id"] = [infer.default_class_id]
        for key, ids in given.items():
            if outside := [i for i in ids if i not in known]:
                what = f"{key} of its ClassInferenceTransformer names the class id {outside[0]}"
                yield InputError(what, where=where, fix=f"use 0 to {known[-1]}")
        strange = [n for n in (infer.class_name_mapping or {}).values() if n not in classes.names]
        if strange:
            what = "class_name_mapping of its ClassInferenceTransformer names the class "
            fix = f"use {', '.join(classes.names)}"
            yield InputError(f"{what}{strange[0]!r}, which there is not", where=where, fix=fix)


def _inferences(source: VectorSourceConfig) -> list[ClassInferenceTransformerConfig]:
    return [t for t in source.transformers if isinstance(t, ClassInferenceTransformerConfig)]


def _wrong_classes(
    found: geopandas.GeoDataFrame,
    source: VectorSourceConfig,
    classes: ClassConfig,
    uri: str,
    where: str,
) -> tuple[list[InputError], list[str]]:
    """Sort the features by what is wrong with their classes."""
    infer = [t.build(class_config=classes) for t in _inferences(source)]
    filtered = any(t.class_id_to_filter for t in infer)
    wrong: dict[str, dict[int, Any]] = {
        kind: {} for kind in ("text", "ids", "names", "none", "filter", "default")
    }
    mapped = {old for t in infer for old in t.class_name_mapping or {}}
    for i, feature in enumerate(_properties(found)):
        properties = feature["properties"]
        given = properties.get("class_id")
        name = properties.get("class_name")
        name = properties.get("label") if name is None else name
        class_id = given
        for t in infer:
            class_id = t.infer_feature_class_id(
                feature, t.default_class_id, t.class_config, t.class_id_to_filter,
                t.class_name_mapping,
            )  # fmt: skip
        strange = name is not None and name not in classes.names and name not in mapped
        if class_id is None:
            kind = "filter" if filtered else "none" if name is None else "names"
            wrong[kind][i] = name
        elif not _is_whole(class_id):
            wrong["text"][i] = class_id
        elif not 0 <= class_id < len(classes):
            wrong["ids"][i] = int(class_id)
        elif given is None and strange and not filtered:
            wrong["default"][i] = name
    if wrong["text"]:
        wrong["text"] = _written_as_text(local_file(uri, where), wrong["text"])
    total = len(found)
    texts = {
        kind: _line(uri, total, list(which), what.format(_listed(which.values())))
        for kind, what in _WHAT.items()
        if (which := wrong[kind])
    }
    fixes = {
        "text": "write class_id as a number, without quotes, or leave it out and give class_name",
        "ids": f"the class config has 0 to {len(classes) - 1}; name the classes there, or look at "
        "the labels' class_id",
        "names": "name them in the class config, or map them with a ClassInferenceTransformer",
        "none": "give them one of these, or set default_class_id of a ClassInferenceTransformer",
    }
    errors = [InputError(texts[k], where=where, fix=fixes[k]) for k in fixes if k in texts]
    return errors, [f"{where}: {texts[k]}" for k in ("filter", "default") if k in texts]


#: What a feature of each kind is said to be; {} stands for the values.
_WHAT = {
    "text": "have a class_id that is no whole number: {}",
    "ids": "have class ids that no class has: {}",
    "names": "name classes that there are not: {}",
    "none": "have no class (class_id, class_name or label)",
    "filter": "pass none of class_id_to_filter, and are left out",
    "default": "name classes that there are not ({}), and are read as default_class_id",
}


def _properties(found: geopandas.GeoDataFrame) -> Iterator[dict[str, Any]]:
    kinds = found.geometry.geom_type.tolist()
    for kind, record in zip(kinds, found.drop(columns="geometry").to_dict("records"), strict=True):
        given = {key: value for key, value in record.items() if not _is_nothing(value)}
        yield {"type": "Feature", "geometry": {"type": kind}, "properties": given}


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | np.integer) or (
        isinstance(value, float | np.floating) and float(value).is_integer()
    )


def _listed(values: Iterable[Any]) -> str:
    shown = sorted({repr(int(v)) if _is_whole(v) else repr(v) for v in values})
    return ", ".join(shown[:_NAMED]) + (", ..." if shown[_NAMED:] else "")
