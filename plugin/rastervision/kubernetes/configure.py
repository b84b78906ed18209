"""The configure stage: the user's get_config -> pipeline-config.json, and a check of the data."""

from __future__ import annotations

import inspect
import linecache
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rastervision.kubernetes import given, marks
from rastervision.kubernetes.context import Context
from rastervision.kubernetes.failures import explain, one_line

from rvk8s import storage
from rvk8s.contract import STAGES
from rvk8s.errors import InputError, InputErrors, Rvk8sError
from rvk8s.plan import Plan
from rvk8s.project.signature import find_module, nearest, read_signature

if TYPE_CHECKING:
    from rastervision.pipeline.pipeline_config import PipelineConfig

log = logging.getLogger(__name__)


def configure(context: Context, work: Path) -> tuple[list[str], dict[str, Any]]:
    """Build and check the pipeline config, and write it.

    Returns:
        The URI of the config, and what the done-marker reports: "commands", "split_commands",
        "gpu_commands" of the pipeline, "sources", the user's Python files with their hashes, and
        "warnings" about the data.

    Raises:
        InputError, InputErrors: everything that is wrong with the module, the config or the data.
    """
    plan = context.plan
    folder = Path(plan.project_dir)
    module = _module(plan, folder)
    config = _build(plan, module, context.layout.run_uri)
    commands = _commands(config, work, plan)
    from rastervision.core.rv_pipeline import RVPipelineConfig
    from rastervision.kubernetes import inputs, streaming

    if isinstance(config, RVPipelineConfig):
        streaming.stream_tiles(config)
    train = plan.stage("train")
    errors, warnings = inputs.check(config, train.gpus, train.ranks, commands["commands"])
    for warning in warnings:
        log.warning("%s", warning)
    if errors:
        raise InputErrors(errors)
    sources = marks.hash_files(list(_own_sources(folder, module)), folder)
    storage.write_bytes(context.layout.config_uri, _serialized(config, work))
    return [context.layout.config_uri], {**commands, "sources": sources, "warnings": warnings}


def _module(plan: Plan, folder: Path) -> Path:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    source = find_module(plan.module, folder)
    if source is None:
        fix = "give a .py file relative to rvk8s.yaml, or a dotted name; in an image, copy it in"
        raise InputError(f"no module {plan.module} in {folder}", fix=fix)
    return source


def _build(plan: Plan, module: Path, run_uri: str) -> PipelineConfig:
    """Call get_config and let the config fill in and check itself."""
    from rastervision.pipeline.cli import get_configs

    name = str(module) if plan.module.endswith(".py") else plan.module
    signature = read_signature(module, plan.module)
    args = dict(plan.args)
    if "root_uri" in signature.names or signature.any_name:
        args["root_uri"] = run_uri
    if "ranks" in signature.names:
        args["ranks"] = plan.stage("train").ranks
    try:
        configs = get_configs(name, "kubernetes", args)
        if len(configs) != 1:
            fix = "make it one, and the others variants in rvk8s.yaml"
            what = f"{signature.function} gives {len(configs)} pipelines"
            raise InputError(what, where=plan.module, fix=fix)
        config = configs[0]
        config.root_uri = run_uri
        config.update()
        config.recursive_validate_config()
        # Once more, for fields that update has changed: Raster Vision's own order.
        from rastervision.pipeline.config import build_config

        build_config(config.dict())
    except (Exception, SystemExit) as error:
        raise _of_user(error, Path(plan.project_dir), module) from error
    return config


def _commands(config: PipelineConfig, work: Path, plan: Plan) -> dict[str, list[str]]:
    pipeline = config.build(str(work))
    only = given.wanted(plan.module, plan.args)
    commands = [name for name in pipeline.commands if not only or name in only]
    unknown = [name for name in commands if name not in STAGES]
    if unknown:
        fix = f"rvk8s knows {', '.join(STAGES[1:])}"
        what = f"the pipeline has the commands {', '.join(unknown)}"
        raise InputError(what, where=plan.module, fix=fix)
    return {
        "commands": commands,
        "split_commands": [name for name in pipeline.split_commands if name in commands],
        "gpu_commands": [name for name in pipeline.gpu_commands if name in commands],
    }


