"""Labels without a CRS, as ISPRS hands out Potsdam's, are read on the pixels of their images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from placed import (
    CLASSES,
    HEIGHT,
    IMAGE,
    LABEL,
    WIDTH,
    areas,
    checker_of,
    image_of,
    labels_of,
    said,
    scene,
    write,
)
from rastervision.core.data import RasterioSourceConfig
from rastervision.core.rv_pipeline import WindowSamplingConfig
from rastervision.kubernetes import corrections

from rvk8s.contract import Env

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("bbox", [None, (10, 20, 140, 180)], ids=["whole", "cropped"])
@pytest.mark.parametrize(
    ("place", "label"),
    [
        ({}, {"transform": None}),
        ({}, {}),
        ({}, {"transform": rasterio.Affine.scale(3, -3)}),
        ({"side": 1.0}, {"transform": rasterio.Affine.scale(1, -1)}),
        ({"crs": None}, {"transform": None}),
        ({"crs": None, "transform": None}, {}),
    ],
    ids=["nothing", "tfw", "tfw in other units", "tfw of pixels", "only image tfw", "only its tfw"],
)
def test_labels_without_a_crs_lie_on_the_pixels(
    place: dict[str, Any],
    label: dict[str, Any],
    bbox: tuple[int, int, int, int] | None,
    tmp_path: Path,
) -> None:
    """As ISPRS hands out Potsdam's; read as the same label with the image's place is."""
    image = RasterioSourceConfig(uris=write(tmp_path / "image.tif", IMAGE, **place), bbox=bbox)
    plain = scene(image, write(tmp_path / "plain.tif", LABEL[None], **{"crs": None, **label}))
    known = scene(image, write(tmp_path / "known.tif", LABEL[None], **place))
    checker = checker_of(CLASSES)
    for group in ("train", "validation", "test"):
        checker.check_scene(plain, group, None)
    checker.check_scene(known, "train", None)
    checker.check_places()
    assert checker.errors == []
    (warning,) = checker.warnings
    assert "without a CRS (train scene one, validation scene one, ...)" in warning
    np.testing.assert_array_equal(labels_of(plain), labels_of(known))


def test_area_of_interest_of_a_label_without_a_crs(tmp_path: Path) -> None:
    known = np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    known[0, 20:130, 20:170] = LABEL[20:130, 20:170]
    label = write(tmp_path / "label.tif", known, crs=None, transform=None)
    one = scene(image_of(tmp_path), label, areas(tmp_path / "area.json", [(20, 20, 130, 170)]))
    assert said(one, WindowSamplingConfig(size=32, stride=32)) == []
    assert "255" in said(one, WindowSamplingConfig(size=32, stride=32, within_aoi=False))[0]


def test_labels_without_a_crs_are_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under Raster Vision's own runners; in a stage configure alone warns."""
    label = write(tmp_path / "label.tif", LABEL[None], crs=None, transform=None)
    one = scene(image_of(tmp_path), label)
    for stage, warned in ((True, 0), (False, 1)):
        with monkeypatch.context() as patch:
            patch.setenv(Env.RUN_URI, "run") if stage else patch.delenv(Env.RUN_URI, raising=False)
            corrections._warn_of_labels_without_crs.cache_clear()
            for _ in range(2):
                labels_of(one)
        assert caplog.text.count("without a CRS") == warned


def test_rasters_without_a_transform_open_in_silence(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        corrections.silence_georeference_warnings()
        label = write(tmp_path / "label.tif", LABEL[None], crs=None, transform=None)
        np.testing.assert_array_equal(labels_of(scene(image_of(tmp_path), label)), LABEL)
