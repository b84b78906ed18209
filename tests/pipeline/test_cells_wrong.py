"""What is said of cells that can't be classified or scored, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cell_scenes
import numpy as np
import pytest
from cell_scenes import CELL
from cellrun import config_of, said, truth
from rastervision.core.rv_pipeline import (
    SemanticSegmentationConfig,
    WindowSamplingConfig,
    WindowSamplingMethod,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from said import check_lines, says
from scenes import write_area


def test_nothing_is_wrong(cell_data: Path) -> None:
    assert said(config_of(cell_data)) == []


def test_cells_that_are_no_windows_of_the_prediction(cell_data: Path) -> None:
    config = config_of(cell_data)
    config.predict_options.chip_sz = config.predict_options.stride = 48
    lines = said(config)
    assert [line.partition(":")[0] for line in lines] == [
        "validation scene val_a",
        "validation scene val_b",
    ]
    assert says(
        lines[0],
        "validation scene val_a: no cell…(32 x 32)…window…(48 x 48, every 48…scored; "
        "…predict_options…chip_sz…stride…infer_cells…cell_sz…background_class_id",
    )
    for scene in config.dataset.validation_scenes:
        scene.label_source.background_class_id = 0
        scene.label_source.cell_sz = 48
        scene.label_source.infer_cells = True
    assert said(config) == []


def test_some_cells_that_are_no_windows(own_cells: Path) -> None:
    path = own_cells / "cells_val_a.json"
    grid = json.loads(path.read_text())
    aside = cell_scenes.PLACE @ cell_scenes.PLACE.translation(CELL / 2, CELL / 2)
    cell_scenes.write_cells(path, np.zeros((2, 3), int), aside)
    grid["features"] += json.loads(path.read_text())["features"]
    path.write_text(json.dumps(grid))
    wanted = "warning: validation scene val_a: 6 of 42…not scored…windows"
    check_lines(said(config_of(own_cells)), [wanted])


def test_cells_outside_of_the_area_of_interest_are_not_scored(own_cells: Path) -> None:
    config = config_of(own_cells)
    area = (0, 0, 2 * CELL, 2 * CELL)
    write_area(own_cells / "area.json", own_cells / "image_val_a.tif", area)
    config.dataset.validation_scenes[0].aoi_uris = [str(own_cells / "area.json")]
    assert said(config) == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda ids: np.where(ids == 1, 7, ids),
            "label of train scene train_a: {own}/cells_train_a.json…ids…7; …0 to 1; …class_id",
        ),
        (
            lambda ids: np.pad(ids[:1, :1], ((40, 0), (40, 0)), constant_values=-1),
            "train scene train_a: {own}/cells_train_a.json…another place…192 x 192 pixels…; …",
        ),
        (
            lambda ids: ids * 0 - 1,
            "label of train scene train_a: {own}/cells_train_a.json…no feature…",
        ),
    ],
    ids=["ids", "elsewhere", "empty"],
)
def test_labels_that_teach_nothing(own_cells: Path, spoil: Any, expected: str) -> None:
    cell_scenes.write_cells(own_cells / "cells_train_a.json", spoil(truth("train_a")))
    check_lines(said(config_of(own_cells)), [expected.replace("{own}", str(own_cells))])


def test_labels_that_cannot_be_read(own_cells: Path) -> None:
    (own_cells / "cells_train_a.json").unlink()
    (own_cells / "cells_train_b.json").write_text('{"type": "FeatureCollection", "features": [{')
    check_lines(
        said(config_of(own_cells)),
        [
            f"label of train scene train_a: {own_cells}/cells_train_a.json…not exist…rvk8s.yaml",
            f"label of train scene train_b: {own_cells}/cells_train_b.json…read…GeoJSON…",
        ],
    )


def test_chips_of_one_class_alone(own_cells: Path) -> None:
    for name in ("train_a", "train_b"):
        cell_scenes.write_cells(own_cells / f"cells_{name}.json", truth(name) * 0)
    check_lines(said(config_of(own_cells)), ["…one class to learn, class field (0)…"])


def test_the_backend_of_another_task(cell_data: Path, config: SemanticSegmentationConfig) -> None:
    made = config_of(cell_data)
    ours, made.backend = made.backend, FastaiSemanticSegmentationConfig()
    assert says(
        said(made)[0],
        "backend: FastaiSemanticSegmentationConfig…semantic segmentation…not "
        "ChipClassificationConfig; …FastaiChipClassificationConfig…",
    )
    config.backend = ours
    assert says(
        said(config)[0],
        "backend: FastaiChipClassificationConfig…chip classification…not "
        "SemanticSegmentationConfig; …FastaiSemanticSegmentationConfig…",
    )


def test_background_that_is_no_class(cell_data: Path) -> None:
    config = config_of(cell_data)
    config.dataset.train_scenes[1].label_source.background_class_id = 2
    check_lines(said(config), ["train scene train_b: …background_class_id…2; …0 to 1"])


@pytest.mark.slow
def test_random_windows_that_find_no_label(own_cells: Path) -> None:
    ids = truth("train_a") * 0 - 1
    ids[0, 0] = 1
    cell_scenes.write_cells(own_cells / "cells_train_a.json", ids)
    config = config_of(own_cells)
    config.chip_options.sampling = WindowSamplingConfig(
        method=WindowSamplingMethod.random, size=CELL, max_windows=50, padding=0
    )
    check_lines(
        said(config),
        [
            "train scene train_a: no window…label…100 attempts; "
            "…ioa_thresh…background_class_id…max_sample_attempts"
        ],
    )


def test_chips_that_are_larger_than_the_scenes(cell_data: Path) -> None:
    lines = said(config_of(cell_data, chip_sz=300))
    wanted = "…: no window of 300…192 x 192; …smaller chips…sampling.padding"
    check_lines(lines[:2], [wanted] * 2)
    assert not [line for line in lines if "has a label" in line]


def test_lazy_labels_cannot_be_scored(cell_data: Path) -> None:
    config = config_of(cell_data)
    config.dataset.validation_scenes[0].label_source.lazy = True
    check_lines(said(config), ["validation scene val_a: …labels are lazy…lazy to false"])


def test_cells_need_no_chip_size(cell_data: Path) -> None:
    """Raster Vision asks for one where nothing is chipped, and for that of a test scene."""
    config = config_of(cell_data, chips=False)
    config.chip_options = None
    for scene in config.dataset.train_scenes:
        scene.label_source.cell_sz = None
    config.update()
    assert config.dataset.train_scenes[0].label_source.cell_sz == CELL
    chipped = config_of(cell_data)
    each = chipped.chip_options.sampling
    chipped.chip_options.sampling = {
        scene.id: each
        for scene in (*chipped.dataset.train_scenes, *chipped.dataset.validation_scenes)
    }
    test = chipped.dataset.validation_scenes[0].model_copy(deep=True)
    test.id, test.label_source.cell_sz = "test_a", None
    chipped.dataset.test_scenes = [test]
    chipped.update()
    assert test.label_source.cell_sz is None


def test_class_names_that_there_are_not(own_cells: Path) -> None:
    path = own_cells / "cells_train_a.json"
    grid = json.loads(path.read_text())
    names = {0: {"class_name": "field"}, 1: {"label": "hous"}}
    for feature in grid["features"]:
        feature["properties"] = names[feature["properties"]["class_id"]]
    path.write_text(json.dumps(grid))
    config = config_of(own_cells)
    wanted = f"label of train scene train_a: {path}…'hous'; …ClassInferenceTransformer"
    check_lines(said(config), [wanted])
    (infer, *_) = config.dataset.train_scenes[0].label_source.vector_source.transformers
    infer.class_name_mapping = {"hous": "house"}
    assert said(config) == []


def test_batches_and_chips_that_are_too_small(cell_data: Path) -> None:
    config = config_of(cell_data, batch_sz=1)
    check_lines(said(config), ["solver.batch_sz: …one chip…normalized…2 or more"])
    config = config_of(cell_data, chip_sz=16)
    assert says(said(config)[0], "data.img_sz: …16…too small…squeezenet1_1; …64 or more…")
