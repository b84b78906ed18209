"""Scores from confusion matrices and the table of them."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rastervision.fastai_backend import scores
from rich.console import Console

from rvk8s.errors import InputError
from rvk8s.runs.report import print_scores

NAMES = ["car", "tree", "null"]
#: Of 9 car pixels 6 are hit, of 10 tree pixels 9; 15 pixels have no label.
MATRIX = np.array([[6, 2, 1], [1, 9, 0], [5, 7, 3]])


PIXELS = scores.TASKS["semantic_segmentation"]


def summarised(
    matrix: np.ndarray, names: Sequence[str], unscored: Collection[int]
) -> dict[str, Any]:
    return scores.summarise(scores.Counts.of(matrix, unscored), names, unscored, PIXELS)


def scored(matrices: dict[str, np.ndarray]) -> dict[str, Any]:
    counts = {scene: scores.Counts.of(matrix, {2}) for scene, matrix in matrices.items()}
    return scores.score_scenes(counts, NAMES, {2}, PIXELS)


def of_classes(classes: dict[str, Any], dataset: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config of a pipeline."""
    dataset = {"class_config": classes, **(dataset or {})}
    return {"type_hint": "semantic_segmentation", "dataset": dataset}


def test_scores_by_hand() -> None:
    found = summarised(MATRIX, NAMES, {2})
    car, tree = found["classes"]
    assert (car["name"], car["id"], car["support"]) == ("car", 0, 9)
    assert car["precision"] == pytest.approx(6 / 7, abs=1e-6)
    assert car["recall"] == pytest.approx(6 / 9, abs=1e-6)
    assert car["f1"] == pytest.approx(2 * 6 / (9 + 7), abs=1e-6)
    assert car["iou"] == pytest.approx(6 / 10, abs=1e-6)
    assert tree["f1"] == pytest.approx(2 * 9 / (10 + 11), abs=1e-6)
    f1 = np.array([12 / 16, 18 / 21])
    assert found["overall"] == {
        "accuracy": pytest.approx(15 / 19, abs=1e-6),
        "meanIoU": pytest.approx((6 / 10 + 9 / 12) / 2, abs=1e-6),
        "macroF1": pytest.approx(f1.mean(), abs=1e-6),
        "pixelWeightedF1": pytest.approx((f1 * [9, 10]).sum() / 19, abs=1e-6),
        "pixels": 19,
    }


def test_null_truth_is_left_out_and_null_predictions_are_errors() -> None:
    without = MATRIX.copy()
    without[2] = 0
    assert summarised(MATRIX, NAMES, {2}) == summarised(without, NAMES, {2})
    perfect = summarised(np.diag([9, 10, 0]), NAMES, {2})
    assert perfect["overall"]["macroF1"] == 1
    missed = summarised(np.array([[8, 0, 1], [0, 10, 0], [0, 0, 0]]), NAMES, {2})
    assert missed["classes"][0]["recall"] == pytest.approx(8 / 9, abs=1e-6)
    assert missed["overall"]["accuracy"] == pytest.approx(18 / 19, abs=1e-6)


def test_a_class_that_does_not_occur_has_no_scores_and_no_say() -> None:
    found = summarised(np.diag([5, 0, 7]), ["a", "b", "c"], ())
    b = found["classes"][1]
    assert (b["precision"], b["recall"], b["f1"], b["iou"], b["support"]) == (*[None] * 4, 0)
    assert found["overall"]["macroF1"] == 1
    nothing = summarised(np.zeros((2, 2)), ["a", "b"], ())["overall"]
    assert nothing == {
        "accuracy": None,
        "meanIoU": None,
        "macroF1": None,
        "pixelWeightedF1": None,
        "pixels": 0,
    }


def test_macro_is_not_weighted_by_pixels() -> None:
    rare = np.array([[9900, 0], [90, 10]])
    overall = summarised(rare, ["land", "car"], ())["overall"]
    assert overall["pixelWeightedF1"] > 0.98
    assert overall["macroF1"] < 0.6


