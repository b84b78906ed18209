"""A run whose scenes are parts of one image, by their bbox, gives what the same parts give as files
of their own; and its bundle predicts whole images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scenes
from forks import StageServer
from rasterio.windows import Window
from rasterio.windows import transform as place_of
from rastervision.core.predictor import Predictor
from tinyrun import drive, make_plan, outputs

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.plan import Plan

pytestmark = pytest.mark.slow

SIZE = scenes.SIZE
#: Row and column at which each scene begins in the image.
CORNERS = dict(zip(scenes.SCENES, ((0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)), strict=True))
#: The area of interest of val_b, (top, left, bottom, right) in its own pixels.
AREA = (20, 10, 150, 180)
MODULE = f"""
import sys
sys.path.append({str(Path(__file__).parent / "tiny")!r})
import experiment
from rastervision.core.data import SemanticSegmentationLabelStoreConfig

CORNERS = {CORNERS!r}


def get_config(runner, raw_uri, root_uri, cropped, **args):
    config = experiment.get_config(runner, raw_uri, root_uri, **args)
    dataset = config.dataset
    for scene in dataset.train_scenes + dataset.validation_scenes:
        row, col = CORNERS[scene.id]
        if cropped:
            image, label = scene.raster_source, scene.label_source.raster_source
            image.uris, label.uris = f"{{raw_uri}}/image.tif", f"{{raw_uri}}/label.tif"
            image.bbox = (row, col, row + {SIZE}, col + {SIZE})
    smooth, area = dataset.validation_scenes
    smooth.label_store = SemanticSegmentationLabelStoreConfig(smooth_output=True)
    area.aoi_uris = [f"{{raw_uri}}/area.json"]
    return config
"""


@dataclass(frozen=True)
class Runs:
    """A run of crops, one of files, and the folder with the data of both."""

    crops: Plan
    files: Plan
    data: Path


@pytest.fixture(scope="module")
def runs(server: StageServer, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("crops")
    (folder / "crops.py").write_text(MODULE)
    data = folder / "data"
    scenes.draw(data)
    _join(data)
    plans = []
    for name, cropped in (("crops", True), ("files", False)):
        where = {"module": "crops.py", "project_dir": str(folder), "args": {"cropped": cropped}}
        plan = make_plan(folder / name, data, **where)
        record = drive(plan, server, folder / name / "logs")
        assert record.state == State.SUCCEEDED, record.message
        plans.append(plan)
    return Runs(*plans, data)


def _join(data: Path) -> None:
    """Write the four scenes as one image, and put each file where it lies in that."""
    for kind, bands in (("image", 3), ("label", 1)):
        whole = np.zeros((bands, 2 * SIZE, 2 * SIZE), np.uint8)
        for name, (row, col) in CORNERS.items():
            with rasterio.open(data / f"{kind}_{name}.tif", "r+") as file:
                whole[:, row : row + SIZE, col : col + SIZE] = file.read()
                file.transform = place_of(Window(col, row, SIZE, SIZE), file.transform)
        scenes.write(data / f"{kind}.tif", whole)
    scenes.write_area(data / "area.json", data / "image_val_b.tif", AREA)


def test_predictions_are_those_of_files(runs: Runs) -> None:
    for stage in ("chip", "train"):
        crops, files = (outputs(plan.layout.at(stage)) for plan in (runs.crops, runs.files))
        assert crops == files
    for name in ("val_a/labels.tif", "val_a/scores.tif", "val_b/labels.tif"):
        opened = [
            rasterio.open(plan.layout.at(f"predict/{name}")) for plan in (runs.crops, runs.files)
        ]
        with opened[0] as ours, opened[1] as theirs:
            pixels = ours.read()
            assert len(np.unique(pixels)) > 1
            np.testing.assert_array_equal(pixels, theirs.read())
            assert ours.transform.almost_equals(theirs.transform, 1e-6)


def test_scores_and_pictures_are_those_of_files(runs: Runs) -> None:
    ours, theirs = (storage.read_json(plan.layout.scores) for plan in (runs.crops, runs.files))
    assert ours == theirs
    assert ours["scenes"]["val_a"]["overall"]["pixels"] == SIZE * SIZE
    top, left, bottom, right = AREA
    area = ours["scenes"]["val_b"]["overall"]["pixels"]
    assert area == pytest.approx((bottom - top) * (right - left), rel=0.02)
    for name in ("val_a.png", "val_b.png"):
        pictures = [plan.layout.pictures for plan in (runs.crops, runs.files)]
        one, other = (storage.read_bytes(f"{uri}/{name}") for uri in pictures)
        assert one == other


def test_the_bundle_predicts_whole_images(runs: Runs, tmp_path: Path) -> None:
    found = []
    for name, plan in (("crops", runs.crops), ("files", runs.files)):
        bundle = plan.layout.at("bundle/model-bundle.zip")
        predictor = Predictor(bundle, str(tmp_path / name))
        predictor.predict([str(runs.data / "image.tif")], str(tmp_path / name / "out"))
        with rasterio.open(tmp_path / name / "out" / "labels.tif") as file:
            found.append(file.read(1))
    assert found[0].shape == (2 * SIZE, 2 * SIZE)
    np.testing.assert_array_equal(*found)