def _serialized(config: PipelineConfig, work: Path) -> bytes:
    """The config as Raster Vision saves it; it writes in place, so it writes elsewhere."""
    from rastervision.pipeline.config import save_pipeline_config

    path = work / "pipeline-config.json"
    save_pipeline_config(config, str(path))
    return path.read_bytes()


def _own_sources(folder: Path, module: Path) -> Iterator[str]:
    """The user's Python files that are loaded, relative to folder where they are below it.

    What is installed somewhere below the folder (a virtual environment) is not the user's own.
    """
    files = {module.resolve()}
    for loaded in list(sys.modules.values()):
        name = getattr(loaded, "__file__", None)
        if name and name.endswith(".py") and os.path.isfile(name):  # torch has modules without
            files.add(Path(name).resolve())
    here, ours = folder.resolve(), Path(__file__).parents[2].resolve()
    package = Path(inspect.getfile(Plan)).parent.resolve()
    prefix = Path(sys.prefix).resolve()
    for path in sorted(files):
        installed = any(path.is_relative_to(place) for place in (prefix, ours, package))
        if path == module.resolve() or (path.is_relative_to(here) and not installed):
            yield os.path.relpath(path, here)


def _of_user(error: BaseException, folder: Path, module: Path) -> Rvk8sError:
    """The error for an exception out of the user's code: their file, line and that line."""
    known = explain(error)
    if known:
        return known
    what = one_line(error)
    where, fix = os.path.relpath(module, folder), "look at the config that it returns"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        own = path.resolve() == module.resolve() or (
            path.is_relative_to(folder) and not path.is_relative_to(sys.prefix)
        )
        if own and frame.lineno:
            line = linecache.getline(frame.filename, frame.lineno).strip()
            where, fix = f"{os.path.relpath(path, folder)}:{frame.lineno}", f"in `{line}`"
            break
    if isinstance(error, SyntaxError) and error.filename:
        what = f"{type(error).__name__}: {error.msg}"
        where = f"{os.path.relpath(error.filename, folder)}:{error.lineno}"
        fix = f"in `{(error.text or '').strip()}`"
    problems = _validation(error)
    if problems:
        return InputErrors([InputError(text, where=where, fix=fix) for text in problems])
    return InputError(what, where=where, fix=fix)


def _validation(error: BaseException) -> list[str]:
    """The mistakes that pydantic found, a line each; none for another exception."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return []
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join([error.title, *(str(part) for part in problem["loc"])])
        lines.append(f"{key}: {_wrong(problem, error.title)}")
    return lines


def _wrong(problem: Mapping[str, Any], title: str) -> str:
    """What pydantic says about one value, in the words of our other errors."""
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        *groups, name = problem["loc"]
        known = _fields(title, groups)
        return "unknown key" + (f", {nearest(str(name), known, 'known are')}" if known else "")
    if problem["type"] == "missing":
        return "is missing"
    text: str = problem["msg"].removeprefix("Value error, ")
    simple = isinstance(given, str | int | float | bool | None) and problem["loc"]
    return text + (f" (it is {given!r})" if simple else "")


def _fields(title: str, groups: Sequence[str | int]) -> list[str]:
    """The keys of a config class, or of a group of options in it; none where that is not known."""
    from pydantic import BaseModel

    def descendants(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for child in cls.__subclasses__():
            yield from (child, *descendants(child))

    found = next((cls for cls in descendants(BaseModel) if cls.__name__ == title), None)
    for group in groups:
        field = found.model_fields.get(str(group)) if found else None
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        found = next((t for t in types if isinstance(t, type) and issubclass(t, BaseModel)), None)
    return list(found.model_fields) if found else []
