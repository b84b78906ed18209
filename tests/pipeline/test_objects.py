"""Object detection: boxes of windows, a whole run, and what is said of data that can't be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import forks
import numpy as np
import object_scenes
import objects
import pytest
from rastervision.core.box import Box
from rastervision.core.data import ObjectDetectionLabels, RasterioSourceConfig, Scene
from rastervision.core.predictor import Predictor
from rastervision.core.rv_pipeline import ObjectDetectionConfig
from rastervision.fastai_backend.backend import FastaiObjectDetection, evaluation
from rastervision.fastai_backend.backend.objects import DetectedScene, ObjectWindows
from rastervision.fastai_backend.backend.scenes import windows_of
from rastervision.fastai_backend.store import StoredChips
from rastervision.fastai_backend.windows import RandomWindows, Window
from rastervision.kubernetes import inputs
from rastervision.pipeline.config import build_config, save_pipeline_config
from rastervision.pipeline.file_system.utils import file_to_json
from rastervision.pytorch_learner.dataset import ObjectDetectionSlidingWindowGeoDataset
from said import check_lines, says
from scenes import write_area
from tinyrun import drive, make_plan

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.plan import Plan

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    object_scenes.draw(folder)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Scenes that may be spoilt."""
    object_scenes.draw(tmp_path)
    return tmp_path


def config_of(folder: Path, **args: Any) -> ObjectDetectionConfig:
    made = objects.get_config("local", str(folder), str(folder / "runs"), **args)
    made.update()
    made.analyzers = []
    return made


def scene_of(config: ObjectDetectionConfig) -> Scene:
    return config.dataset.validation_scenes[0].build(config.dataset.class_config)


def truth(name: str) -> np.ndarray:
    """Boxes (M, 5) as the scene was drawn."""
    return object_scenes.scene(np.random.default_rng(object_scenes.SCENES.index(name)))[0]


def said(config: Any) -> list[str]:
    errors, warnings = inputs.check(config, 0)
    return [*map(str, errors), *(f"warning: {text}" for text in warnings)]


# -- labels ------------------------------------------------------------------------------------


def test_the_whole_scene_has_the_boxes_that_were_drawn(data: Path) -> None:
    reader = DetectedScene(scene_of(config_of(data)))
    size = object_scenes.SIZE
    found = reader.labels(Window(0, 0, size, size))
    assert found.dtype == np.float32
    assert sorted(found.tolist()) == sorted(truth("val_a").tolist())


def test_windows_have_the_boxes_that_raster_vision_gives_them(data: Path) -> None:
    """It takes boxes that a sliding window only touches; so do we, without a sampling's say."""
    config = config_of(data)
    theirs = ObjectDetectionSlidingWindowGeoDataset(scene_of(config), size=64, stride=40)
    reader = DetectedScene(scene_of(config))
    for i, box in enumerate(theirs.windows):
        boxes, ids, _ = theirs.scene.label_source[box]
        expected = np.column_stack([boxes, ids])
        np.testing.assert_allclose(reader.labels(Window(*box)), expected, atol=1e-4)
        assert theirs[i] is not None


