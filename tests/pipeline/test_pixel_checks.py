"""Images and labels that Raster Vision reads as something else, or that end in an exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rastervision.core.data import RGBClassTransformerConfig
from rastervision.core.rv_pipeline import SemanticSegmentationConfig
from rastervision.fastai_backend.backend.scene_views import metres_of_pixel
from rastervision.kubernetes import inputs
from said import check_lines

# Files are written without a place, which rasterio warns of.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SITE = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
IMAGE, LABEL = "image_train_a.tif", "label_train_a.tif"
A = "train scene train_a: "


def rewrite(path: Path, change: Callable[[np.ndarray], Any] = np.asarray, **profile: Any) -> None:
    """Write a file again, with other pixels or another profile."""
    with rasterio.open(path) as file:
        pixels, before = np.asarray(change(file.read())), file.profile
    before |= {"count": len(pixels), "dtype": pixels.dtype, **profile}
    with rasterio.open(path, "w", **before) as file:
        file.write(pixels)


def control_points(path: Path) -> None:
    """Say by four points where a file lies, instead of by a transform."""
    with rasterio.open(path) as file:
        pixels, place, crs, profile = file.read(), file.transform, file.crs, file.profile
    corners = [(row, column) for row in (0, len(pixels[0])) for column in (0, len(pixels[0]))]
    points = [GroundControlPoint(r, c, *(place @ (c, r))) for r, c in corners]
    del profile["transform"], profile["crs"]
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.gcps = points, crs


def floats(folder: Path, change: Callable[[np.ndarray], Any]) -> None:
    """All images as float32, one of them changed."""
    for path in folder.glob("image_*.tif"):
        rewrite(path, lambda pixels: pixels.astype(np.float32))
    rewrite(folder / IMAGE, lambda pixels: np.asarray(change(pixels), np.float32))


def gaps(value: float) -> Callable[[Path], None]:
    return lambda folder: floats(folder, lambda pixels: np.where(pixels < 60, value, pixels))


FILES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a label in colours": (
        lambda folder: rewrite(folder / LABEL, lambda ids: np.repeat(ids * 80, 3, 0)),
        [
            A
            + "…label_train_a.tif has 3 bands…ClassConfig(names, colors)…RGBClassTransformerConfig…"
        ],
    ),
    "a CRS of the label alone": (
        lambda folder: rewrite(folder / IMAGE, crs=None),
        [A + "its label…its image does not; give both…"],
    ),
    "an image of control points": (
        lambda folder: control_points(folder / IMAGE),
        [A + "…image_train_a.tif has ground control points…gdalwarp"],
    ),
    "an image on a site's grid": (
        lambda folder: rewrite(folder / IMAGE, crs=SITE),
        [A + "…site's own grid…same CRS"],
    ),
    "a label on a site's grid": (
        lambda folder: rewrite(folder / LABEL, crs=SITE),
        [A + "…site's own grid…same CRS"],
    ),
    "labels between numbers": (
        lambda folder: rewrite(folder / LABEL, lambda ids: (ids * 0.9).astype(np.float32)),
        [A + "its label…label_train_a.tif has pixels of 0.9…whole numbers…"],
    ),
    "labels of no number": (
        lambda folder: rewrite(
            folder / LABEL, lambda ids: np.where(ids == 1, np.nan, ids).astype(np.float32)
        ),
        [A + "its label…label_train_a.tif has pixels of nan…whole numbers…"],
    ),
    "labels that are whole floats": (
        lambda folder: rewrite(folder / LABEL, lambda ids: ids.astype(np.float32)),
        [],
    ),
    "-9999": (gaps(-9999), [A + "…image_train_a.tif has pixels of -9999…--nodata -9999…"]),
    "NaN": (gaps(np.nan), [A + "…image_train_a.tif has pixels of nan…--nodata nan…"]),
    "the least float": (gaps(np.finfo("f4").min), [A + "…pixels of -3.40282347e+38…--nodata…"]),
    "numbers below 0": (gaps(-3.5), []),
    "a palette": (
        lambda folder: rewrite(folder / IMAGE, lambda pixels: pixels[:1], photometric="palette"),
        [A + "…image_train_a.tif has 1 bands…"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_read_as_something_else(
    name: str, config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    spoil, wanted = FILES[name]
    spoil(tmp_path)
    errors, _ = inputs.check(config, gpus=0)
    check_lines([str(error) for error in errors], wanted)


def test_nodata_that_a_file_names_is_taken(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    gaps(-9999)(tmp_path)
    rewrite(tmp_path / IMAGE, nodata=-9999)
    assert inputs.check(config, gpus=0) == ([], [])


def test_a_palette_is_no_brightness(config: SemanticSegmentationConfig, tmp_path: Path) -> None:
    for scene in (*config.dataset.train_scenes, *config.dataset.validation_scenes):
        scene.raster_source.channel_order = [0]
    rewrite(tmp_path / IMAGE, lambda pixels: pixels[:1], photometric="palette")
    with rasterio.open(tmp_path / IMAGE, "r+") as file:
        file.write_colormap(1, {i: (i, 0, 0, 255) for i in range(256)})
    errors, _ = inputs.check(config, gpus=0)
    check_lines([str(error) for error in errors], [A + "…palette; …expand rgb"])


def test_a_site_grid_of_both_is_a_place(config: SemanticSegmentationConfig, tmp_path: Path) -> None:
    """The label is larger than the image, so that its place counts."""
    with rasterio.open(tmp_path / LABEL) as file:
        ids, place = file.read(), file.transform
    larger = np.pad(ids, ((0, 0), (5, 3), (7, 9)))
    moved = place @ rasterio.Affine.translation(-7, -5)
    shape = {"height": larger.shape[1], "width": larger.shape[2], "transform": moved}
    rewrite(tmp_path / LABEL, lambda _: larger, crs=SITE, **shape)
    rewrite(tmp_path / IMAGE, crs=SITE)
    assert inputs.check(config, gpus=0) == ([], [])
    scene = config.dataset.train_scenes[0].build(config.dataset.class_config)
    np.testing.assert_array_equal(scene.label_source.get_label_arr(), ids[0])
    assert metres_of_pixel(scene) is None


@pytest.mark.parametrize("of", ["image", "label"])
def test_sources_without_files_or_bands(config: SemanticSegmentationConfig, of: str) -> None:
    scene = config.dataset.train_scenes[0]
    source = scene.raster_source if of == "image" else scene.label_source.raster_source
    where = A if of == "image" else f"label of {A}"
    source.channel_order = []
    errors, _ = inputs.check(config, gpus=0)
    check_lines([str(error) for error in errors], [where + "…channel_order is empty; …"])
    source.channel_order, source.uris = None, []
    errors, _ = inputs.check(config, gpus=0)
    check_lines([str(error) for error in errors], [where + "…no file; …uris…"])


def test_colours_that_do_not_exist(config: SemanticSegmentationConfig) -> None:
    config.dataset.class_config.colors[0] = "nocolour"
    errors, _ = inputs.check(config, gpus=0)
    check_lines([str(error) for error in errors], ["class_config.colors: field: 'nocolour'…"])


def test_labels_in_colours_that_are_read_as_ids(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    """As the error says: named in the class config, and read by a transformer."""
    config.dataset.class_config.colors[:2] = [(0, 128, 0), (255, 0, 0)]
    colors = np.array([*config.dataset.class_config.colors[:2], (0, 0, 0)], np.uint8)
    rewrite(tmp_path / LABEL, lambda ids: colors[ids[0]].transpose(2, 0, 1))
    source = config.dataset.train_scenes[0].label_source.raster_source
    transformer = RGBClassTransformerConfig(class_config=config.dataset.class_config)
    source.transformers = [transformer]
    assert inputs.check(config, gpus=0) == ([], [])
