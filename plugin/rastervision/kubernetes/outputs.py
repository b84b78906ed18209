"""Runs Raster Vision's commands so that their outputs appear whole or not at all.

A command writes to a staging folder; when it has ended, the files are renamed or uploaded to where
the config says. predict does so scene by scene, and a scene that is there is not predicted again
after a restart. train writes in place: its backend saves its own state and goes on from it.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rastervision.fastai_backend import progress
from rastervision.kubernetes import marks
from rastervision.kubernetes.context import Context

from rvk8s import storage
from rvk8s.contract import now
from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.rv_pipeline import RVPipeline

log = logging.getLogger(__name__)

#: Command -> the part of the config that says where it writes.
_WRITERS = {"analyze": "analyzers", "eval": "evaluators"}


def run_command(context: Context, work: Path, inputs: str) -> list[str]:
    """Do one of Raster Vision's commands.

    Args:
        work: a local folder of this process.
        inputs: the hash of the inputs, for the started-marker.

    Returns:
        The URIs of the files that it wrote.
    """
    config = _config(context)
    if context.stage == "train":
        return _train(context, work, config)
    staging = Staging(context, work)
    if context.stage == "predict":
        return _predict(context, work, config, staging, inputs)
    uri = config[f"{context.stage}_uri"]
    folder = str(staging.folder)
    part = _WRITERS.get(context.stage)
    if part:
        config[part] = _moved(config[part], uri, folder)
    else:
        config[f"{context.stage}_uri"] = folder
    if context.stage == "eval":
        _drop_unlabelled(config["dataset"])
        _localize_predictions(context, work, config)
    pipeline = _pipeline(config, work)
    if context.stage == "chip":
        pipeline.chip(split_ind=context.index, num_splits=context.splits)
    else:
        getattr(pipeline, context.stage)()
    if context.stage == "eval":
        _write_scores(config, staging.folder)
    return staging.publish(uri, inputs)


def _config(context: Context) -> dict[str, Any]:
    uri = context.layout.config_uri
    try:
        config: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        fix = "run the configure stage again: --rerun configure"
        raise InputError(f"is damaged: {error}", where=uri, fix=fix) from error
    return config


def clear(context: Context) -> None:
    """Delete what an attempt with other inputs left: its outputs in the run, and its done-marker.

    What splits write lies in one folder, so a split deletes the files that its markers name; the
    files of another number of splits are deleted by the driver. Killed in between, the next attempt
    clears again whatever its inputs are: until all is gone, the started-marker is of none.
    """
    config = storage.read_json(context.layout.config_uri) or {}
    uri = config.get(f"{context.stage}_uri", "")
    scenes = f"{_stage_dir(context)}/scenes"
    markers = [marks.started(context), marks.done(context)]
    markers += [storage.read_json(f"{scenes}/{name}") for name in storage.list_files(scenes)]
    outputs = [name for marker in markers if marker for name in marker.get("outputs", ())]
    marks.write_started(context, "", outputs)
    storage.delete_file(context.layout.done(context.stage, context.split))
    if context.splits == 1 and context.holds(uri):
        storage.delete_tree(uri)
    else:
        for name in outputs:
            output = name if "://" in name or name.startswith("/") else context.layout.at(name)
            if context.holds(output):
                storage.delete_file(output)
    storage.delete_tree(scenes)


class Staging:
    """A folder for outputs that are not complete yet.

    Args:
        context: where the run is local, the folder lies in it, so that publishing is a rename.
        work: a local folder of this process, used where the run is on S3.
    """

    def __init__(self, context: Context, work: Path):
        self.context = context
        place = work if context.remote else Path(_stage_dir(context))
        self.folder = place / "staging"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def publish(self, uri: str, inputs: str) -> list[str]:
        """Move all files below a URI, JSON files last, and forget the folder.

        The started-marker names them first, so that a restart can clear what half of them left.
        """
        names = [str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()]
        names.sort(key=lambda name: (name.endswith(".json"), name))
        targets = [f"{uri}/{name}" for name in names]
        marks.write_started(self.context, inputs, targets)
        for name, target in zip(names, targets, strict=True):
            storage.publish(self.folder / name, target)
        shutil.rmtree(self.folder)
        return targets


def _train(context: Context, work: Path, config: dict[str, Any]) -> list[str]:
    _pipeline(config, work).train()
    uri = config["train_uri"]
    return [f"{uri}/{name}" for name in storage.list_files(uri)]


def _predict(
    context: Context, work: Path, config: dict[str, Any], staging: Staging, inputs: str
) -> list[str]:
    """Predict the scenes of this split, one after the other, without those that are there."""
    targets = {}
    for scene in config["dataset"]["validation_scenes"] + config["dataset"]["test_scenes"]:
        targets[scene["id"]] = scene["label_store"]["uri"]
        scene["label_store"]["uri"] = str(staging.folder / "scene" / scene["id"])
    pipeline = _pipeline(config, work)
    dataset = pipeline.config.dataset.get_split_config(context.index, context.splits)
    written: list[str] = []
    scenes = dataset.validation_scenes + dataset.test_scenes
    for number, scene_config in enumerate(scenes):
        progress.report(scenesDone=number, scenes=len(scenes), pixelsDone=0, flush=True)
        marker = f"{_stage_dir(context)}/scenes/{scene_config.id}.json"
        there = storage.read_json(marker)
        if there and there["inputs"] == inputs:
            log.info("Scene %s is predicted already.", scene_config.id)
            written += there["outputs"]
            continue
        outputs = _predict_scene(pipeline, scene_config, work, staging, targets[scene_config.id])
        storage.write_json(marker, {"inputs": inputs, "at": now(), "outputs": outputs})
        written += outputs
    progress.report(scenesDone=len(scenes), flush=True)
    shutil.rmtree(staging.folder)
    return written


def _predict_scene(
    pipeline: RVPipeline, scene_config: Any, work: Path, staging: Staging, target: str
) -> list[str]:
    log.info("Predicting scene %s ...", scene_config.id)
    scratch = work / "scene"
    scratch.mkdir()
    scene = scene_config.build(pipeline.config.dataset.class_config, str(scratch))
    scene.label_store.save(pipeline.predict_scene(scene))
    staged = staging.folder / "scene" / scene_config.id
    files = [staged] if staged.is_file() else sorted(p for p in staged.rglob("*") if p.is_file())
    outputs = []
    for path in files:
        name = path.relative_to(staged).as_posix()
        outputs.append(target if name == "." else f"{target}/{name}")
        storage.publish(path, outputs[-1])
    shutil.rmtree(scratch)
    return outputs


def _pipeline(config: dict[str, Any], work: Path) -> RVPipeline:
    """Build the pipeline of a config as Raster Vision's run_command does."""
    from rastervision.pipeline import rv_config_
    from rastervision.pipeline.config import build_config

    rv_config_.set_everett_config(
        profile=rv_config_.profile, config_overrides=config.get("rv_config")
    )
    scratch = work / "pipeline"
    scratch.mkdir(exist_ok=True)
    built: Any = build_config(config)
    pipeline: RVPipeline = built.build(str(scratch))
    return pipeline


