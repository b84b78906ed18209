"""Scores of all tasks, from what Raster Vision's eval command has counted.

A confusion matrix here has a row for each true class and a column for each predicted class, as
scikit-learn's has; M[i, j] pixels (cells, of a chip classification) of class i were predicted as
class j. With TP = M[k, k], FN = the rest of row k, FP = the rest of column k (Powers, "Evaluation:
from precision, recall and F-measure to ROC, informedness, markedness & correlation", 2011):

    precision = TP / (TP + FP)        recall = TP / (TP + FN)
    F1 = 2 TP / (2 TP + FP + FN)      IoU = TP / (TP + FP + FN)   (Jaccard, 1912)

Of an object detection it counts TP, FP and FN itself, boxes that overlap by more than half.

A score whose denominator is 0 is undefined: None, `null` in JSON. Pixels whose truth is a class
that is not scored (chips.unscored_ids) are left out of everything; such a class that was predicted
elsewhere counts as an error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rastervision.fastai_backend.chips import unscored_ids

from rvk8s.contract import to_json
from rvk8s.errors import InputError

log = logging.getLogger(__name__)

Score = float | None
T = TypeVar("T")
#: Raster Vision's evaluator writes <eval_uri>/<group>/eval.json for each of these.
VALIDATION, TEST = "validation_scenes", "test_scenes"


@dataclass(frozen=True)
class Task:
    """What a pipeline's scores are about.

    Args:
        name: in words.
        unit: what is counted.
    """

    name: str
    unit: str

    @property
    def units(self) -> str:
        """Several of them."""
        return "boxes" if self.unit == "box" else f"{self.unit}s"


#: By the type_hint of the pipeline's config.
TASKS = {
    "semantic_segmentation": Task("semantic segmentation", "pixel"),
    "chip_classification": Task("chip classification", "cell"),
    "object_detection": Task("object detection", "box"),
}


@dataclass(frozen=True)
class Counts:
    """What was counted of each class, (classes,) arrays.

    Args:
        right: pixels (cells, boxes) that are predicted as the class that they are.
        truth: those that are of the class.
        predicted: those that are predicted as it.
    """

    right: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, unscored: Collection[int]) -> Counts:
        """Of a confusion matrix (classes, classes), without what is truly of an unscored class."""
        matrix = np.array(matrix, dtype=np.float64)
        matrix[list(unscored)] = 0
        return cls(np.diag(matrix), matrix.sum(1), matrix.sum(0))

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.right + other.right, self.truth + other.truth, self.predicted + other.predicted
        )

    def scores(self) -> dict[str, np.ndarray]:
        """precision, recall, f1, iou: (classes,) float64, NaN where undefined."""
        hit, truth, predicted = self.right, self.truth, self.predicted
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "precision": hit / predicted,
                "recall": hit / truth,
                "f1": 2 * hit / (truth + predicted),
                "iou": hit / (truth + predicted - hit),
            }


def summarise(
    counts: Counts, names: Sequence[str], unscored: Collection[int], task: Task
) -> dict[str, Any]:
    """Scores of one scene, or of several together.

    Args:
        counts: of all classes.
        names: the classes' names, in order.
        unscored: ids of the classes that are not scored.
        task: says what was counted.

    Returns:
        classes: a list with name, id, precision, recall, f1, iou, support of each scored class.
        overall: accuracy = share of pixels that are right; meanIoU, macroF1 = plain means over the
            classes that occur in the truth; pixelWeightedF1 = mean of F1 weighted by support;
            pixels = how many were scored. Of cells the last two are cellWeightedF1 and cells. Of
            boxes they are boxWeightedF1 and boxes, and instead of accuracy stand precision and
            recall, of all classes together.
    """
    scores, support = counts.scores(), counts.truth
    kept = [k for k in range(len(names)) if k not in unscored]
    present = [k for k in kept if support[k] > 0]
    total, f1 = support.sum(), scores["f1"][present]
    weighted = _number((support[present] * f1).sum() / total) if total else None
    right = counts.right.sum()
    if task.unit == "box":
        first = {
            "precision": _share(right, counts.predicted.sum()),
            "recall": _share(right, total),
        }
    else:
        first = {"accuracy": _share(right, total)}
    return {
        "classes": [_class_entry(k, names[k], scores, support) for k in kept],
        "overall": {
            **first,
            "meanIoU": _mean(scores["iou"][present]),
            "macroF1": _mean(f1),
            f"{task.unit}WeightedF1": weighted,
            task.units: int(total),
        },
    }


def _share(part: float, whole: float) -> Score:
    return _number(part / whole) if whole else None


def _class_entry(
    k: int, name: str, scores: dict[str, np.ndarray], support: np.ndarray
) -> dict[str, Any]:
    parts = {key: _number(scores[key][k]) for key in ("precision", "recall", "f1", "iou")}
    return {"name": name, "id": k, **parts, "support": int(support[k])}


def _mean(values: np.ndarray) -> Score:
    return _number(values.mean()) if len(values) else None


def _number(value: float | np.floating) -> Score:
    """A JSON number; NaN is none."""
    return None if np.isnan(value) else round(float(value), 6)


def read_eval(eval_json: Path, names: Sequence[str]) -> tuple[dict[str, np.ndarray], Score]:
    """Read a Raster Vision eval.json.

    Returns:
        The confusion matrix of each scene, and Raster Vision's own average F1.

    Raises:
        InputError: the file is not one of a task of ours with these classes.
    """
    matrices, average = _read(
        eval_json, "confusion matrix", lambda items: np.array(items[-1]["conf_mat"])
    )
    for scene, matrix in matrices.items():
        if matrix.shape != (len(names), len(names)):
            raise InputError(
                f"scene {scene} was scored with {len(matrix)} classes, the pipeline has "
                f"{len(names)}",
                where=str(eval_json),
                fix="run the eval stage again: rvk8s run … --run-id RUN --rerun eval",
            )
    return matrices, average


def read_boxes(eval_json: Path, names: Sequence[str]) -> tuple[dict[str, Counts], Score]:
    """As read_eval() for an object detection: the counts of each scene."""
    return _read(eval_json, "counts of boxes", lambda items: _counts(items, names))


def _read(
    eval_json: Path, what: str, of_scene: Callable[[Sequence[dict[str, Any]]], T]
) -> tuple[dict[str, T], Score]:
    try:
        report = json.loads(eval_json.read_bytes())
        found = {scene: of_scene(items) for scene, items in report["per_scene"].items()}
        average = _number(float(report["overall"][-1]["metrics"]["f1"]))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"has no {what} for each scene",
            where=str(eval_json),
            fix="run the eval stage again with Raster Vision's own evaluator of the task",
        ) from error
    return found, average


def _counts(items: Sequence[dict[str, Any]], names: Sequence[str]) -> Counts:
    rows = {i["class_name"]: [i["true_pos"], i["false_pos"], i["false_neg"]] for i in items[:-1]}
    right, wrong, missed = np.array([rows[name] for name in names], np.float64).T
    return Counts(right, right + missed, right + wrong)


def score_scenes(
    counts: Mapping[str, Counts], names: Sequence[str], unscored: Collection[int], task: Task
) -> dict[str, Any]:
    """Scores over all scenes together, and of each scene by itself.

    Returns:
        {"task", "classes", "overall", "scenes": {id: {"classes", "overall"}}}
    """
    nothing = np.zeros(len(names))
    total = sum(counts.values(), Counts(nothing, nothing, nothing))
    return {
        "task": task.name,
        **summarise(total, names, unscored, task),
        "scenes": {
            scene: summarise(one, names, unscored, task) for scene, one in sorted(counts.items())
        },
    }


def write(
    pipeline_config: dict[str, Any], out_dir: Path, outside: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Write scores.json for what Raster Vision's eval command just evaluated.

    overall has rasterVisionAverageF1 too, the figure of eval.json itself: it equals the weighted F1
    unless some truth is of a class that is not scored, or pixels lie outside of areas of interest:
    Raster Vision counts these like any other.
    scores.json is about the validation scenes; test scenes, if there are any with labels, have the
    same under the key "test".

    Args:
        pipeline_config: the config of a pipeline of one of TASKS, as in pipeline-config.json.
        out_dir: local folder in which eval.json files lie as <group>/eval.json; scores.json is
            written here.
        outside: pixels of each scene that lie outside its areas of interest: Raster Vision counts
            them as null class that was predicted rightly.

    Returns:
        What was written to scores.json.

    Raises:
        InputError: no validation scene was evaluated (Raster Vision skips a group where a file is
            missing), or an eval.json does not fit the pipeline.
    """
    task = TASKS[pipeline_config["type_hint"]]
    names = pipeline_config["dataset"]["class_config"]["names"]
    unscored, null_id = unscored_of(pipeline_config), null_id_of(pipeline_config)
    groups = {}
    for group in (VALIDATION, TEST):
        path = _find_eval(pipeline_config, out_dir, group)
        if path is not None:
            if task.unit == "box":
                counts, average = read_boxes(path, names)
            else:
                matrices, average = read_eval(path, names)
                for scene, pixels in (outside or {}).items():
                    if scene in matrices:
                        matrices[scene][null_id, null_id] -= pixels
                counts = {scene: Counts.of(m, unscored) for scene, m in matrices.items()}
            groups[group] = score_scenes(counts, names, unscored, task)
            groups[group]["overall"]["rasterVisionAverageF1"] = average
    if not groups or (pipeline_config["dataset"].get(VALIDATION) and VALIDATION not in groups):
        raise InputError(
            "no validation scene was evaluated: there is no eval.json",
            where=str(out_dir),
            fix="give validation scenes a label source, and run predict before eval",
        )
    scores = groups.get(VALIDATION) or groups[TEST]
    if len(groups) > 1:
        scores["test"] = groups[TEST]
    partial = out_dir / ".scores.json.part"
    partial.write_bytes(to_json(scores))
    os.replace(partial, out_dir / "scores.json")
    return scores


