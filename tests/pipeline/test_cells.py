"""Chip classification: labels of windows, a whole run, and what is said of data that can't be
classified or scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cell_scenes
import forks
import numpy as np
import pytest
from cell_scenes import CELL, SIDE
from cellrun import config_of, scene_of, truth
from rastervision.core.box import Box
from rastervision.core.data import ChipClassificationLabels, RasterioSourceConfig
from rastervision.core.predictor import Predictor
from rastervision.core.rv_pipeline import (
    WindowSamplingConfig,
    WindowSamplingMethod,
)
from rastervision.fastai_backend.backend import FastaiChipClassification
from rastervision.fastai_backend.backend.cells import ClassifiedScene
from rastervision.fastai_backend.backend.scenes import windows_of
from rastervision.fastai_backend.store import StoredChips
from rastervision.fastai_backend.windows import RandomWindows, Window
from rastervision.pytorch_learner.dataset import ClassificationSlidingWindowGeoDataset
from said import says
from tinyrun import drive, make_plan

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


# -- labels ------------------------------------------------------------------------------------


def test_windows_that_are_cells_have_their_class(cell_data: Path) -> None:
    reader = ClassifiedScene(scene_of(config_of(cell_data)))
    expected = truth("val_a")
    for row in range(SIDE):
        for column in range(SIDE):
            top, left = row * CELL, column * CELL
            label = reader.labels(Window(top, left, top + CELL, left + CELL))
            assert (label.shape, label.dtype) == ((), np.uint8)
            assert label == expected[row, column]


@pytest.mark.parametrize("stride", [CELL, 20])
def test_other_windows_have_the_class_that_raster_vision_infers(
    cell_data: Path, stride: int
) -> None:
    config = config_of(cell_data)
    labels = {"background_class_id": 0, "ioa_thresh": 0.3, "use_intersection_over_cell": True}
    theirs = ClassificationSlidingWindowGeoDataset(
        scene_of(config, **labels), size=CELL, stride=stride, padding=10
    )
    reader = ClassifiedScene(scene_of(config, **labels))
    windows = [Window(*box) for box in theirs.windows]
    assert reader.labelled(windows) == windows
    expected = [int(theirs[i][1]) for i in range(len(theirs))]
    assert [reader.class_of(window) for window in windows] == expected
    assert len(set(expected)) == 2


def test_windows_without_a_label_are_left_out(
    own_cells: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = truth("val_a")
    ids[:, 3:] = -1
    cell_scenes.write_cells(own_cells / "cells_val_a.json", ids)
    config = config_of(own_cells)
    reader = ClassifiedScene(scene_of(config))
    windows = windows_of(reader.scene, WindowSamplingConfig(size=CELL, stride=CELL), seed=0)
    assert isinstance(windows, list)
    found = reader.labelled(windows)
    assert [w for w in windows if w.xmin < 3 * CELL] == found
    assert says(caplog.text, "…val_a: 18 of 36 windows…no label…")
    random = WindowSamplingConfig(
        method=WindowSamplingMethod.random, size=CELL, max_windows=60, padding=0
    )
    drawn = windows_of(reader.scene, random, seed=0)
    assert isinstance(drawn, RandomWindows)
    kept = reader.labelled(drawn)
    assert isinstance(kept, RandomWindows)
    places = [[some.draw(0, i).xmin for i in range(60)] for some in (drawn, kept)]
    assert max(places[1]) <= 4 * CELL < max(places[0])
    for i in range(60):
        assert int(reader.labels(kept.draw(0, i))) in (0, 1)


def test_a_scene_with_a_bbox(cell_data: Path) -> None:
    config = config_of(cell_data)
    source = config.dataset.validation_scenes[0].raster_source
    assert isinstance(source, RasterioSourceConfig)
    source.bbox = Box(CELL, 2 * CELL, 5 * CELL, 6 * CELL)
    reader = ClassifiedScene(scene_of(config))
    assert (reader.height, reader.width) == (4 * CELL, 4 * CELL)
    found = [
        [int(reader.labels(Window(y, x, y + CELL, x + CELL))) for x in range(0, 4 * CELL, CELL)]
        for y in range(0, 4 * CELL, CELL)
    ]
    assert found == truth("val_a")[1:5, 2:6].tolist()


def test_cells_beyond_the_scene_take_no_class_with_them(own_cells: Path) -> None:
    """Raster Vision 0.31 drops their places and keeps their classes."""
    ids = np.zeros((SIDE + 2, SIDE + 2), int)
    ids[1:-1, 1:-1] = truth("val_a")
    place = cell_scenes.PLACE @ cell_scenes.PLACE.translation(-CELL, -CELL)
    cell_scenes.write_cells(own_cells / "cells_val_a.json", ids, place)
    labels = scene_of(config_of(own_cells)).label_source.get_labels()
    assert isinstance(labels, ChipClassificationLabels)
    found = {(c.ymin // CELL, c.xmin // CELL): labels[c].class_id for c in labels.get_cells()}
    for (row, column), class_id in np.ndenumerate(truth("val_a")):
        assert found[row, column] == class_id


@pytest.mark.parametrize("background", [None, 1])
def test_the_smallest_class_of_a_window(cell_data: Path, background: int | None) -> None:
    """Raster Vision's pick_min_class_id, also among polygons that cover too little."""
    labels = {"pick_min_class_id": True, "ioa_thresh": 0.3, "use_intersection_over_cell": True}
    given = 5 if background is None else background  # a larger one than any is as none
    theirs = scene_of(config_of(cell_data), **labels, background_class_id=given).label_source
    reader = ClassifiedScene(
        scene_of(config_of(cell_data), **labels, background_class_id=background)
    )
    windows = [Window(y, x, y + CELL, x + CELL) for y in (10, 42, 70) for x in (5, 40, 77)]
    assert [reader.class_of(w) for w in windows] == [theirs[Box(*w)] for w in windows]
    assert {reader.class_of(window) for window in windows} == {0, 1}