def test_the_sampling_says_how_much_of_a_box_is_enough(data: Path) -> None:
    config = config_of(data)
    sampling = config.chip_options.sampling
    y0, x0, _, x1, _ = truth("val_a")[0].tolist()
    half = Window(y0, (x0 + x1) // 2, y0 + 64, (x0 + x1) // 2 + 64)
    counts = []
    for ioa, clip in ((0.8, False), (0.3, False), (0.3, True)):
        sampling.ioa_thresh, sampling.clip = ioa, clip
        found = DetectedScene(scene_of(config), sampling).labels(half)
        mine = found[found[:, 0] == 0]
        counts.append(len(mine))
        if len(mine):
            assert (mine[0, 1] == 0) == clip
    assert counts == [0, 1, 1]


def test_windows_around_objects_and_empty_ones(data: Path) -> None:
    config = config_of(data, neg_ratio=1.0)
    sampling = config.chip_options.sampling
    sampling.max_windows = 200
    reader = DetectedScene(scene_of(config), sampling)
    plain = windows_of(reader.scene, sampling, seed=0)
    assert isinstance(plain, RandomWindows)
    windows = reader.labelled(plain)
    assert isinstance(windows, ObjectWindows)
    drawn = [windows.draw(0, i) for i in range(200)]
    assert drawn == [windows.draw(0, i) for i in range(200)]
    assert drawn != [windows.draw(1, i) for i in range(200)]
    boxes = truth("val_a")
    whole = [
        ((boxes[:, :2] >= (w.ymin, w.xmin)) & (boxes[:, 2:4] <= (w.ymax, w.xmax))).all(1).any()
        for w in drawn
    ]
    assert {(w.height, w.width) for w in drawn} == {(64, 64)}
    assert min(w.xmin for w in drawn) >= 0
    assert max(w.ymax for w in drawn) <= object_scenes.SIZE
    # Few places are empty in so full a scene: where none is found, a window is not.
    assert 0.4 <= np.mean(whole) < 1
    assert min(len(reader.labels(window)) for window in drawn) == 0


def test_a_scene_with_a_bbox(data: Path, tmp_path: Path) -> None:
    """Boxes are read, saved and read again where they are; Raster Vision 0.31 saves them as if
    the bbox began at the image's corner."""
    config = config_of(data)
    source = config.dataset.validation_scenes[0].raster_source
    assert isinstance(source, RasterioSourceConfig)
    source.bbox = Box(40, 30, 180, 190)
    config.dataset.validation_scenes[0].label_store.uri = str(tmp_path / "found.json")
    scene = scene_of(config)
    boxes = DetectedScene(scene).labels(Window(0, 0, 140, 160))
    inside = truth("val_a")
    inside = inside[(inside[:, :2] >= (40, 30)).all(1) & (inside[:, 2:4] <= (180, 190)).all(1)]
    expected = {tuple(row) for row in (inside - (40, 30, 40, 30, 0)).tolist()}
    assert expected <= {tuple(row) for row in boxes.astype(int).tolist()}
    found = ObjectDetectionLabels(
        boxes[:, :4].astype(float), boxes[:, 4].astype(int), np.ones(len(boxes))
    )
    scene.label_store.save(found)
    again = scene.label_store.get_labels().get_npboxes().astype(int).tolist()
    assert {tuple(row[:4]) for row in inside.tolist()} <= {tuple(row) for row in again}


# -- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(server: forks.StageServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    root = tmp_path_factory.mktemp("objects-run")
    plan = make_plan(root, data, splits={"chip": 2, "predict": 2})
    plan = replace(plan, module="objects.py", args={"raw_uri": str(data)})
    record = drive(plan, server, root / "logs")
    assert record.state == State.SUCCEEDED, record.message
    return plan


def test_chips_have_their_boxes(run: Plan, data: Path) -> None:
    config = config_of(data)
    chips = StoredChips(Path(run.layout.at("chip")), "valid", ["val_a", "val_b"])
    assert chips.label_kind == "boxes"
    _, labels = chips.read(np.arange(len(chips)), 0)
    reader = DetectedScene(scene_of(config), config.chip_options.sampling)
    windows = windows_of(reader.scene, config.chip_options.sampling, seed=0)
    assert isinstance(windows, list)
    for window, boxes in zip(windows, labels[: len(windows)], strict=True):
        there = boxes[boxes[:, 4] >= 0]
        np.testing.assert_array_equal(there, reader.labels(window))
    assert (labels[:, :, 4] >= 0).sum() == chips.class_pixels().sum() > 20


def test_it_finds_and_scores_boxes(run: Plan) -> None:
    """After one epoch next to nothing is learnt: what counts is that all adds up."""
    scores = storage.read_json(run.layout.scores)
    assert scores is not None
    assert scores["task"] == "object detection"
    assert scores["overall"]["boxes"] == len(truth("val_a")) + len(truth("val_b"))
    assert 0 <= scores["overall"]["macroF1"] < 1
    for name in ("val_a", "val_b"):
        features = predictions(Path(run.layout.at("predict")) / f"{name}.json")
        assert len(features) > 3
        for feature in features:
            assert 0.005 < feature["properties"]["score"] < 1
            assert feature["properties"]["class_name"] in object_scenes.CLASSES
    assert (Path(run.layout.pictures) / "val_a.png").stat().st_size > 10_000


def predictions(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["features"]


@pytest.mark.slow
def test_raster_visions_predictor_takes_its_bundle(run: Plan, data: Path, tmp_path: Path) -> None:
    predictor = Predictor(f"{run.layout.at('bundle')}/model-bundle.zip", str(tmp_path))
    predictor.predict([str(data / "image_val_b.tif")], str(tmp_path / "found.json"))
    found = predictions(tmp_path / "found.json")
    expected = predictions(Path(run.layout.at("predict")) / "val_b.json")
    one, other = (sorted(f["properties"]["score"] for f in each) for each in (found, expected))
    assert one == pytest.approx(other, abs=1e-4)


def test_windows_without_a_chip_stage_are_the_same_chips(
    run: Plan, data: Path, tmp_path: Path
) -> None:
    config = config_of(data, chips=False)
    save_pipeline_config(config, str(tmp_path / "config.json"))
    config = build_config(file_to_json(str(tmp_path / "config.json")))
    assert config.backend.sampling.ioa_thresh == 0.8
    backend = config.backend.build(config, str(tmp_path))
    assert isinstance(backend, FastaiObjectDetection)
    from_scenes = backend._chips("valid")
    stored = StoredChips(Path(run.layout.at("chip")), "valid", ["val_a", "val_b"])
    every = np.arange(len(stored))
    for one, other in zip(from_scenes.read(every, 0), stored.read(every, 0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_perfect_predictions_score_one(data: Path, tmp_path: Path) -> None:
    config = objects.get_config("local", str(data), str(tmp_path))
    config.update()
    save_pipeline_config(config, str(tmp_path / "config.json"))
    for scene_config in config.dataset.validation_scenes:
        scene = scene_config.build(config.dataset.class_config)
        scene.label_store.save(scene.label_source.get_labels())
    config.build(str(tmp_path)).eval()
    found = evaluation.write(json.loads((tmp_path / "config.json").read_text()), tmp_path / "eval")
    overall = found["overall"]
    assert overall["precision"] == overall["recall"] == overall["macroF1"] == 1
    assert overall["boxWeightedF1"] == overall["rasterVisionAverageF1"] == 1


def test_nothing_found_scores_nothing(data: Path, tmp_path: Path) -> None:
    config = objects.get_config("local", str(data), str(tmp_path))
    config.update()
    save_pipeline_config(config, str(tmp_path / "config.json"))
    for scene_config in config.dataset.validation_scenes:
        scene = scene_config.build(config.dataset.class_config)
        scene.label_store.save(ObjectDetectionLabels.make_empty())
    config.build(str(tmp_path)).eval()
    found = evaluation.write(json.loads((tmp_path / "config.json").read_text()), tmp_path / "eval")
    assert found["overall"]["precision"] is None
    assert found["overall"]["recall"] == found["overall"]["macroF1"] == 0


# -- what can be wrong ---------------------------------------------------------------------------


def test_nothing_is_wrong(data: Path) -> None:
    assert said(config_of(data)) == []
    assert said(config_of(data, neg_ratio=1.0)) == []


def test_scenes_without_objects(own: Path) -> None:
    """They are background to learn from, but not where windows shall be drawn around objects."""
    object_scenes.write_boxes(own / "boxes_train_a.json", np.zeros((0, 5), int))
    assert said(config_of(own)) == []
    check_lines(
        said(config_of(own, neg_ratio=1.0)),
        ["train scene train_a: …no object…64 x 64…; …larger windows…sampling.neg_ratio…"],
    )
    object_scenes.write_boxes(own / "boxes_train_b.json", np.zeros((0, 5), int))
    (line,) = said(config_of(own))
    assert says(line, "no training label…null class…")


def test_objects_that_are_larger_than_the_windows(own: Path) -> None:
    object_scenes.write_boxes(own / "boxes_train_a.json", np.array([[0, 0, 100, 90, 1]]))
    check_lines(
        said(config_of(own)),
        ["warning: train scene train_a: …64 x 64…none of its 1 objects…ioa_thresh 0.8"],
    )
    config = config_of(own)
    config.chip_options.sampling.ioa_thresh = 0.4
    assert said(config) == []
    (line,) = said(config_of(own, neg_ratio=1.0))
    assert says(line, "…scene train_a…no object…64 x 64…")


def test_an_area_of_interest_without_a_window(own: Path) -> None:
    config = config_of(own)
    write_area(own / "area.json", own / "image_train_a.tif", (0, 0, 20, 20))
    config.dataset.train_scenes[0].aoi_uris = [str(own / "area.json")]
    assert said(config) == []


def test_windows_are_drawn_around_objects_that_fit(own: Path) -> None:
    """One of two hundred would hardly ever be hit."""
    large = [[0, 0, 100, 100, 0]] * 199
    object_scenes.write_boxes(own / "boxes_val_a.json", np.array([*large, [9, 9, 29, 29, 1]]))
    config = config_of(own, neg_ratio=0.0)
    sampling = config.chip_options.sampling
    reader = DetectedScene(scene_of(config), sampling)
    windows = reader.labelled(windows_of(reader.scene, sampling, seed=0))
    assert isinstance(windows, ObjectWindows)
    for i in range(20):
        w = windows.draw(0, i)
        assert w.ymin <= 9 <= 29 <= w.ymax


def test_options_that_boxes_do_not_have(data: Path) -> None:
    config = config_of(data)
    config.backend.solver.class_weights = "balanced"
    config.backend.predict.tta = True
    check_lines(
        said(config),
        [
            "solver.class_weights: object detection has no class_weights…",
            "predict.tta: object detection has no tta…",
        ],
    )