def _moved(value: Any, old: str, new: str) -> Any:
    """A JSON value with the start `old` of its strings replaced by `new`."""
    if isinstance(value, str):
        inside = value == old or value.startswith(f"{old}/")
        return new + value[len(old) :] if inside else value
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    return value


def _drop_unlabelled(dataset: dict[str, Any]) -> None:
    """Leave out test scenes without labels: Raster Vision's evaluator would score no scene then."""
    left_out = [s["id"] for s in dataset["test_scenes"] if not s.get("label_source")]
    if not left_out:
        return
    log.warning("Not scored, for want of labels: %s", ", ".join(left_out))
    dataset["test_scenes"] = [s for s in dataset["test_scenes"] if s["id"] not in left_out]
    for name, ids in dataset["scene_groups"].items():
        dataset["scene_groups"][name] = [scene for scene in ids if scene not in left_out]


def _localize_predictions(context: Context, work: Path, config: dict[str, Any]) -> None:
    """Download the predictions once: Raster Vision's evaluator and our pictures both read them."""
    if not storage.is_s3(config["predict_uri"]):
        return
    folder = work / "predictions"
    storage.download_dir(config["predict_uri"], folder)
    for scene in config["dataset"]["validation_scenes"] + config["dataset"]["test_scenes"]:
        store = scene["label_store"]
        store["uri"] = _moved(store["uri"], config["predict_uri"], str(folder))


def _write_scores(config: dict[str, Any], folder: Path) -> None:
    from rastervision.fastai_backend.scores import TASKS

    if config["type_hint"] not in TASKS:
        return
    from rastervision.fastai_backend.backend import evaluation

    evaluation.write(config, folder)


def _stage_dir(context: Context) -> str:
    return context.layout.stage_dir(context.stage, context.split)