def test_windows_drawn_at_random_are_not_remembered_for_ever(
    cell_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rastervision.fastai_backend.backend import cells as backend_cells

    monkeypatch.setattr(backend_cells, "_MOST_DRAWN", 5)
    reader = ClassifiedScene(scene_of(config_of(cell_data)))
    windows = [Window(0, x, CELL, x + CELL) for x in range(12)]
    found = [reader.class_of(window) for window in windows]
    assert found[0] == truth("val_a")[0, 0]
    assert len(reader._drawn) <= 5


def test_training_on_windows_looks_labels_up_once(
    cell_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All windows of a scene in one call, also where the scene is opened again to be read."""
    from rastervision.fastai_backend.backend import cells as backend_cells

    calls: list[int] = []
    infer = backend_cells.infer_cells
    monkeypatch.setattr(
        backend_cells, "infer_cells", lambda cells, **more: calls.append(1) or infer(cells, **more)
    )
    config = config_of(cell_data, chips=False)
    config.backend.sampling.stride = 20
    source = config.backend.build(config, str(tmp_path))._chips("train")
    source.read(np.arange(len(source)), 0)
    assert len(calls) == 2
    assert len(source) > 2 * SIDE**2


# -- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(
    server: forks.StageServer, cell_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    root = tmp_path_factory.mktemp("cells-run")
    plan = make_plan(root, cell_data, splits={"chip": 2, "predict": 2})
    plan = replace(plan, module="cells.py", args={"raw_uri": str(cell_data)})
    record = drive(plan, server, root / "logs")
    assert record.state == State.SUCCEEDED, record.message
    return plan


def test_chips_have_one_label_each(run: Plan) -> None:
    chips = StoredChips(Path(run.layout.at("chip")), "train", ["train_a", "train_b"])
    images, labels = chips.read(np.arange(len(chips)), 0)
    assert images.shape == (2 * SIDE**2, CELL, CELL, 3)
    assert labels.tolist() == [*truth("train_a").ravel(), *truth("train_b").ravel()]
    assert chips.class_pixels().sum(axis=1).tolist() == [1] * len(chips)


def test_it_has_learnt_and_is_scored_cell_by_cell(run: Plan) -> None:
    scores = storage.read_json(run.layout.scores)
    assert scores is not None
    assert scores["task"] == "chip classification"
    overall = scores["overall"]
    assert overall["macroF1"] > 0.9
    assert overall["cells"] == 2 * SIDE**2
    assert overall["cellWeightedF1"] == pytest.approx(overall["rasterVisionAverageF1"], abs=1e-5)
    right = 0
    for name in ("val_a", "val_b"):
        predicted = predictions(Path(run.layout.at("predict")) / f"{name}.json")
        right += int((np.array([p["class_id"] for p in predicted]) == truth(name).ravel()).sum())
        for p in predicted:
            assert sum(p["scores"]) == pytest.approx(1)
            assert p["class_id"] == int(np.argmax(p["scores"]))
    assert overall["accuracy"] == pytest.approx(right / (2 * SIDE**2), abs=1e-6)
    pictures = sorted(Path(run.layout.pictures).iterdir())
    assert [path.name for path in pictures] == ["val_a.png", "val_b.png"]


def predictions(path: Path) -> list[dict[str, Any]]:
    return [feature["properties"] for feature in json.loads(path.read_text())["features"]]


def test_raster_visions_predictor_takes_its_bundle(
    run: Plan, cell_data: Path, tmp_path: Path
) -> None:
    predictor = Predictor(f"{run.layout.at('bundle')}/model-bundle.zip", str(tmp_path))
    predictor.predict([str(cell_data / "image_val_b.tif")], str(tmp_path / "found.json"))
    expected = json.loads((Path(run.layout.at("predict")) / "val_b.json").read_text())
    found = json.loads((tmp_path / "found.json").read_text())
    for one, other in zip(found["features"], expected["features"], strict=True):
        assert one["geometry"] == other["geometry"]
        assert one["properties"]["scores"] == pytest.approx(other["properties"]["scores"], abs=1e-5)


def test_windows_without_a_chip_stage_are_the_same_chips(
    run: Plan, cell_data: Path, tmp_path: Path
) -> None:
    config = config_of(cell_data, chips=False)
    backend = config.backend.build(config, str(tmp_path))
    assert isinstance(backend, FastaiChipClassification)
    assert "chip" not in config.build(str(tmp_path)).commands
    from_scenes = backend._chips("valid")
    stored = StoredChips(Path(run.layout.at("chip")), "valid", ["val_a", "val_b"])
    every = np.arange(len(stored))
    for one, other in zip(from_scenes.read(every, 0), stored.read(every, 0), strict=True):
        np.testing.assert_array_equal(one, other)
    assert from_scenes.label_kind == stored.label_kind == "chip"
