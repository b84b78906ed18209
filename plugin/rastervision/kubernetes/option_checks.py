"""Looks at a pipeline's options before any of its data is opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rastervision.core.rv_pipeline import SemanticSegmentationPredictOptions
from rastervision.core.rv_pipeline.chip_options import WindowSamplingMethod
from rastervision.fastai_backend.backend.scenes import chip_size
from rastervision.fastai_backend.config import (
    FastaiChipClassificationConfig,
    FastaiConfig,
    FastaiObjectDetectionConfig,
    FastaiSemanticSegmentationConfig,
)

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig
    from rastervision.core.rv_pipeline import RVPipelineConfig, WindowSamplingConfig

_BACKENDS: tuple[type[FastaiConfig], ...] = (
    FastaiSemanticSegmentationConfig,
    FastaiChipClassificationConfig,
    FastaiObjectDetectionConfig,
)


def backend_of_task(config: RVPipelineConfig) -> type[FastaiConfig] | None:
    """The fastai backend of a pipeline's task; it says which labels that task has."""
    return next((one for one in _BACKENDS if isinstance(config, one.pipeline_type)), None)


def check_backend(config: RVPipelineConfig, gpus: int, ranks: int) -> list[InputError]:
    """What is wrong with a pipeline's classes, and with its backend for that task and machine."""
    classes, backend = config.dataset.class_config, config.backend
    errors = check_classes(classes)
    if not isinstance(backend, FastaiConfig):
        if ranks > 1:
            what = f"{type(backend).__name__} trains on one GPU, not with {ranks} processes"
            fix = "give it one, or use the fastai backend of this task, which trains on several"
            errors.append(InputError(what, where="backend", fix=fix))
    elif not isinstance(config, backend.pipeline_type):
        what = f"{type(backend).__name__} does {backend.task}, not {type(config).__name__}"
        ours = backend_of_task(config)
        fix = f"use {ours.__name__}" if ours else "use Raster Vision's own PyTorch backend"
        errors.append(InputError(what, where="backend", fix=f"{fix} for this task"))
    elif not errors:  # its options name classes
        errors += backend.check(classes, gpus, ranks, _chip_sz(config))
    return errors


def _chip_sz(config: RVPipelineConfig) -> int | None:
    """The size of the chips; None where there is none, or no one size (see check_sampling)."""
    sampling = _sampling(config)
    if sampling is None:
        return None
    try:
        return chip_size(sampling, list(sampling) if isinstance(sampling, dict) else (), None)
    except InputError:
        return None


def check_classes(classes: ClassConfig) -> list[InputError]:
    """Classes that are missing, or that reports could not tell apart."""
    where = "class_config.names"
    null = classes.null_class if classes.null_class in classes.names else None
    if not [name for name in classes.names if name != null]:
        fix = "name the classes, in the order of their ids in the labels"
        return [InputError("there is no class but the null class", where=where, fix=fix)]
    twice = sorted({name for name in classes.names if classes.names.count(name) > 1})
    errors = [InputError(f"{n!r} is there twice", where=where, fix="rename one") for n in twice]
    if not all(name.strip() for name in classes.names):
        number = next(i for i, name in enumerate(classes.names) if not name.strip())
        what = f"class {number} has an empty name"
        errors.append(InputError(what, where=where, fix="give it one: reports name it so"))
    return errors


def check_commands(config: RVPipelineConfig, commands: Sequence[str]) -> list[InputError]:
    """What the options lack for the given commands, which end in Raster Vision's own traceback."""
    errors = []
    if "chip" in commands and config.chip_options is None:
        fix = "say there how chips are sampled"
        errors.append(InputError("is not set", where="chip_options", fix=fix))
    if "predict" in commands:
        if config.predict_options is None:
            fix = "give at least the chip_sz that scenes are predicted with"
            errors.append(InputError("is not set", where="predict_options", fix=fix))
        elif isinstance(config.predict_options, SemanticSegmentationPredictOptions):
            errors += _check_crop(config.predict_options)
    return errors


def _check_crop(options: SemanticSegmentationPredictOptions) -> list[InputError]:
    """Cropped windows that leave gaps between them."""
    chip, crop = options.chip_sz, options.crop_sz or 0
    assert isinstance(crop, int)  # "auto" has become a number
    stride = options.stride or chip
    kept = chip - 2 * crop
    if stride <= kept:
        return []
    if not crop:
        what = f"windows of {chip} pixels with a stride of {stride} leave gaps"
        fix = f"give a stride of at most {chip}"
    elif kept < 1:
        what = f"cropping {crop} pixels on each side leaves nothing of windows of {chip}"
        fix = "give a larger chip_sz or a smaller crop_sz"
    else:
        what = f"{chip} pixels cropped by {crop} on each side leave gaps with a stride of {stride}"
        fix = f"give a stride of at most {kept}"
    return [InputError(what, where="predict_options", fix=fix)]


def check_sampling(config: RVPipelineConfig) -> list[InputError]:
    """What ends the fastai backend's chip stage, or its training on windows, at its start."""
    backend, sampling = config.backend, _sampling(config)
    if not isinstance(backend, FastaiConfig) or sampling is None:
        return []
    dataset = config.dataset
    ids = [scene.id for scene in (*dataset.train_scenes, *dataset.validation_scenes)]
    each = {"sampling": sampling}
    if isinstance(sampling, dict):
        each = {f"sampling[{i!r}]": sampling[i] for i in ids if i in sampling}
        ids = [i for i in ids if i in sampling]  # sampling_of() names the others
    errors = [error for where, one in each.items() for error in _check_limits(one, where)]
    try:
        chip_size(sampling, ids, backend.data.img_sz)
    except InputError as error:
        errors.append(error)
    return errors


def _check_limits(sampling: WindowSamplingConfig, where: str) -> list[InputError]:
    """Random windows of no size: the upper limit is none of them."""
    if sampling.method != WindowSamplingMethod.random:
        return []
    errors = []
    for name in ("size_lims", "h_lims", "w_lims"):
        limits = getattr(sampling, name)
        if limits is not None and limits[0] >= limits[1]:
            low, high = limits
            fix = f"give ({min(limits)}, {max(limits) + 1}): the second is not drawn"
            what = f"no size lies from {low} to below {high}"
            errors.append(InputError(what, where=f"{where}.{name}", fix=fix))
    return errors


def _sampling(config: RVPipelineConfig) -> Any:
    """One config of windows, or one by scene id; None where the pipeline does not say."""
    options = config.chip_options
    return getattr(config.backend, "sampling", None) or (options and options.sampling)


def sampling_of(
    config: RVPipelineConfig, scene_id: str, errors: list[InputError]
) -> WindowSamplingConfig | None:
    """How chips are sampled from a scene; None where the pipeline does not say."""
    sampling = _sampling(config)
    if isinstance(sampling, dict):
        if scene_id not in sampling:
            fix = f"add {scene_id!r} to the dict"
            errors.append(InputError(f"sampling has no entry for scene {scene_id}", fix=fix))
            return None
        return sampling[scene_id]
    return sampling
