"""`rastervision run local` with the fastai backend, and what predicts with its bundle afterwards:
Predictor, ScenePredictor and `rastervision predict` give the pipeline's own pixels."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
from rastervision.core.data import SemanticSegmentationLabelStoreConfig
from rastervision.core.predictor import Predictor, ScenePredictor
from rastervision.pipeline.config import build_config
from rastervision.pipeline.file_system.utils import file_to_json
from s3server import S3Server

TINY = Path(__file__).parent / "tiny"
BIN = Path(sys.executable).parent


def rastervision(*args: str | Path) -> None:
    """Run the rastervision program; its stages find the same Python."""
    env = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", OMP_NUM_THREADS="1")
    done = subprocess.run(
        [BIN / "rastervision", *map(str, args)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def module(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"tiny_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny experiment: chip, in two splits, and train by Raster Vision's local runner,
    the rest in this process, which has Raster Vision imported already."""
    folder = tmp_path_factory.mktemp("predictor")
    raw, root = folder / "raw", folder / "run"
    module(TINY / "scenes.py").draw(raw)
    experiment = TINY / "experiment.py"
    cfg = module(experiment).get_config("local", str(raw), str(root))
    cfg.update()
    cfg.build(str(folder)).analyze()
    rastervision(
        "run", "local", experiment, "chip", "train", "--splits", "2",
        "-a", "raw_uri", raw, "-a", "root_uri", root,
    )  # fmt: skip
    pipeline = build_config(file_to_json(str(root / "pipeline-config.json"))).build(str(folder))
    pipeline.bundle()
    pipeline.predict()
    return root


def labels(path: Path) -> np.ndarray:
    with rasterio.open(path / "labels.tif") as file:
        return file.read(1)


def test_the_local_runner_writes_chips_in_splits(run: Path) -> None:
    assert sorted(p.name for p in (run / "chip").iterdir()) == [
        "train-0000-0001-of-0002",
        "train-0001-0002-of-0002",
        "valid-0000-0001-of-0002",
        "valid-0001-0002-of-0002",
    ]


def test_predictor(run: Path, tmp_path: Path) -> None:
    predictor = Predictor(str(run / "bundle" / "model-bundle.zip"), str(tmp_path))
    for name in ("val_a", "val_b"):
        image = run.parent / "raw" / f"image_{name}.tif"
        predictor.predict([str(image)], str(tmp_path / name))
        expected = labels(run / "predict" / name)
        assert len(np.unique(expected)) >= 2
        np.testing.assert_array_equal(labels(tmp_path / name), expected)


def test_scene_predictor(run: Path, tmp_path: Path) -> None:
    cfg = build_config(file_to_json(str(run / "pipeline-config.json")))
    scene = cfg.dataset.validation_scenes[0]
    scene.label_store = SemanticSegmentationLabelStoreConfig(uri=str(tmp_path / "out"))
    predictor = ScenePredictor(str(run / "bundle" / "model-bundle.zip"), tmp_dir=str(tmp_path))
    predictor.predict(scene)
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(run / "predict" / scene.id))


def test_rastervision_predict(run: Path, tmp_path: Path) -> None:
    image = run.parent / "raw" / "image_val_b.tif"
    rastervision("predict", run / "bundle" / "model-bundle.zip", image, tmp_path / "out")
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(run / "predict" / "val_b"))


def test_imagery_on_a_server_that_is_not_amazons(run: Path, s3: S3Server, tmp_path: Path) -> None:
    """A run whose scenes were streamed says so in its bundle."""
    with (
        zipfile.ZipFile(run / "bundle" / "model-bundle.zip") as source,
        zipfile.ZipFile(tmp_path / "bundle.zip", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name == "pipeline-config.json":
                config = json.loads(data)
                for scene in config["dataset"]["validation_scenes"]:
                    scene["raster_source"]["allow_streaming"] = True
                data = json.dumps(config).encode()
            target.writestr(name, data)
    bucket = s3.bucket("new")
    shutil.copy(run.parent / "raw" / "image_val_b.tif", s3.data / "new" / "scene.tif")
    rastervision("predict", tmp_path / "bundle.zip", f"{bucket}/scene.tif", tmp_path / "out")
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(run / "predict" / "val_b"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of another environment: this project's wheel, and the locked packages."""
    folder = tmp_path_factory.mktemp("elsewhere")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=TINY.parents[2], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [BIN / "uv", "pip", "install", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(install, check=True, capture_output=True)
    # Only the path: the developer's install, which is a .pth file there, is not taken over.
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "locked.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def test_rastervision_predict_with_an_installed_wheel(
    run: Path, elsewhere: Path, tmp_path: Path
) -> None:
    image = run.parent / "raw" / "image_val_a.tif"
    arguments = ["predict", run / "bundle" / "model-bundle.zip", image, tmp_path / "out"]
    code = (
        "import sys, rvk8s, rastervision.fastai_backend as backend;"
        "from rastervision.pipeline.cli import _main;"
        "assert all(m.__file__.startswith(sys.prefix) for m in (rvk8s, backend)), rvk8s.__file__;"
        "_main()"
    )
    done = subprocess.run(
        [elsewhere, "-c", code, *map(str, arguments)],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(run / "predict" / "val_a"))
