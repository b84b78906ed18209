"""What configure says of images and labels: nothing where Raster Vision reads the right labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from placed import (
    CLASSES,
    HEIGHT,
    IMAGE,
    LABEL,
    SIDE,
    WIDTH,
    areas,
    checker_of,
    image_of,
    labels_of,
    said,
    scene,
    write,
)
from rasterio import Affine
from rastervision.core.box import Box
from rastervision.core.data import (
    CastTransformerConfig,
    DatasetConfig,
    MultiRasterSourceConfig,
    RasterioSourceConfig,
    StatsTransformerConfig,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from rastervision.kubernetes import inputs


def test_a_label_that_covers_more_than_its_image(tmp_path: Path) -> None:
    whole = np.zeros((1, 300, 400), np.uint8)
    whole[0, 70:220, 60:250] = LABEL
    one = scene(image_of(tmp_path), write(tmp_path / "label.tif", whole, -60, -70))
    np.testing.assert_array_equal(labels_of(one), LABEL)
    assert said(one) == []


def test_a_label_that_is_the_part_of_its_image_that_is_used(tmp_path: Path) -> None:
    part = LABEL[None, 10:140, 20:180]
    image = image_of(tmp_path, bbox=(10, 20, 140, 180))
    one = scene(image, write(tmp_path / "label.tif", part, 20, 10))
    np.testing.assert_array_equal(labels_of(one), part[0])
    assert said(one) == []


def test_a_label_of_the_area_of_interest(tmp_path: Path) -> None:
    part = write(tmp_path / "label.tif", LABEL[None, 20:130, 20:170], 20, 20)
    area = areas(tmp_path / "area.json", [(20, 20, 130, 170)])
    assert said(scene(image_of(tmp_path), part, area)) == []
    assert len(said(scene(image_of(tmp_path), part))) == 1


def test_the_label_of_a_compound_image_is_compared_with_its_primary_source(tmp_path: Path) -> None:
    coarse = RasterioSourceConfig(uris=write(tmp_path / "low.tif", IMAGE[:, ::2, ::2], side=1.0))
    parts = [coarse, image_of(tmp_path)]
    image = MultiRasterSourceConfig(raster_sources=parts, primary_source_idx=1)
    one = scene(image, write(tmp_path / "label.tif", LABEL[None]))
    np.testing.assert_array_equal(labels_of(one), LABEL)
    assert said(one) == []


def test_sources_that_transformers_give_one_pixel_type(tmp_path: Path) -> None:
    """8 bits of colour and heights in metres; and 16 bits whose statistics are made later."""
    heights = write(tmp_path / "dem.tif", IMAGE[:1].astype(np.float32))
    deep = write(tmp_path / "deep.tif", IMAGE.astype(np.uint16))
    label = write(tmp_path / "label.tif", LABEL[None])
    cast = [CastTransformerConfig(to_dtype="float32")]
    stats = [StatsTransformerConfig(stats_uri=str(tmp_path / "not there yet.json"))]
    floats = [
        image_of(tmp_path, transformers=cast),
        RasterioSourceConfig(uris=heights, transformers=cast),
    ]
    bytes_ = [image_of(tmp_path), RasterioSourceConfig(uris=deep, transformers=stats)]
    for parts in (floats, bytes_):
        assert said(scene(MultiRasterSourceConfig(raster_sources=parts), label)) == []
    assert stats[0].stats_uri, "the check changes no config"
    # The analyze stage, where there is one, reads them without transformers.
    analyzing = checker_of(CLASSES, analyze=True)
    for parts in (floats, bytes_):
        analyzing.check_scene(
            scene(MultiRasterSourceConfig(raster_sources=parts), label), "train", None
        )
    assert len(analyzing.errors) == 2
    assert all("dtypes of all sub raster sources must be" in str(e) for e in analyzing.errors)
    parts = [image_of(tmp_path), RasterioSourceConfig(uris=heights)]
    (line,) = said(scene(MultiRasterSourceConfig(raster_sources=parts), label))
    assert "dtypes of all sub raster sources must be the same" in line


def test_a_scene_whose_pixels_are_all_the_same_is_not_without_data(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat.tif", np.full((3, HEIGHT, WIDTH), 9, np.uint16))
    image = RasterioSourceConfig(uris=flat, transformers=[StatsTransformerConfig(stats_uri="no")])
    assert said(scene(image, write(tmp_path / "label.tif", LABEL[None]))) == []


def test_ids_outside_of_the_area_of_interest(tmp_path: Path) -> None:
    known = np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    known[0, 20:130, 20:170] = LABEL[20:130, 20:170]
    label = write(tmp_path / "label.tif", known)
    area = areas(tmp_path / "area.json", [(20, 20, 130, 170)])
    sampling = WindowSamplingConfig(size=32, stride=32)
    assert said(scene(image_of(tmp_path), label, area), sampling) == []
    touching = WindowSamplingConfig(size=32, stride=32, within_aoi=False)
    larger = areas(tmp_path / "larger.json", [(20, 20, 130, 170), (125, 160, 149, 189)])
    for one, sampled in (
        (scene(image_of(tmp_path), label, area), touching),
        (scene(image_of(tmp_path), label, larger), sampling),
        (scene(image_of(tmp_path), label), sampling),
    ):
        (line,) = said(one, sampled)
        assert "its label holds the ids 255, the class config has 0 to 2" in line


def test_an_area_of_interest_that_lies_elsewhere(tmp_path: Path) -> None:
    """Raster Vision takes the whole scene then, also pixels that nobody has labelled."""
    label = write(tmp_path / "label.tif", LABEL[None])
    beside = areas(tmp_path / "beside.json", [(20, 300, 130, 400)])
    nothing = areas(tmp_path / "nothing.json", [])
    for area in (beside, nothing):
        one = scene(image_of(tmp_path), label, area)
        assert one.build(CLASSES).aoi_polygons_bbox_coords == []
        (line,) = said(one)
        assert f"no polygon that touches the image ({area}); give this scene's own" in line
    crop = image_of(tmp_path, bbox=(0, 0, 60, 60))
    area = areas(tmp_path / "area.json", [(70, 70, 130, 170)])
    assert "no polygon that touches" in said(scene(crop, label, area))[0]
    assert said(scene(image_of(tmp_path), label, area)) == []


OTHER_SIZE = "the image has 190 x 150 pixels, its label 380 x 300; give the label of this image"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        ({}, {"x": 50}, "its label lies in another place, or has pixels of another size"),
        ({}, {"x": 9999}, "its label lies in another place, or has pixels of another size"),
        ({}, {"side": 1.0}, "its label lies in another place, or has pixels of another size"),
        ({}, {"side": 0.25, "twice": True}, OTHER_SIZE),
        (
            {"crs": None, "transform": None},
            {"crs": None, "transform": None, "twice": True},
            OTHER_SIZE,
        ),
        (
            {},
            {"crs": None, "transform": None, "twice": True},
            "the image has 190 x 150 pixels, its label 380 x 300 pixels and no CRS",
        ),
        ({}, {"crs": None, "side": 0.25, "twice": True}, OTHER_SIZE),
        ({}, {"crs": None, "x": WIDTH}, "its label lies in another place"),
        ({}, {"x": 0.5, "y": 0.5}, None),
        ({"crs": None, "transform": None}, {"crs": None, "transform": None}, None),
    ],
)
def test_labels_of_another_place(
    image: dict[str, Any], label: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    options, pixels = dict(label), LABEL[None]
    if options.pop("twice", False):
        pixels = pixels.repeat(2, 1).repeat(2, 2)
    source = RasterioSourceConfig(uris=write(tmp_path / "image.tif", IMAGE, **image))
    found = said(scene(source, write(tmp_path / "label.tif", pixels, **options)))
    if message is None:
        assert found == []
    else:
        (line,) = found
        assert f"train scene one: {message}" in line


@pytest.mark.parametrize(
    ("x", "y", "side"),
    [(0.5, 0.5, SIDE), (-0.5, -0.5, SIDE), (0, 0.5, SIDE), (0, 0, SIDE * 1.004), (0, 0, 0.498)],
)
def test_a_label_that_lies_between_the_pixels_of_its_image(
    x: float, y: float, side: float, tmp_path: Path
) -> None:
    """Its bbox, rounded, has a row or column more or less than the scene."""
    file = write(tmp_path / "label.tif", LABEL[None], x, y, side=side)
    one = scene(image_of(tmp_path), file)
    assert said(one) == []
    source = one.build(CLASSES).label_source
    found = source.get_labels().get_label_arr(Box(0, 0, HEIGHT, WIDTH))
    assert source.extent == Box(0, 0, HEIGHT, WIDTH)
    # No pixel of the label is more than one of its own away from where it belongs.
    off = source.bbox
    rows, cols = range(max(off.ymin, 0), HEIGHT), range(max(off.xmin, 0), WIDTH)
    assert 0 <= off.ymin <= 1
    assert 0 <= off.xmin <= 1
    np.testing.assert_array_equal(found[: len(rows), : len(cols)], LABEL[np.ix_(rows, cols)])


def options_said(
    tmp_path: Path, commands: Sequence[str] | None = None, **options: Any
) -> list[str]:
    one = scene(image_of(tmp_path), write(tmp_path / "label.tif", LABEL[None]))
    sampling = WindowSamplingConfig(size=48, stride=48)
    given = {
        "chip_options": SemanticSegmentationChipOptions(sampling=sampling),
        "predict_options": SemanticSegmentationPredictOptions(chip_sz=48),
        "backend": FastaiSemanticSegmentationConfig(model={"pretrained": False}),
        **options,
    }
    config = SemanticSegmentationConfig(
        root_uri=str(tmp_path),
        dataset=DatasetConfig(class_config=CLASSES, train_scenes=[one], validation_scenes=[one]),
        **given,
    )
    errors, _ = inputs.check(config, 0, 1, commands)
    return [str(error) for error in errors]


def test_options_that_a_command_needs(tmp_path: Path) -> None:
    chip = "chip_options: is not set; say there how chips are sampled"
    predict = (
        "predict_options: is not set; give at least the chip_sz that scenes are predicted with"
    )
    nothing = {"chip_options": None, "predict_options": None}
    assert options_said(tmp_path) == []
    assert options_said(tmp_path, **nothing) == [chip, predict]
    assert options_said(tmp_path, ["train", "eval"], **nothing) == []
    windows = FastaiSemanticSegmentationConfig(
        model={"pretrained": False}, sampling=WindowSamplingConfig(size=48, stride=48)
    )
    assert options_said(tmp_path, chip_options=None, backend=windows) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop_sz": 8},
            "48 pixels cropped by 8 on each side leave gaps with a stride of 48; "
            "give a stride of at most 32",
        ),
        (
            {"crop_sz": 8, "stride": 33},
            "48 pixels cropped by 8 on each side leave gaps with a stride of 33; "
            "give a stride of at most 32",
        ),
        (
            {"crop_sz": 24, "stride": 8},
            "cropping 24 pixels on each side leaves nothing of windows of 48; "
            "give a larger chip_sz or a smaller crop_sz",
        ),
        (
            {"stride": 49},
            "windows of 48 pixels with a stride of 49 leave gaps; give a stride of at most 48",
        ),
        ({"crop_sz": 8, "stride": 32}, None),
        ({"crop_sz": "auto", "stride": 24}, None),
        ({"stride": 48}, None),
    ],
)
def test_prediction_windows_that_leave_gaps(
    options: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    """Raster Vision refuses the same, hours later."""
    from rastervision.core.utils.misc import calculate_required_padding

    built = SemanticSegmentationPredictOptions(chip_sz=48, **options)
    found = options_said(tmp_path, predict_options=built)
    assert found == ([f"predict_options: {message}"] if message else [])
    fits = True
    try:
        calculate_required_padding((150, 190), 48, built.stride, "both", built.crop_sz)
    except ValueError:
        fits = False
    assert fits == (message is None)


def test_images_and_labels_that_are_turned(tmp_path: Path) -> None:
    """rasterio reads their windows from another place."""
    turned = Affine(0.4, 0.3, 366_000, 0.3, -0.4, 5_808_000)
    image = RasterioSourceConfig(uris=write(tmp_path / "turned.tif", IMAGE, transform=turned))
    label = write(tmp_path / "turned-label.tif", LABEL[None], transform=turned)
    lines = said(scene(image, label))
    assert len(lines) == 2
    assert all("is rotated" in line and "gdalwarp" in line for line in lines)
    exact = Affine(0.5, 1e-9, 366_000, 1e-9, -0.5, 5_808_000)
    image = RasterioSourceConfig(uris=write(tmp_path / "image.tif", IMAGE, transform=exact))
    assert said(scene(image, write(tmp_path / "label.tif", LABEL[None], transform=exact))) == []
