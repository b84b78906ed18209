"""`rastervision run local` with the fastai backend, and what predicts with its bundle afterwards:
Predictor, ScenePredictor and `rastervision predict` give the pipeline's own pixels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from bench import Bench
from rastervision.core.data import SemanticSegmentationLabelStoreConfig
from rastervision.core.predictor import Predictor, ScenePredictor
from rastervision.pipeline.config import build_config
from rastervision.pipeline.file_system.utils import file_to_json
from s3server import S3Server
from tinyrun import SMALL

pytestmark = pytest.mark.slow

TINY = Path(__file__).parent / "tiny"
BIN = Path(sys.executable).parent


Program = Callable[..., None]


@pytest.fixture(scope="module")
def rastervision(table: Bench, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Runs the rastervision program; it and all processes that it starts have Raster Vision
    imported already (stage_server.py)."""
    folder = tmp_path_factory.mktemp("rastervision")

    def run(*args: str | Path) -> None:
        _do(table.raster_vision, args, TMPDIR=str(folder))

    return run


@pytest.fixture(scope="module")
def run(rastervision: Program, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny experiment by Raster Vision's local runner: all stages, two splits."""
    root = tmp_path_factory.mktemp("predictor") / "run"
    rastervision("run", "local", TINY / "experiment.py", *in_two_splits(tiny_data, root))
    return root


def in_two_splits(data: Path, root: Path) -> list[str | Path]:
    """Options of `rastervision run`."""
    args = {"raw_uri": data, "root_uri": root, **SMALL}
    return ["--splits", "2", *(word for pair in args.items() for word in ("-a", *pair))]


def _do(folder: Path, args: Iterable[str | Path], **environ: str) -> None:
    """Run the rastervision program of a folder, where it also finds its Python."""
    done = subprocess.run(
        [folder / "rastervision", *map(str, args)],
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


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


def test_programs_that_import_all_themselves_write_the_same_chips(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The environment's own `rastervision`, and what it starts, as for a user: nothing is forked
    from a process that has the imports."""
    shutil.copytree(run / "analyze", tmp_path / "analyze")
    words = in_two_splits(tiny_data, tmp_path)
    _do(BIN, ["run", "local", TINY / "experiment.py", "chip", *words], OMP_NUM_THREADS="1")
    assert files(tmp_path / "chip") == files(run / "chip")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_local_runner_predicts_and_evaluates(run: Path, tiny_data: Path) -> None:
    """In two splits; the scores are those of the pixels that lie there."""
    right, named = np.zeros(2), np.zeros((2, 2))
    for name in ("val_a", "val_b"):
        predicted = labels(run / "predict" / name)
        with rasterio.open(tiny_data / f"label_{name}.tif") as file:
            truth = file.read(1)
        for c in (0, 1):
            right[c] += np.sum((predicted == c) & (truth == c))
            named[c] += np.sum(predicted == c), np.sum(truth == c)
    report = json.loads((run / "eval" / "validation_scenes" / "eval.json").read_text())
    found = {entry["class_name"]: entry["metrics"]["f1"] for entry in report["overall"]}
    f1 = 2 * right / named.sum(axis=1)
    assert f1.min() > 0.2
    assert [found["field"], found["house"]] == pytest.approx(f1.tolist(), abs=1e-6)
    assert "--split-ind 1" in (run / "Makefile").read_text()


def test_predictor(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    predictor = Predictor(str(run / "bundle" / "model-bundle.zip"), str(tmp_path))
    for name in ("val_a", "val_b"):
        image = tiny_data / f"image_{name}.tif"
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


def test_rastervision_predict(
    run: Path, rastervision: Program, tiny_data: Path, tmp_path: Path
) -> None:
    image = tiny_data / "image_val_b.tif"
    rastervision("predict", run / "bundle" / "model-bundle.zip", image, tmp_path / "out")
    np.testing.assert_array_equal(labels(tmp_path / "out"), labels(run / "predict" / "val_b"))


def test_imagery_on_a_server_that_is_not_amazons(
    run: Path, rastervision: Program, tiny_data: Path, s3: S3Server, tmp_path: Path
) -> None:
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
    shutil.copy(tiny_data / "image_val_b.tif", s3.data / "new" / "scene.tif")
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
    run: Path, elsewhere: Path, tiny_data: Path, tmp_path: Path
) -> None:
    image = tiny_data / "image_val_a.tif"
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
