"""What configure says of vector labels and areas of interest: as much as of labels in rasters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from placed import CLASSES, HEIGHT, IMAGE, LEFT, SIDE, TOP, WIDTH, checker_of, image_of, write
from pyproj import Transformer
from rastervision.core.data import (
    BufferTransformerConfig,
    ChipClassificationLabelSourceConfig,
    ClassInferenceTransformerConfig,
    GeoJSONVectorSourceConfig,
    LabelSourceConfig,
    ObjectDetectionLabelSourceConfig,
    RasterioSourceConfig,
    RasterizedSourceConfig,
    RasterizerConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from said import check_lines

Feature = dict[str, Any]
TO_DEGREES = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
SQUARES = [(10, 10, 40, 40), (60, 20, 90, 50), (20, 100, 70, 140), (100, 100, 140, 170)]
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def ring(top: float, left: float, bottom: float, right: float) -> list[tuple[float, float]]:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return [TO_DEGREES.transform(LEFT + x * SIDE, TOP - y * SIDE) for x, y in corners]


def squares() -> list[Feature]:
    return [
        {
            "type": "Feature",
            "properties": {"class_id": i % 3},
            "geometry": {"type": "Polygon", "coordinates": [ring(*corners)]},
        }
        for i, corners in enumerate(SQUARES)
    ]


def save(folder: Path, features: list[Feature], **more: Any) -> str:
    path = folder / "labels.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}))
    return str(path)


def of_pixels(uri: str, **options: Any) -> LabelSourceConfig:
    source = RasterizedSourceConfig(
        vector_source=GeoJSONVectorSourceConfig(uris=uri, **options),
        rasterizer_config=RasterizerConfig(background_class_id=0),
    )
    return SemanticSegmentationLabelSourceConfig(raster_source=source)


def of_cells(uri: str, **options: Any) -> LabelSourceConfig:
    source = GeoJSONVectorSourceConfig(uris=uri, **options)
    return ChipClassificationLabelSourceConfig(
        vector_source=source, infer_cells=True, cell_sz=30, background_class_id=0
    )


def of_objects(uri: str, **options: Any) -> LabelSourceConfig:
    return ObjectDetectionLabelSourceConfig(
        vector_source=GeoJSONVectorSourceConfig(uris=uri, **options)
    )


def said(image: RasterioSourceConfig, label: LabelSourceConfig | None, area: Any = None) -> Any:
    checker = checker_of(CLASSES)
    one = SceneConfig(id="one", raster_source=image, label_source=label, aoi_uris=area)
    checker.check_scene(one, "train", None)
    return [*map(str, checker.errors), *(f"warning: {line}" for line in checker.warnings)]


def each(features: list[Feature], change: Callable[[Feature], Any], *which: int) -> list[Feature]:
    for i in which or range(len(features)):
        change(features[i])
    return features


def properties(*which: int, **values: Any) -> Callable[[list[Feature]], list[Feature]]:
    return lambda f: each(f, lambda one: one.update(properties=values), *which)


def geometry(value: Any, *which: int) -> Callable[[list[Feature]], list[Feature]]:
    return lambda f: each(f, lambda one: one.update(geometry=value), *which)


def moved(change: Callable[[float, float], Any], *which: int) -> Any:
    def move(one: Feature) -> None:
        (corners,) = one["geometry"]["coordinates"]
        one["geometry"]["coordinates"] = [[change(x, y) for x, y in corners]]

    return lambda f: each(f, move, *which)


def polygon(*corners: tuple[Any, Any]) -> Any:
    return {"type": "Polygon", "coordinates": [list(map(list, corners))]}


(X, Y), *_ = ring(*SQUARES[1])
D = 1e-4
BOWTIE = polygon((X, Y), (X + D, Y - D), (X + D, Y), (X, Y - D), (X, Y))
SPIKE = polygon((X, Y), (X + D, Y), (X, Y))

WRONG = {
    "text": (properties(2, 3, class_id="2a"), "2 of 4…whole number: '2a'; …feature 2; …quotes…"),
    "yes and no": (properties(class_id=True), "4 of 4…no whole number: True; …feature 0…"),
    "fraction": (properties(1, class_id=1.5), "1 of 4…no whole number: 1.5; …feature 1…"),
    "list": (properties(1, class_id=[1]), "1 of 4…no whole number: [1]; …feature 1…"),
    "id too large": (properties(1, 3, class_id=3), "2 of 4…ids…: 3; …feature 1; …0 to 2…"),
    "id below 0": (properties(2, class_id=-1), "1 of 4…ids…: -1; …feature 2; …0 to 2…"),
    "name": (
        properties(1, 2, class_name="B"),
        "2 of 4 features name…'B'; …feature 1; …Transformer",
    ),
    "label": (properties(3, label=7), "1 of 4 features name…7; …feature 3; …"),
    "no class": (properties(3, height=7), "1 of 4…no class…; …feature 3; …default_class_id…"),
    "no properties": (
        lambda f: each(f, lambda one: one.update(properties=None), 0),
        "1 of 4…no class…; …feature 0; …",
    ),
    "null": (geometry(None, 1, 2), "2 of 4…no geometry; …feature 1; …"),
    "empty": (geometry({"type": "Polygon", "coordinates": []}, 3), "1 of 4…no geometry; …"),
    "unknown type": (geometry({"type": "Polygone", "coordinates": []}, 3), "1 of 4…no geometry…"),
    "text for numbers": (geometry(polygon(("1", "2"), ("3", "4")), 0), "1 of 4…no geometry…"),
    "not a number": (
        geometry(polygon((X, Y), (X, float("nan")), (X + D, Y), (X, Y)), 2),
        "1 of 4…not finite…; …feature 2; …",
    ),
    "bowtie": (geometry(BOWTIE, 1), "1 of 4…broken…Self-intersection…; …feature 1; …"),
    "spike": (geometry(SPIKE, 1), "1 of 4…broken…; …feature 1; …"),
    "open": (
        geometry(polygon((X, Y), (X + D, Y), (X, Y - D)), 2),
        "…cannot be read: feature 2…; …",
    ),
    "swapped": (moved(lambda x, y: (y, x)), "4 of 4…latitude and longitude swapped; …feature 0…"),
    "one swapped": (moved(lambda x, y: (y, x), 2), "1 of 4…longitude swapped; …feature 2; …"),
    "elsewhere": (moved(lambda x, y: (x + 0.1, y)), "the 4 features…another place…columns…rows…"),
    "elsewhere by a little": (
        moved(lambda x, y: (x, y + 0.01)),
        "the 4 features…another place…columns…rows…",
    ),
    "metres": (
        moved(lambda x, y: TO_DEGREES.transform(x, y, direction="INVERSE")),
        "4 of 4…no finite place…feature 0 at 366005, …CRS…",
    ),
    "one in metres": (moved(lambda x, y: (x * 1e5, y * 1e5), 3), "1 of 4…no finite…feature 3…"),
    "far east, swapped": (
        moved(lambda x, y: (y, x + 100)),
        "4 of 4…finite…; …latitude and longitude are swapped…",
    ),
}


@pytest.mark.parametrize("kind", [of_pixels, of_cells, of_objects])
@pytest.mark.parametrize(("spoil", "expected"), WRONG.values(), ids=WRONG)
def test_features_that_are_wrong(kind: Any, spoil: Any, expected: str, tmp_path: Path) -> None:
    uri = save(tmp_path, spoil(squares()))
    (line,) = said(image_of(tmp_path), kind(uri))
    check_lines([line], [f"…train scene one: {uri}…{expected}"])


@pytest.mark.parametrize("kind", [of_pixels, of_cells, of_objects])
def test_features_that_are_right(kind: Any, tmp_path: Path) -> None:
    image = image_of(tmp_path)
    assert said(image, kind(save(tmp_path, squares()))) == []
    by_name = each(squares(), lambda one: one.update(properties={"label": "b"}))
    assert said(image, kind(save(tmp_path, by_name))) == []
    more = squares() + moved(lambda x, y: (x + 0.5, y + 0.5))(squares())
    assert said(image, kind(save(tmp_path, more))) == []
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    in_metres = moved(lambda x, y: TO_DEGREES.transform(x, y, direction="INVERSE"))(squares())
    assert said(image, kind(save(tmp_path, in_metres, crs=crs))) == []
    # A ring that touches itself reads as it is drawn.
    touching = polygon(
        *((X + a * D, Y - b * D) for a, b in [(0, 0), (2, 0), (2, 1), (1, 0), (0, 1), (0, 0)])
    )
    assert said(image, kind(save(tmp_path, geometry(touching, 1)(squares())))) == []


def test_labels_all_around_an_image_may_leave_it_out(tmp_path: Path) -> None:
    """One file for many scenes: an image without any feature is background."""
    west = moved(lambda x, y: (x - 0.1, y - 0.1))(squares())
    east = moved(lambda x, y: (x + 0.1, y + 0.1))(squares())
    uri = save(tmp_path, west + east)
    wanted = f"warning: train scene one: none of the 8 features of {uri} lies on the image"
    assert said(image_of(tmp_path), of_pixels(uri)) == [wanted]
    assert said(image_of(tmp_path), of_pixels(save(tmp_path, []))) == []


def without_crs(folder: Path) -> RasterioSourceConfig:
    path = write(folder / "plain.tif", IMAGE, crs=None, transform=None)
    return RasterioSourceConfig(uris=path)


@pytest.mark.parametrize("kind", [of_pixels, of_cells, of_objects])
def test_an_image_without_crs(kind: Any, tmp_path: Path) -> None:
    image = without_crs(tmp_path)
    uri = save(tmp_path, squares())
    wanted = f"train scene one: {uri}…all of its 4…smaller than a pixel…no CRS…; …"
    check_lines(said(image, kind(uri)), [wanted])
    in_pixels = squares()
    for one, (top, left, bottom, right) in zip(in_pixels, SQUARES, strict=True):
        one["geometry"] = polygon(
            (left, top), (right, top), (right, bottom), (left, bottom), (left, top)
        )
    assert said(image, kind(save(tmp_path, in_pixels))) == []
    upward = moved(lambda x, y: (x, -y))(in_pixels)
    wanted = f"train scene one: {uri}: the 4…another place…{WIDTH} x {HEIGHT}…no CRS…downwards"
    check_lines(said(image, kind(save(tmp_path, upward))), [wanted])


def test_lines_and_points_need_a_buffer(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": ring(*SQUARES[0])[:2]}
    point = {"type": "Point", "coordinates": [X, Y]}
    uri = save(tmp_path, geometry(point, 1)(geometry(line, 0)(squares())))
    image = image_of(tmp_path)
    assert said(image, of_pixels(uri)) == []
    buffered = [
        ClassInferenceTransformerConfig(),
        BufferTransformerConfig(geom_type="LineString", default_buf=2),
    ]
    wanted = f"label of train scene one: {uri}: 1 of 4…Points…; …feature 1; …BufferTransformer…"
    check_lines(said(image, of_pixels(uri, transformers=buffered)), [wanted])


def test_classes_that_transformers_give(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    uri = save(tmp_path, properties(1, 2, class_name="B", height=9)(squares()))

    def label(**options: Any) -> LabelSourceConfig:
        return of_pixels(uri, transformers=[ClassInferenceTransformerConfig(**options)])

    start = "label of train scene one: "
    assert said(image, label(class_name_mapping={"B": "b"})) == []
    for options, wanted in (
        ({"default_class_id": 1}, f"warning: {start}{uri}: 2 of 4…'B'…default_class_id; …1"),
        ({"default_class_id": 3}, f"{start}default_class_id…3; …0 to 2"),
        ({"class_name_mapping": {"B": "d"}}, f"{start}class_name_mapping…'d'…; use a, b, c"),
        (
            {"class_id_to_filter": {1: [">", "height", 10]}},
            f"warning: {start}{uri}: 2 of 4…class_id_to_filter…left out; …1",
        ),
        ({"class_id_to_filter": {4: [">", "height", 1]}}, f"{start}class_id_to_filter…4; …0 to 2"),
    ):
        assert wanted.startswith("warning") or len(said(image, label(**options))) >= 1
        check_lines(said(image, label(**options))[:1], [wanted])


def test_areas_of_interest(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    assert said(image, None, [save(tmp_path, squares())]) == []
    point = {"type": "Point", "coordinates": [X, Y]}
    for spoil, wanted in (
        (geometry(None, 1), "…1 of 4…no geometry; …feature 1; …"),
        (geometry(BOWTIE, 2), "…1 of 4…broken…; …feature 2; …"),
        (geometry(point, 3), "…1 of 4…no polygons…; …feature 3; …"),
        (moved(lambda x, y: (y, x)), "…4 of 4…latitude and longitude swapped…"),
        (moved(lambda x, y: (x * 1e5, y * 1e5)), "…4 of 4…no finite place…"),
    ):
        uri = save(tmp_path, spoil(squares()))
        check_lines(said(image, None, [uri]), [f"…train scene one: {uri}{wanted}"])
    missing = str(tmp_path / "none.json")
    check_lines(
        said(image, None, [missing]),
        [f"area of interest of train scene one: {missing} does not exist; …"],
    )


def test_files_that_do_not_say_their_crs(tmp_path: Path) -> None:
    import geopandas

    path = tmp_path / "labels.gpkg"
    frame = geopandas.GeoDataFrame.from_features(squares())
    with pytest.warns(UserWarning, match="crs"):
        frame.to_file(path, driver="GPKG")
    wanted = f"label of train scene one: {path} does not say its CRS; …GeoJSON…"
    check_lines(said(image_of(tmp_path), of_pixels(str(path))), [wanted])
