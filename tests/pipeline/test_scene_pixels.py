"""Pixels that say "no data" in types that chips don't have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rastervision.core.data import ClassConfig, RasterioSourceConfig, SceneConfig
from rastervision.fastai_backend.backend.scenes import RasterVisionScene
from rastervision.fastai_backend.windows import Window


@pytest.mark.parametrize("missing", [-1.7976931348623157e308, 1e39, np.inf, -np.inf, np.nan])
def test_numbers_beyond_float32_are_no_data(missing: float, tmp_path: Path) -> None:
    """ArcGIS fills with the lowest float64, and its tag is easily lost."""
    pixels = np.random.default_rng(0).random((1, 40, 50))
    pixels[0, 10:20, 5:15] = missing
    path = tmp_path / "heights.tif"
    profile = {"count": 1, "height": 40, "width": 50, "dtype": "float64", "crs": "EPSG:32633"}
    with rasterio.open(
        path, "w", driver="GTiff", transform=from_origin(366_000, 5_808_000, 1, 1), **profile
    ) as image:
        image.write(pixels)
    config = SceneConfig(id="a", raster_source=RasterioSourceConfig(uris=str(path)))
    scene = RasterVisionScene(config.build(ClassConfig(names=["a"]), str(tmp_path)))
    pixels[0, 10:20, 5:15] = 0
    found = scene.image(Window(0, 0, 40, 50))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[..., 0], pixels[0].astype(np.float32))
