"""Pixels and map: corners are whole numbers, whatever goes in or comes out, on any pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from placed import CLASSES
from rasterio import Affine
from rasterio.features import rasterize
from rastervision.core.box import Box
from rastervision.core.data import (
    BuildingVectorOutputConfig,
    ChipClassificationGeoJSONStore,
    ChipClassificationLabels,
    ChipClassificationLabelSourceConfig,
    ClassInferenceTransformerConfig,
    GeoJSONVectorSourceConfig,
    MultiRasterSourceConfig,
    ObjectDetectionGeoJSONStore,
    ObjectDetectionLabels,
    ObjectDetectionLabelSourceConfig,
    PolygonVectorOutputConfig,
    RasterioCRSTransformer,
    RasterioSourceConfig,
    RasterizedSourceConfig,
    RasterizerConfig,
    SceneConfig,
    SemanticSegmentationLabels,
    SemanticSegmentationLabelSourceConfig,
    SemanticSegmentationLabelStoreConfig,
    ShiftTransformerConfig,
)
from rastervision.core.data.utils import rasterio as raster_files
from rastervision.core.data.utils import vectorization
from rastervision.fastai_backend.georeference import ensure_transform
from shapely.geometry import Point, Polygon, mapping, shape

from rvk8s.errors import InputError

HEIGHT, WIDTH = 90, 120
#: Square, oblong, counted from below, turned; in metres, in degrees, and on the ground's own grid.
PLACES = {
    "square": ("EPSG:32633", Affine(0.5, 0, 366_000, 0, -0.5, 5_808_000)),
    "oblong": ("EPSG:32633", Affine(0.3, 0, 366_000, 0, -0.7, 5_808_000)),
    "fine": ("EPSG:32733", Affine(0.05, 0, 500_000, 0, -0.05, 9_000_000)),
    "upward": ("EPSG:32633", Affine(0.5, 0, 366_000, 0, 0.5, 5_808_000)),
    "turned": ("EPSG:32633", Affine(0.4, 0.3, 366_000, 0.3, -0.4, 5_808_000)),
    "degrees": ("EPSG:4326", Affine(1e-5, 0, 13.4, 0, -2e-5, 52.5)),
    "mercator": ("EPSG:3857", Affine(1.2, 0, 1_490_000, 0, -1.2, 6_890_000)),
    "datum of Bessel": ("EPSG:31468", Affine(0.2, 0, 4_468_000, 0, -0.2, 5_333_000)),
    "datum of Airy": ("EPSG:27700", Affine(0.25, 0, 400_000, 0, -0.3, 300_000)),
    "datum of Switzerland": ("EPSG:2056", Affine(0.1, 0, 2_600_000, 0, -0.1, 1_200_000)),
    "no CRS": (None, Affine(0.5, 0, 1000, 0, -0.7, 2000)),
    "no place": (None, Affine.identity()),
}
everywhere = pytest.mark.parametrize("place", PLACES)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def image_at(folder: Path, place: str, **options: Any) -> RasterioSourceConfig:
    crs, transform = PLACES[place]
    path = folder / "image.tif"
    shape_ = {"count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape_) as file:
        file.write(np.full((3, HEIGHT, WIDTH), 9, np.uint8))
    return RasterioSourceConfig(uris=str(path), **options)


def on_map(place: str, polygon: Any) -> Any:
    """Where a polygon of pixels lies on the map, by rasterio and pyproj alone."""
    import pyproj
    from shapely.ops import transform

    crs, at = PLACES[place]
    to_degrees = pyproj.Transformer.from_crs(crs or 4326, 4326, always_xy=True).transform

    def point(x: Any, y: Any) -> Any:
        x, y = np.asarray(x), np.asarray(y)
        x, y = at.a * x + at.b * y + at.c, at.d * x + at.e * y + at.f
        return to_degrees(x, y) if crs else (x, y)

    return transform(point, polygon)


def features(path: Path, place: str, polygons: list[Polygon], ids: list[int]) -> str:
    found = [
        {
            "type": "Feature",
            "properties": {"class_id": i},
            "geometry": mapping(on_map(place, polygon)),
        }
        for polygon, i in zip(polygons, ids, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    return str(path)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return Polygon.from_bounds(left, top, right, bottom)


def close(one: Polygon, other: Polygon) -> bool:
    return bool(one.hausdorff_distance(other) < 1e-6)


def in_pixels(place: str, image: RasterioSourceConfig, uri: str | Path) -> list[Polygon]:
    """The polygons of a file in pixels, by rasterio and pyproj alone."""
    import pyproj
    from shapely.ops import transform

    crs, at = PLACES[place]
    back = pyproj.Transformer.from_crs(4326, crs or 4326, always_xy=True).transform
    there = pyproj.Transformer.from_crs(crs or 4326, 4326, always_xy=True).transform
    inverse = ~at

    def point(x: Any, y: Any) -> Any:
        x, y = np.asarray(x), np.asarray(y)
        if crs:
            first = np.array(back(x, y))
            x, y = 2 * first - back(*there(*first))  # PROJ's own way back is off by a millimetre
        at_c, at_f = x - at.c, y - at.f
        return (inverse.a * at_c + inverse.b * at_f, inverse.d * at_c + inverse.e * at_f)

    collection = json.loads(Path(uri).read_text())
    return [transform(point, shape(f["geometry"])) for f in collection["features"]]


SQUARE = box(20, 10, 60, 50)


@everywhere
@pytest.mark.parametrize("kind", [PolygonVectorOutputConfig, BuildingVectorOutputConfig])
@pytest.mark.parametrize("crop", [None, (5, 10, 85, 110)])
def test_predicted_polygons(place: str, kind: Any, crop: Any, tmp_path: Path) -> None:
    image = image_at(tmp_path, place, bbox=crop)
    top, left = (crop or (0, 0))[:2]
    store = SemanticSegmentationLabelStoreConfig(
        uri=str(tmp_path / "out"), vector_output=[kind(class_id=1, denoise=0)]
    )
    scene = SceneConfig(id="one", raster_source=image, label_store=store).build(CLASSES)
    labels = SemanticSegmentationLabels.make_empty(scene.extent, 3)
    pixels = np.zeros(scene.extent.size, np.uint8)
    pixels[10 - top : 50 - top, 20 - left : 60 - left] = 1
    labels[scene.extent] = pixels
    ensure_transform(scene)
    scene.label_store.save(labels)
    (found,) = in_pixels(place, image, tmp_path / "out" / "vector_output" / "class-1-b.json")
    assert close(found, SQUARE)


@pytest.mark.parametrize("diameter", range(1, 13))
def test_denoising_moves_nothing(diameter: int) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:50, 20:60] = 1
    (found,) = PolygonVectorOutputConfig(class_id=1, denoise=diameter).vectorize(mask)
    assert found.bounds == (20, 10, 60, 50)
    assert found.area >= 1560
    noise = np.random.default_rng(0).integers(0, 2, mask.shape, np.uint8) | mask
    opened = vectorization.denoise(noise, diameter)
    assert not (opened & ~noise).any()


@pytest.mark.parametrize("width", [11, 16, 21, 30])
@pytest.mark.parametrize("height", [12, 27, 40])
def test_buildings_stay_in_place(width: int, height: int) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10 : 10 + height, 20 : 20 + width] = 1
    (found,) = BuildingVectorOutputConfig(class_id=1, denoise=0).vectorize(mask)
    assert found.bounds == (20, 10, 20 + width, 10 + height)


def draw_squares() -> list[Polygon]:
    rng = np.random.default_rng(3)
    corners = rng.uniform((1, 1), (WIDTH - 8, HEIGHT - 8), (64, 2))
    return [box(x, y, x + 6, y + 6) for x, y in corners]


def vectors(uri: str, **options: Any) -> GeoJSONVectorSourceConfig:
    return GeoJSONVectorSourceConfig(uris=uri, **options)


@everywhere
@pytest.mark.parametrize("all_touched", [False, True])
def test_polygons_of_labels(place: str, all_touched: bool, tmp_path: Path) -> None:
    squares = draw_squares()
    uri = features(tmp_path / "label.json", place, squares, [1] * 64)
    source = RasterizedSourceConfig(
        vector_source=vectors(uri),
        rasterizer_config=RasterizerConfig(background_class_id=0, all_touched=all_touched),
    )
    label = SemanticSegmentationLabelSourceConfig(raster_source=source)
    image = image_at(tmp_path, place)
    scene = SceneConfig(id="one", raster_source=image, label_source=label).build(CLASSES)
    found = scene.label_source.get_label_arr(scene.extent)
    exact = rasterize(squares, (HEIGHT, WIDTH), all_touched=all_touched)
    np.testing.assert_array_equal(found, exact)


@everywhere
def test_geometry_and_areas_of_interest(place: str, tmp_path: Path) -> None:
    drawn = [SQUARE, Polygon([(70.25, 3.5), (99.125, 40), (80, 77.75)])]
    uri = features(tmp_path / "areas.json", place, drawn, [0, 0])
    scene = SceneConfig(id="one", raster_source=image_at(tmp_path, place), aoi_uris=[uri])
    found = scene.build(CLASSES).aoi_polygons
    assert all(close(one, other) for one, other in zip(found, drawn, strict=True))
    inside = Box(10, 20, 50, 60)
    assert Box.filter_by_aoi([inside, Box(10, 21, 50, 61)], found) == [inside]


@everywhere
def test_cells_return_as_they_were_saved(place: str, tmp_path: Path) -> None:
    image = image_at(tmp_path, place).build(None)
    cells = [Box(y, x, y + 32, x + 32) for y in (0, 32, 64) for x in (0, 32, 64, 96)]
    labels = ChipClassificationLabels({c: (i % 3, [0.1, 0.2, 0.7]) for i, c in enumerate(cells)})
    uri = str(tmp_path / "cells.json")
    store = ChipClassificationGeoJSONStore(uri, CLASSES, image.crs_transformer, image.bbox)
    store.save(labels)
    found = in_pixels(place, image, uri)
    assert all(close(one, c.to_shapely()) for one, c in zip(found, cells, strict=True))
    back = store.get_labels()
    assert {c: back.get_cell_class_id(c) for c in back.get_cells()} == {
        c: labels.get_cell_class_id(c) for c in cells
    }


@everywhere
@pytest.mark.parametrize("off", [1e-3, -0.5])
def test_cells_of_labels_beyond_the_image(place: str, off: float, tmp_path: Path) -> None:
    """Cells that reach beyond the image keep their place and class.

    They are drawn to 1/1000 of a pixel, or written by Raster Vision alone: from centre to centre.
    """
    grid = [(x, y) for y in range(-48, 96, 32) for x in range(-48, 160, 32)]
    cells = [box(x - off, y - off, x + 32 - off, y + 32 - off) for x, y in grid]
    uri = features(tmp_path / "cells.json", place, cells, [i % 3 for i in range(len(grid))])
    label = ChipClassificationLabelSourceConfig(vector_source=vectors(uri), cell_sz=32)
    image = image_at(tmp_path, place)
    scene = SceneConfig(id="one", raster_source=image, label_source=label).build(CLASSES)
    labels = scene.label_source.get_labels()
    found = {tuple(cell): labels.get_cell_class_id(cell) for cell in labels.get_cells()}
    wanted = {
        (y, x, y + 32, x + 32): i % 3
        for i, (x, y) in enumerate(grid)
        if y + 32 > 0 and x + 32 > 0 and y < HEIGHT and x < WIDTH
    }
    assert found == wanted


@everywhere
@pytest.mark.parametrize("crop", [None, (5, 10, 85, 110)])
def test_boxes_return_as_they_were_saved(place: str, crop: Any, tmp_path: Path) -> None:
    image = image_at(tmp_path, place, bbox=crop).build(None)
    top, left = image.bbox.ymin, image.bbox.xmin
    boxes = np.array([[12.25, 20.5, 40.75, 61.125], [50, 70, 80, 100]])
    local = boxes - [top, left, top, left]
    uri = str(tmp_path / "boxes.json")
    store = ObjectDetectionGeoJSONStore(uri, CLASSES, image.crs_transformer, image.bbox)
    store.save(ObjectDetectionLabels(local, np.array([1, 2]), np.array([0.5, 0.75])))
    found = np.array([polygon.bounds for polygon in in_pixels(place, image, uri)])
    np.testing.assert_allclose(found[:, [1, 0, 3, 2]], boxes, atol=1e-6)
    np.testing.assert_allclose(store.get_labels().get_npboxes(), boxes, atol=1e-6)


@everywhere
def test_boxes_of_labels(place: str, tmp_path: Path) -> None:
    boxes = [box(20.5, 12.25, 61.125, 40.75), box(70, 50, 100, 80)]
    uri = features(tmp_path / "boxes.json", place, boxes, [1, 2])
    label = ObjectDetectionLabelSourceConfig(vector_source=vectors(uri))
    image = image_at(tmp_path, place)
    scene = SceneConfig(id="one", raster_source=image, label_source=label).build(CLASSES)
    found = scene.label_source.get_labels().get_npboxes()
    wanted = [[12.25, 20.5, 40.75, 61.125], [50, 70, 80, 100]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@everywhere
def test_points_and_boxes_on_the_map_and_back(place: str, tmp_path: Path) -> None:
    transformer = image_at(tmp_path, place).build(None).crs_transformer
    crop = Box(7, 9, 77, 99)
    corner = np.ravel(transformer.pixel_to_map((20.25, 10.5)))
    np.testing.assert_allclose(corner, on_map(place, Point(20.25, 10.5)).coords[0], rtol=1e-12)
    back = np.ravel(transformer.map_to_pixel(tuple(corner)))
    np.testing.assert_allclose(back, (20.25, 10.5), atol=1e-6)
    window = Box(10, 20, 50, 60)
    assert transformer.map_to_pixel(transformer.pixel_to_map(window, crop), crop) == window


def test_vectors_that_are_moved_by_metres(tmp_path: Path) -> None:
    """ShiftTransformer goes to the map and back: half a metre is a pixel, no more."""
    uri = features(tmp_path / "label.json", "square", [SQUARE], [1])
    infer = ClassInferenceTransformerConfig()
    source = vectors(uri, transformers=[infer, ShiftTransformerConfig(x_shift=0, y_shift=0)])
    image = image_at(tmp_path, "square").build(None)
    (found,) = source.build(CLASSES, image.crs_transformer).get_geoms()
    assert close(found, SQUARE)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "turned"])
def test_parts_of_a_compound_image_are_read_in_place(place: str, tmp_path: Path) -> None:
    image = image_at(tmp_path, place)
    pixels = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH) % 251
    with rasterio.open(tmp_path / "image.tif", "r+") as file:
        for band in (1, 2, 3):
            file.write(pixels.astype(np.uint8), band)
    other = image.model_copy(update={"bbox": (2, 3, 80, 110)})
    compound = MultiRasterSourceConfig(raster_sources=[image, other]).build()
    window = Box(13, 21, 61, 77)
    chip = compound[window]
    np.testing.assert_array_equal(chip[..., 3], pixels[13:61, 21:77])


def test_a_crop_by_its_place_on_the_map() -> None:
    """Sources from STAC take bbox_map_coords as whole pixels, the nearest."""
    transformer = RasterioCRSTransformer(PLACES["oblong"][1], "EPSG:32633")
    shown = transformer.pixel_to_map(Box(10.2, 20.4, 50.1, 59.6))
    assert tuple(transformer.map_to_pixel(shown).normalize()) == (10, 20, 50, 60)


def test_write_bbox_of_oblong_pixels(tmp_path: Path) -> None:
    path = str(tmp_path / "box.tif")
    crs = rasterio.CRS.from_epsg(32633).to_wkt()
    raster_files.write_bbox(path, np.ones((10, 40), np.uint8), Box(100, 200, 130, 220), crs)
    with rasterio.open(path) as file:
        assert tuple(file.bounds) == (200, 100, 220, 130)
        assert file.res == (0.5, 3.0)


def test_coordinates_that_are_not_finite_are_refused() -> None:
    transformer = RasterioCRSTransformer(PLACES["square"][1], "EPSG:32633")
    with pytest.raises(InputError, match="finite"):
        transformer.map_to_pixel((690_000.0, 5_330_000.0))
    with pytest.raises(InputError, match="finite"):
        transformer.map_to_pixel(box(8, 47, 9, float("nan")))
    with pytest.raises(InputError, match="finite"):
        transformer.pixel_to_map((float("inf"), 0.0))