def test_scenes_are_summed_not_averaged() -> None:
    found = scored({"b": MATRIX, "a": MATRIX * 3})
    assert found["overall"]["pixels"] == 4 * 19
    assert list(found["scenes"]) == ["a", "b"]
    assert found["scenes"]["b"] == summarised(MATRIX, NAMES, {2})
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "has no confusion matrix"),
        ("[]", "has no confusion matrix"),
        ('{"per_scene": {"a": [{}]}, "overall": []}', "has no confusion matrix"),
        (
            '{"per_scene": {"a": [{"conf_mat": [[1]]}]}, "overall": [{"metrics": {"f1": 1}}]}',
            "scene a .*1 classes, .*3",
        ),
    ],
)
def test_an_eval_json_that_does_not_fit(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "eval.json"
    file.write_text(content)
    with pytest.raises(InputError, match=says) as error:
        scores.read_eval(file, NAMES)
    assert "\n" not in str(error.value)


def test_nothing_was_evaluated(tmp_path: Path) -> None:
    config = {
        "type_hint": "semantic_segmentation",
        "dataset": {"class_config": {"names": NAMES, "null_class": "null"}},
    }
    with pytest.raises(InputError, match="no validation scene"):
        scores.write(config, tmp_path)
    assert not list(tmp_path.iterdir())


def _printed(overall: dict[str, float]) -> str:
    found = scored({"a": MATRIX})
    found["classes"][0]["name"] = "[car]"
    found["overall"] |= overall
    out = io.StringIO()
    print_scores(found, Console(file=out, width=100))
    return out.getvalue()


def test_the_table_names_every_figure() -> None:
    weighted = summarised(MATRIX, NAMES, {2})["overall"]["pixelWeightedF1"]
    text = _printed({"rasterVisionAverageF1": weighted})
    for part in ("1 validation scene", "[car]", "0.857", "0.667", "0.750", "0.600", "IoU"):
        assert part in text
    lines = [line.strip() for line in text.splitlines()[-5:]]
    assert lines == [
        "0.789  accuracy",
        "0.675  mean IoU",
        "0.804  macro F1",
        "0.806  pixel-weighted F1 (Raster Vision's “average F1”)",
        "over 19 scored pixels",
    ]


def test_the_table_shows_raster_visions_figure_where_it_differs() -> None:
    text = _printed({"rasterVisionAverageF1": 0.5})
    assert "0.806  pixel-weighted F1\n" in text
    assert (
        "0.500 Raster Vision's “average F1”, which scores unlabelled and ignored pixels too, and "
        "those outside of areas of interest over 19 scored pixels"
    ) in " ".join(text.split())


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[9, 0, 0], [4, 0, 0], [0, 0, 0]], "are predicted as car"),
        ([[9, 0, 0], [0, 0, 0], [5, 2, 0]], "are predicted as car"),
        ([[8, 1, 0], [0, 0, 0], [5, 2, 0]], "are car: these scores"),
        ([[8, 1, 0], [1, 3, 0], [5, 2, 0]], None),
        ([[0, 0, 0], [0, 0, 0], [5, 2, 0]], None),
    ],
)
def test_scores_that_say_nothing_are_said_in_red(matrix: list[list[int]], said: str | None) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system="standard")
    print_scores(scored({"a": np.array(matrix)}), console)
    red = [line for line in out.getvalue().splitlines() if "\x1b[1;31m" in line]
    assert len(red) == (said is not None)
    assert said is None or said in red[0]


#: Raster Vision's own convention for two classes: the null class is the background.
TWO = {"names": ["building", "background"], "null_class": "background"}
OWN = {"names": NAMES, "null_class": "null"}


@pytest.mark.parametrize(
    ("classes", "ignored", "unscored"),
    [
        (TWO, None, set()),
        (TWO, 1, {1}),
        (OWN, None, {2}),
        (OWN, 2, {2}),
        # A class with labels that training ignores, beside the null class that Raster Vision adds.
        (OWN, 0, {0, 2}),
        (OWN, -3, {0, 2}),
        (OWN, -100, {2}),
        ({"names": ["car", "tree"], "null_class": None}, None, set()),
    ],
)
def test_which_classes_are_not_scored(
    classes: dict[str, Any], ignored: int | None, unscored: set[int]
) -> None:
    config = of_classes(classes)
    config["backend"] = {"solver": {"ignore_class_index": ignored}}
    assert scores.unscored_of(config) == unscored


