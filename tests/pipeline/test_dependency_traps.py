"""The dependency set is proven: a test for each pin that Raster Vision 0.31 needs.

A test that fails here names the pin of pyproject.toml that was loosened too far. The facts stand in
docs/decisions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

pytestmark = pytest.mark.slow


@contextmanager
def pin(name: str, trap: str) -> Iterator[None]:
    """Whatever goes wrong inside is this pin's."""
    try:
        yield
    except Exception as e:  # noqa: BLE001  # every error is reported with the pin
        pytest.fail(f"the pin of {name} in pyproject.toml is loosened: {trap} ({e!r})")


def write(path: Path, band: np.ndarray, resolution: float) -> str:
    """Write a band as a GeoTIFF; resolution in metres."""
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": band.shape[0],
        "width": band.shape[1],
        "dtype": band.dtype,
        "crs": "EPSG:32633",
        "transform": from_origin(366_000, 5_808_000, resolution, resolution),
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(band, 1)
    return str(path)


def test_rasterio_reads_a_coarse_band_of_a_multi_raster_source(tmp_path: Path) -> None:
    """rasterio 1.4 silently gives zeros where the window is smaller than a pixel of a source."""
    from rastervision.core.box import Box
    from rastervision.core.data import MultiRasterSource, RasterioSource

    fine = RasterioSource(write(tmp_path / "fine.tif", np.full((256, 256), 10, np.uint8), 0.5))
    coarse = RasterioSource(write(tmp_path / "coarse.tif", np.full((16, 16), 20, np.uint8), 8.0))
    source = MultiRasterSource([fine, coarse], primary_source_idx=0)
    with pin("rasterio", "MultiRasterSource reads zeros for a band"):
        for window in (Box(0, 0, 8, 8), Box(5, 5, 9, 9), Box(0, 0, 256, 256)):
            chip = source.get_chip(window)
            assert (chip == [10, 20]).all()


def test_numpy_has_what_building_polygons_need() -> None:
    """numpy 2 has no np.int0, which Raster Vision's BuildingVectorOutput calls."""
    from rastervision.core.data import BuildingVectorOutputConfig

    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:24] = 1
    with pin("numpy", "building polygons crash"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        polygons = list(BuildingVectorOutputConfig(class_id=0).vectorize(mask))
        assert len(polygons) == 1


def test_scikit_learn_takes_an_empty_window() -> None:
    """Later versions of confusion_matrix raise where Raster Vision's evaluation has no pixel to
    look at: a scene whose area of interest is empty."""
    from rastervision.core.box import Box
    from rastervision.core.data import ClassConfig, SemanticSegmentationDiscreteLabels
    from rastervision.core.evaluation import SemanticSegmentationEvaluation

    classes = ClassConfig(names=["a", "b", "null"])
    nothing = SemanticSegmentationDiscreteLabels(Box(0, 0, 0, 0), num_classes=3)
    evaluation = SemanticSegmentationEvaluation(classes)
    with pin("scikit-learn", "evaluation of an empty scene raises"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 pixels
        evaluation.compute(nothing, nothing)
        assert evaluation.conf_mat.sum() == 0


def test_onnx_bundles_of_raster_visions_own_learner(tmp_path: Path) -> None:
    """From 2.9 on torch exports to ONNX through onnxscript; Raster Vision does so at the end of a
    training and does not depend on it."""
    from rastervision.core.data import ClassConfig
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
    )

    classes = ClassConfig(names=["a", "null"])
    data = SemanticSegmentationGeoDataConfig(class_config=classes, img_channels=3)
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(data=data),
        model=torch.nn.Conv2d(3, 2, 3, padding=1),
        training=False,
    )
    path = tmp_path / "model.onnx"
    with pin("torch, onnx or onnxscript", "Raster Vision's learner can't write its bundle"):
        assert find_spec("onnxscript") is not None
        learner.export_to_onnx(str(path), sample_input=torch.rand(1, 3, 32, 32))
        assert path.exists()


def test_folders_on_s3_need_no_aws_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Raster Vision copies folders with the `aws` program, which nothing installs, and does not
    look at its exit code; our file system stands before Raster Vision's."""
    from rastervision.pipeline.file_system import FileSystem

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert shutil.which("aws") is None
    chosen = FileSystem.get_file_system("s3://bucket/key", "w")
    assert chosen.__module__.startswith("rastervision.kubernetes"), (
        f"{chosen} would be asked for s3:// folders: rastervision.kubernetes.register_plugin "
        "must put its file system at the front"
    )
    monkeypatch.setattr(
        "subprocess.Popen", lambda *_a, **_k: pytest.fail("a program was started for S3")
    )
    copied = []
    monkeypatch.setattr("rvk8s.storage.upload_dir", lambda path, uri, **_: copied.append(uri))
    chosen.sync_to_dir(str(tmp_path), "s3://bucket/key")
    assert copied == ["s3://bucket/key"]


def test_albumentations_does_not_ask_the_network() -> None:
    """At import it looks for its newest version unless NO_ALBUMENTATIONS_UPDATE is set, as every
    stage does; what it meets on its way there it keeps to itself."""
    code = (
        "import socket; asked = []; socket.getaddrinfo = lambda *a, **k: asked.append(a) or [];"
        "from rastervision.kubernetes import stage; stage._set_environment();"
        "import albumentations; print(len(asked))"
    )
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_albumentations_update"}
    environ = {k: v for k, v in os.environ.items() if k.lower() not in proxies}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


@pytest.mark.parametrize("crs", [31468, 27700, 4267])
@pytest.mark.parametrize("given", [None, "ON", "OFF"])
def test_stages_transform_without_the_network(crs: int, given: str | None) -> None:
    """With PROJ_NETWORK=ON, as conda sets it, and no internet PROJ gives infinity for these."""
    code = (
        "from rastervision.kubernetes import stage; stage._set_environment();"
        f"import pyproj; crs = pyproj.CRS({crs});"
        "west, south, east, north = crs.area_of_use.bounds;"
        "to = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform;"
        "x, y = to((west + east) / 2, (south + north) / 2); print(abs(x) + abs(y) < 1e8)"
    )
    environ = {k: v for k, v in os.environ.items() if k != "PROJ_NETWORK"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environ, **({"PROJ_NETWORK": given} if given else {})},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_the_images_of_stages_keep_proj_off_the_network() -> None:
    dockerfile = (Path(__file__).parents[2] / "docker" / "Dockerfile").read_text()
    stage = dockerfile.partition("FROM base AS stage")[2]
    assert "PROJ_NETWORK=OFF" in stage
