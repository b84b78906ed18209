"""Scores of a semantic segmentation, from the confusion matrices of Raster Vision's eval command.

A confusion matrix here has a row for each true class and a column for each predicted class, as
scikit-learn's has; M[i, j] pixels of class i were predicted as class j. With
TP = M[k, k], FN = the rest of row k, FP = the rest of column k (Powers, "Evaluation: from
precision, recall and F-measure to ROC, informedness, markedness & correlation", 2011):

    precision = TP / (TP + FP)        recall = TP / (TP + FN)
    F1 = 2 TP / (2 TP + FP + FN)      IoU = TP / (TP + FP + FN)   (Jaccard, 1912)

A score whose denominator is 0 is undefined: None, `null` in JSON. Pixels whose truth is a class
that is not scored (chips.unscored_ids) are left out of everything; such a class that was predicted
elsewhere counts as an error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rastervision.fastai_backend.chips import unscored_ids

from rvk8s.contract import to_json
from rvk8s.errors import InputError

log = logging.getLogger(__name__)

Score = float | None
#: Raster Vision's evaluator writes <eval_uri>/<group>/eval.json for each of these.
VALIDATION, TEST = "validation_scenes", "test_scenes"


def class_scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Per-class scores.

    Args:
        matrix: (classes, classes) confusion matrix.

    Returns:
        precision, recall, f1, iou: (classes,) float64, NaN where undefined; support: (classes,)
        pixels whose truth is the class.
    """
    hit = np.diag(matrix).astype(np.float64)
    truth, predicted = matrix.sum(1), matrix.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "precision": hit / predicted,
            "recall": hit / truth,
            "f1": 2 * hit / (truth + predicted),
            "iou": hit / (truth + predicted - hit),
            "support": truth,
        }


def summarise(
    matrix: np.ndarray, names: Sequence[str], unscored: Collection[int]
) -> dict[str, Any]:
    """Scores of one confusion matrix.

    Args:
        matrix: (classes, classes) confusion matrix of all classes.
        names: the classes' names, in order.
        unscored: ids of the classes that are not scored.

    Returns:
        classes: a list with name, id, precision, recall, f1, iou, support of each scored class.
        overall: accuracy = share of pixels that are right; meanIoU, macroF1 = plain means over the
            classes that occur in the truth; pixelWeightedF1 = mean of F1 weighted by support;
            pixels = how many were scored.
    """
    matrix = np.array(matrix, dtype=np.float64)
    matrix[list(unscored)] = 0
    scores = class_scores(matrix)
    kept = [k for k in range(len(names)) if k not in unscored]
    present = [k for k in kept if scores["support"][k] > 0]
    pixels = matrix.sum()
    support, f1 = scores["support"][present], scores["f1"][present]
    return {
        "classes": [_class_entry(k, names[k], scores) for k in kept],
        "overall": {
            "accuracy": _number(np.trace(matrix) / pixels) if pixels else None,
            "meanIoU": _mean(scores["iou"][present]),
            "macroF1": _mean(f1),
            "pixelWeightedF1": _number((support * f1).sum() / pixels) if pixels else None,
            "pixels": int(pixels),
        },
    }


def _class_entry(k: int, name: str, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    parts = {key: _number(scores[key][k]) for key in ("precision", "recall", "f1", "iou")}
    return {"name": name, "id": k, **parts, "support": int(scores["support"][k])}


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
        InputError: the file is not one of a semantic segmentation with these classes.
    """
    try:
        report = json.loads(eval_json.read_bytes())
        matrices = {
            scene: np.array(items[-1]["conf_mat"]) for scene, items in report["per_scene"].items()
        }
        average = _number(float(report["overall"][-1]["metrics"]["f1"]))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            "has no confusion matrix for each scene",
            where=str(eval_json),
            fix="run the eval stage again with Raster Vision's semantic segmentation evaluator",
        ) from error
    for scene, matrix in matrices.items():
        if matrix.shape != (len(names), len(names)):
            raise InputError(
                f"scene {scene} was scored with {len(matrix)} classes, the pipeline has "
                f"{len(names)}",
                where=str(eval_json),
                fix="run the eval stage again: rvk8s run … --run-id RUN --rerun eval",
            )
    return matrices, average


def score_scenes(
    matrices: dict[str, np.ndarray], names: Sequence[str], unscored: Collection[int]
) -> dict[str, Any]:
    """Scores over all scenes together (their matrices summed), and of each scene by itself.

    Returns:
        {"task", "classes", "overall", "scenes": {id: {"classes", "overall"}}}
    """
    total = sum(matrices.values(), np.zeros((len(names), len(names))))
    return {
        "task": "semantic segmentation",
        **summarise(total, names, unscored),
        "scenes": {scene: summarise(m, names, unscored) for scene, m in sorted(matrices.items())},
    }


def write(
    pipeline_config: dict[str, Any], out_dir: Path, outside: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Write scores.json for what Raster Vision's eval command just evaluated.

    overall has rasterVisionAverageF1 too, the figure of eval.json itself: it equals pixelWeightedF1
    unless some truth is of a class that is not scored, or pixels lie outside of areas of interest:
    Raster Vision counts these like any other.
    scores.json is about the validation scenes; test scenes, if there are any with labels, have the
    same under the key "test".

    Args:
        pipeline_config: a semantic segmentation pipeline's config, as in pipeline-config.json.
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
    names = pipeline_config["dataset"]["class_config"]["names"]
    unscored, null_id = unscored_of(pipeline_config), null_id_of(pipeline_config)
    groups = {}
    for group in (VALIDATION, TEST):
        path = _find_eval(pipeline_config, out_dir, group)
        if path is not None:
            matrices, average = read_eval(path, names)
            for scene, pixels in (outside or {}).items():
                if scene in matrices:
                    matrices[scene][null_id, null_id] -= pixels
            groups[group] = score_scenes(matrices, names, unscored)
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
