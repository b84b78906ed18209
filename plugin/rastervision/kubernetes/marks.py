"""Markers of a stage: what was started, what is done, and with which inputs.

A stage whose done-marker holds the hash of today's inputs is not done again. A started-marker with
another hash means that the outputs there are are of other inputs, so they are cleared first; with
the same hash the stage goes on from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rastervision.kubernetes.context import Context

from rvk8s import __version__, storage
from rvk8s.contract import CONFIGURE, CONTRACT_VERSION, RunLayout, now, split_of
from rvk8s.errors import InputError

#: The stages whose outputs a stage reads, beside the pipeline's config.
READS = {
    CONFIGURE: (),
    "analyze": (),
    "chip": ("analyze",),
    "train": ("analyze", "chip"),
    "predict": ("analyze", "train"),
    "eval": ("predict",),
    "bundle": ("analyze", "train"),
}


def done(context: Context) -> dict[str, Any] | None:
    return storage.read_json(context.layout.done(context.stage, context.split))


def started_uri(context: Context) -> str:
    return f"{context.layout.stage_dir(context.stage, context.split)}/started.json"


def started(context: Context) -> dict[str, Any] | None:
    return storage.read_json(started_uri(context))


def write_started(context: Context, inputs: str, outputs: Sequence[str] = ()) -> None:
    """Say that outputs there are, or come now, are of these inputs.

    Args:
        inputs: the result of input_hash; empty while old outputs are deleted.
        outputs: URIs of the files that are about to be published, or deleted.
    """
    value = {"inputs": inputs, "at": now(), "outputs": list(outputs)}
    storage.write_json(started_uri(context), value)


def write_done(
    context: Context,
    inputs: str,
    began: str,
    seconds: float,
    outputs: Sequence[str],
    extra: Mapping[str, Any],
) -> None:
    """Say that the stage is done: its outputs are complete and of these inputs.

    Args:
        inputs: the result of input_hash.
        began: UTC, as contract.now() writes it.
        outputs: URIs.
        extra: what else the stage reports: of configure, the pipeline's commands.
    """
    prefix = f"{context.layout.run_uri}/"
    value = {
        "contract": CONTRACT_VERSION,
        "stage": context.stage,
        "split": context.index,
        "splits": context.splits,
        "inputs": inputs,
        "started": began,
        "ended": now(),
        "seconds": round(seconds, 2),
        **extra,
        "outputs": [uri.removeprefix(prefix) for uri in outputs],
    }
    storage.write_json(context.layout.done(context.stage, context.split), value)


def input_hash(context: Context) -> str:
    """The hash of everything that the outputs of this stage depend on.

    Raises:
        InputError: there is no such run, or a stage that comes before this one is not done.
    """
    plan = context.plan
    if context.stage == CONFIGURE:
        # Which files the module is made of is known once it has been imported.
        known = (done(context) or {}).get("sources") or {}
        return configure_hash(context, hash_files(list(known), Path(plan.project_dir)))
    configured = _done_or_error(context.layout, CONFIGURE, None)
    try:
        config = storage.read_bytes(context.layout.config_uri)
    except FileNotFoundError:
        fix = "run the configure stage again: --rerun configure"
        raise InputError("is missing", where=context.layout.config_uri, fix=fix) from None
    return digest(
        {
            **_common(context),
            "config": hashlib.sha256(config).hexdigest(),
            "sources": configured["sources"],
            "earlier": _earlier(context, configured),
        }
    )


def configure_hash(context: Context, sources: Mapping[str, str]) -> str:
    """The input hash of configure: the module, its arguments, how many processes will train, and
    the user's own Python files.

    Args:
        sources: the result of hash_files for these files.
    """
    plan = context.plan
    asked = {"module": plan.module, "args": dict(plan.args), "ranks": plan.stage("train").ranks}
    return digest({**_common(context), **asked, "sources": dict(sources)})


def hash_files(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Name -> hash of its content, empty for a file that is gone; names are relative to folder."""
    hashes = {}
    for name in names:
        path = folder / name
        content = path.read_bytes() if path.is_file() else None
        hashes[name] = "" if content is None else hashlib.sha256(content).hexdigest()
    return hashes


def digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def code_hash() -> str:
    """The hash of the installed plugins: what a stage does depends on them."""
    plugins = Path(__file__).parent.parent
    value = hashlib.sha256()
    for plugin in ("fastai_backend", "kubernetes"):
        for path in sorted((plugins / plugin).rglob("*.py")):
            value.update(path.relative_to(plugins).as_posix().encode() + b"\0")
            value.update(path.read_bytes())
    return value.hexdigest()


def _common(context: Context) -> dict[str, Any]:
    return {
        "contract": CONTRACT_VERSION,
        "version": __version__,
        "code": code_hash(),
        "image": context.image_digest,
        "stage": context.stage,
        "splits": context.splits,
        "index": context.index,
    }


def _earlier(context: Context, configured: Mapping[str, Any]) -> dict[str, str]:
    """The input hashes of the stages that this one reads, by stage and split."""
    hashes = {}
    for stage in READS[context.stage]:
        if stage not in configured["commands"]:
            continue
        splits = stage_splits(context, stage, configured)
        for index in range(splits):
            value = _done_or_error(context.layout, stage, split_of(splits, index))
            hashes[f"{stage}-{index}"] = str(value["inputs"])
    return hashes


def stage_splits(context: Context, stage: str, configured: Mapping[str, Any]) -> int:
    """How many splits a stage has: the plan's number, if the pipeline can split it."""
    return context.plan.stage(stage).splits if stage in configured["split_commands"] else 1


def _done_or_error(layout: RunLayout, stage: str, split: int | None) -> dict[str, Any]:
    value = storage.read_json(layout.done(stage, split))
    if value is None:
        name = stage if split is None else f"{stage}, split {split},"
        fix = f"run that first: --from {stage}"
        raise InputError(f"stage {name} is not done", where=layout.run_uri, fix=fix)
    return value
