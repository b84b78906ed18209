"""Scenes of several files: the pixels of the files wherever they are read, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.merge import merge
from rasterio.transform import from_origin
from rastervision.core.box import Box
from rastervision.core.data import (
    ClassConfig,
    RasterioSource,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.fastai_backend.backend.scenes import RasterVisionScene
from rastervision.fastai_backend.windows import Window
from said import says

from rvk8s.errors import InputError

LEFT, TOP = 366_000.3, 5_808_000.7
CLASSES = ClassConfig(names=["a", "b", "c"])


def write(
    path: Path,
    pixels: np.ndarray,
    x: float = 0,
    y: float = 0,
    *,
    side: float = 0.1,
    mask: np.ndarray | None = None,
    colors: Sequence[ColorInterp] = (),
    **profile: Any,
) -> str:
    """Write pixels (bands, height, width); x and y are in pixels of 0.1 m."""
    profile = {
        "driver": "GTiff",
        "crs": "EPSG:32633",
        "transform": from_origin(LEFT + x * 0.1, TOP - y * 0.1, side, side),
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        **profile,
    }
    with rasterio.open(path, "w", **profile) as image:
        image.write(pixels)
        if colors:
            image.colorinterp = colors
        if mask is not None:
            image.write_mask(mask)
    return str(path)


def noise(seed: int, bands: int, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, (bands, height, width)).astype(dtype)


def source(uris: Sequence[str], **options: Any) -> RasterioSource:
    return RasterioSourceConfig(uris=list(uris), **options).build(None)


def padded(pixels: np.ndarray, window: Box) -> np.ndarray:
    """(height, width, bands) of a window of pixels (bands, height, width); 0 beyond the edges."""
    out = np.zeros((window.height, window.width, len(pixels)), pixels.dtype)
    part = pixels[:, max(window.ymin, 0) : window.ymax, max(window.xmin, 0) : window.xmax]
    row, col = max(-window.ymin, 0), max(-window.xmin, 0)
    out[row : row + part.shape[1], col : col + part.shape[2]] = part.transpose(1, 2, 0)
    return out


WINDOWS = [Box(0, 0, 90, 130), Box(30, 40, 70, 80), Box(60, 100, 108, 148), Box(-9, -7, 39, 41)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("nodata", [None, 7])
def test_a_mosaic_has_the_pixels_of_its_files(
    dtype: str, nodata: int | None, tmp_path: Path
) -> None:
    """Parts that overlap, with a gap between them, in no order: rasterio.merge judges."""
    layout = [(70, 0), (0, 0), (0, 50), (61, 43)]
    uris = []
    for i, (x, y) in enumerate(layout):
        pixels = noise(i, 3, 40 + (y == 43) * 7, 60 + (x == 61) * 9, dtype)
        if nodata is not None:
            pixels[:, 3:9, 5:30] = nodata
        uris.append(write(tmp_path / f"{i}.tif", pixels, x, y, nodata=nodata))
    want, transform = merge(uris, method="last")
    want[want == nodata] = 0
    found = source(uris)
    assert found.shape == (90, 130, 3) == (*want.shape[1:], 3)
    assert found.dtype == np.dtype(dtype)
    assert found.image_dataset.transform == transform
    assert found.image_dataset.crs == rasterio.CRS.from_epsg(32633)
    for window in WINDOWS:
        np.testing.assert_array_equal(found.get_chip(window), padded(want, window))


def test_scenes_of_several_files_are_not_mixed_up(tmp_path: Path) -> None:
    """Images and labels of two scenes, opened in one folder, as every stage opens them."""
    opened, pixels, labels = [], [], []
    for seed in (1, 2):
        pixels.append(noise(seed, 3, 90, 130))
        labels.append(noise(seed + 2, 1, 90, 130) % 3)
        uris: list[list[str]] = [[], []]
        for kind, whole in enumerate((pixels[-1], labels[-1])):
            for x, part in ((0, whole[:, :, :70]), (70, whole[:, :, 70:])):
                uris[kind].append(write(tmp_path / f"{seed}-{kind}-{x}.tif", part, x))
        config = SceneConfig(
            id=str(seed),
            raster_source=RasterioSourceConfig(uris=uris[0]),
            label_source=SemanticSegmentationLabelSourceConfig(
                raster_source=RasterioSourceConfig(uris=uris[1])
            ),
        )
        opened.append(RasterVisionScene(config.build(CLASSES, str(tmp_path))))
    for window in WINDOWS:
        for scene, image, label in zip(opened, pixels, labels, strict=True):
            place = Window(*window)
            np.testing.assert_array_equal(scene.image(place), padded(image, window))
            np.testing.assert_array_equal(scene.labels(place), padded(label, window)[..., 0])
    assert not list(tmp_path.glob("*.vrt"))


def test_what_is_transparent_or_masked_covers_nothing(tmp_path: Path) -> None:
    clear = np.ones((40, 60), np.uint8) * 255
    clear[10:20, 5:25] = 0
    under = noise(0, 4, 40, 60)
    over = noise(1, 4, 40, 60)
    under[3], over[3] = 255, clear
    rgba = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    kinds = {
        "alpha": ({"colors": rgba}, {"colors": rgba}),
        "mask": ({"mask": clear | 255}, {"mask": clear}),
    }
    for kind, options in kinds.items():
        bands = 4 if kind == "alpha" else 3
        uris = [
            write(tmp_path / f"{kind}-{i}.tif", pixels[:bands], i * 10, 0, **options[i])
            for i, pixels in enumerate((under, over))
        ]
        found = source(uris)
        assert found.num_channels == 3, "alpha is no channel"
        want = np.zeros((3, 40, 70), np.uint8)
        want[:, :, :60] = under[:3]
        want[:, :, 10:] = np.where(clear, over[:3], want[:, :, 10:])
        np.testing.assert_array_equal(
            found.get_chip(Box(0, 0, 40, 70)), padded(want, Box(0, 0, 40, 70))
        )
        beyond = Box(-5, 40, 43, 88)
        np.testing.assert_array_equal(found.get_chip(beyond), padded(want, beyond))


def test_places_between_pixels_are_whole_pixels(tmp_path: Path) -> None:
    """Raster Vision reads with bilinear resampling, which would make other ids of labels."""
    left, right = noise(0, 1, 40, 60), noise(1, 1, 40, 60)
    uris = [write(tmp_path / "l.tif", left, 0, 0.2), write(tmp_path / "r.tif", right, 60.3)]
    want = np.concatenate([left, right], axis=2)
    for window in (Box(0, 0, 40, 120), Box(11, 47, 31, 73), Box(-5, 33, 45, 130)):
        np.testing.assert_array_equal(source(uris).get_chip(window), padded(want, window))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "crs": ({"crs": "EPSG:32632"}, "reference system (EPSG:32633 and EPSG:32632)"),
    "no crs": ({"crs": None}, "reference system (EPSG:32633 and none)"),
    "bands": ({"bands": 4}, "number of bands (3 and 4)"),
    "type": ({"dtype": "uint16"}, "pixel type (uint8 and uint16)"),
    "resolution": ({"side": 0.101}, "resolution (0.1 x 0.1 and 0.101 x 0.101)"),
    "colors": (
        {"photometric": "RGB", "colors": []},
        "colors of bands (gray/undefined/undefined and red/green/blue)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_different_kinds(name: str, tmp_path: Path) -> None:
    options, what = dict(REFUSED[name][0]), REFUSED[name][1]
    pixels = noise(0, options.pop("bands", 3), 40, 60, options.get("dtype", "uint8"))
    first = write(tmp_path / "first.tif", noise(0, 3, 40, 60), photometric="MINISBLACK")
    other = write(tmp_path / "other.tif", pixels, 60, **{"photometric": "MINISBLACK", **options})
    with pytest.raises(InputError) as error:
        source([first, other])
    assert says(str(error.value), f"{first} and {other}…differ in…{what}; …")


def test_palettes_of_different_colors(tmp_path: Path) -> None:
    uris = [write(tmp_path / f"{i}.tif", noise(0, 1, 40, 60), i * 60) for i in range(2)]
    for i, uri in enumerate(uris):
        with rasterio.open(uri, "r+") as image:
            image.write_colormap(1, {0: (i, 0, 0, 255), 1: (0, 255, 0, 255)})
    with pytest.raises(InputError, match=r"differ in .*color table; "):
        source(uris)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_without_a_place(tmp_path: Path) -> None:
    first = write(tmp_path / "first.tif", noise(0, 3, 40, 60))
    turned = from_origin(LEFT, TOP, 0.1, 0.1) @ rasterio.Affine.rotation(30)
    for transform, what in ((None, "where on a map"), (turned, "rotated")):
        bad = write(tmp_path / "bad.tif", noise(0, 3, 40, 60), transform=transform)
        with pytest.raises(InputError) as error:
            source([first, bad])
        assert says(str(error.value), f"{bad}…{what}…several files; …georeferenced…north up…")