def by_scene(scores: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For the id of each validation and test scene in what write() returned: its own scores."""
    return {**scores["scenes"], **scores.get("test", {}).get("scenes", {})}


def null_id_of(pipeline_config: dict[str, Any]) -> int | None:
    """The id of the class config's null class."""
    classes = pipeline_config["dataset"]["class_config"]
    null = classes.get("null_class")
    return None if null is None else classes["names"].index(null)


def unscored_of(pipeline_config: dict[str, Any]) -> frozenset[int]:
    """Ids of the classes that are not scored: unscored_ids() of a pipeline's config as JSON."""
    names = pipeline_config["dataset"]["class_config"]["names"]
    solver = pipeline_config.get("backend", {}).get("solver") or {}
    ignored = solver.get("ignore_class_index")
    # Raster Vision's own backend counts negative ids from the end, and takes any number.
    if ignored is not None and -len(names) <= ignored < len(names):
        ignored %= len(names)
    else:
        ignored = None
    return unscored_ids(names, null_id_of(pipeline_config), ignored)


def _find_eval(pipeline_config: dict[str, Any], out_dir: Path, group: str) -> Path | None:
    """A group's eval.json: in out_dir, or where an evaluator of the user's own put it."""
    own = [e.get("output_uri") for e in pipeline_config.get("evaluators", [])]
    for folder in (out_dir, *(Path(uri) for uri in own if uri and "://" not in uri)):
        if (folder / group / "eval.json").is_file():
            return folder / group / "eval.json"
    return None