def _evaluated(folder: Path, matrix: list[list[int]], classes: dict[str, Any]) -> dict[str, Any]:
    """Write the eval.json of one scene; returns the pipeline's config."""
    report = {"per_scene": {"a": [{"conf_mat": matrix}]}, "overall": [{"metrics": {"f1": 0.5}}]}
    (folder / scores.VALIDATION).mkdir()
    (folder / scores.VALIDATION / "eval.json").write_text(json.dumps(report))
    return {
        "type_hint": "semantic_segmentation",
        "dataset": {"class_config": classes, scores.VALIDATION: [{"id": "a"}]},
    }


def test_false_alarms_in_the_background_count(tmp_path: Path) -> None:
    config = _evaluated(tmp_path, [[50, 0], [950, 0]], TWO)
    found = scores.write(config, tmp_path)
    assert found["classes"][0]["precision"] == 0.05
    assert found["classes"][1]["recall"] == 0
    assert found["overall"]["accuracy"] == 0.05
    assert found["overall"]["macroF1"] == pytest.approx(2 * 50 / (50 + 1000) / 2, abs=1e-6)
    assert found["overall"]["pixels"] == 1000


def test_pixels_outside_of_areas_are_no_background(tmp_path: Path) -> None:
    config = _evaluated(tmp_path, [[50, 0], [20, 930]], TWO)
    found = scores.write(config, tmp_path, outside={"a": 900, "another": 7})
    assert found["overall"]["pixels"] == 100
    assert found["overall"]["accuracy"] == 0.8
    assert found["classes"][1]["recall"] == 0.6


def test_an_ignored_class_is_left_out(tmp_path: Path) -> None:
    config = _evaluated(tmp_path, [[6, 2, 1], [1, 9, 0], [5, 7, 3]], OWN)
    config["backend"] = {"solver": {"ignore_class_index": 1}}
    found = scores.write(config, tmp_path)
    assert [part["name"] for part in found["classes"]] == ["car"]
    assert found["overall"]["pixels"] == 9
    assert found["overall"]["accuracy"] == pytest.approx(6 / 9, abs=1e-6)


def test_boxes() -> None:
    """Two scenes of two classes; precision and recall of all boxes stand for the accuracy."""
    task = scores.TASKS["object_detection"]
    one = scores.Counts(np.array([3.0, 0]), np.array([4.0, 1]), np.array([3.0, 2]))
    other = scores.Counts(np.array([1.0, 1]), np.array([1.0, 1]), np.array([4.0, 1]))
    found = scores.score_scenes({"a": one, "b": other}, ["car", "ship"], (), task)
    assert found["task"] == "object detection"
    assert found["overall"] == {
        "precision": 0.5,
        "recall": pytest.approx(5 / 7, abs=1e-6),
        "meanIoU": pytest.approx((4 / 8 + 1 / 4) / 2),
        "macroF1": pytest.approx((8 / 12 + 2 / 5) / 2, abs=1e-6),
        "boxWeightedF1": pytest.approx((5 * 8 / 12 + 2 * 2 / 5) / 7, abs=1e-6),
        "boxes": 7,
    }
    assert found["scenes"]["a"]["classes"][1]["f1"] == 0
    out = io.StringIO()
    print_scores(found, Console(file=out, width=100))
    lines = [line.strip() for line in out.getvalue().splitlines()[-6:]]
    assert lines == [
        "0.500  precision",
        "0.714  recall",
        "0.375  mean IoU",
        "0.533  macro F1",
        "0.590  box-weighted F1 (Raster Vision's “average F1”)",
        "over 7 scored boxes",
    ]


def test_counts_of_boxes_are_read(tmp_path: Path) -> None:
    names = ["car", "ship"]
    items = [
        {"class_name": "car", "true_pos": 3.0, "false_pos": 1.0, "false_neg": 0.0},
        {"class_name": "ship", "true_pos": 0.0, "false_pos": 2.0, "false_neg": 5.0},
        {"class_name": "average", "metrics": {"f1": 0.3}},
    ]
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"overall": items, "per_scene": {"a": items}}))
    counts, average = scores.read_boxes(path, names)
    assert average == 0.3
    assert counts["a"].truth.tolist() == [3, 5]
    assert counts["a"].predicted.tolist() == [4, 2]
    path.write_text("[]")
    with pytest.raises(InputError, match="no counts of boxes"):
        scores.read_boxes(path, names)
