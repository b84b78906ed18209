"""The chart helm/rvk8s and its values: merged, and printed as `rvk8s plan -o values` does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rvk8s.project.experiment import Experiment
    from rvk8s.run_options import RunOptions


#: Texts that are texts to every reader of YAML without quotes: n, 1e3 and 0o17 are not to Helm's.
_PLAIN = re.compile(r"[A-Za-z/][-\w ./:@]*")


def chart_dir() -> Path:
    """The folder of the chart: in a wheel beside this module, in a checkout helm/rvk8s."""
    here = Path(__file__).resolve().parent
    places = (here / "charts" / "rvk8s", here.parent / "helm" / "rvk8s")
    found = next((place for place in places if (place / "Chart.yaml").is_file()), None)
    if found is None:
        raise InputError(f"no chart in {places[0]}", fix="install rvk8s again")
    return found


def cluster_values(
    experiment: Experiment, options: RunOptions, root_uri: str, errors: list[InputError]
) -> tuple[Mapping[str, Any], str | None]:
    """The chart's values that do not follow from the plan, and the image.

    Args:
        errors: gets what is missing or cannot be had on a cluster.

    Returns:
        Nothing and the file's image for a run on this machine.
    """
    cluster = options.cluster
    if cluster is None:
        return {}, experiment.image
    train = {"nodes": cluster.nodes, "gpusPerNode": cluster.gpus_per_node, "pool": cluster.pool}
    train["ranks"] = options.ranks
    given: dict[str, Any] = {"stages": {"train": {k: v for k, v in train.items() if v is not None}}}
    given = deep_merged({"stages": _asked(experiment, options)}, given)
    if cluster.launcher is not None:
        given["launcher"] = cluster.launcher
    values = deep_merged(deep_merged(experiment.values, cluster.values), given)
    images = values.get("image")
    named = images.get("stage") if isinstance(images, dict) else None
    image = cluster.image or named or experiment.image
    if not image:
        fix = "add image to rvk8s.yaml or give --image NAME:TAG"
        errors.append(InputError("no image says what the stages run in", fix=fix))
    if root_uri and "://" not in root_uri:
        where = "--root-uri" if options.root_uri else "rootUri"
        fix = "pods see no folder of this machine: give s3://bucket/prefix"
        errors.append(InputError(f"{root_uri} is a folder", where=where, fix=fix))
    return values, image


def _asked(experiment: Experiment, options: RunOptions) -> dict[str, dict[str, int]]:
    """Splits and GPUs by stage as the experiment or an option names them.

    A plan leaves 1 and 0 of them to the chart; asked for, they are stronger than other values.
    """
    splits = {**experiment.splits, **options.splits}
    asked = {stage: {"splits": number} for stage, number in splits.items()}
    gpus = experiment.gpus if options.gpus is None else options.gpus
    for stage, number in (("train", gpus), ("predict", gpus and min(gpus, 1))):
        if number is not None:
            asked.setdefault(stage, {})["gpus"] = number
    return asked


def arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """get_config's arguments as values of the chart: `args`, and as text what Helm would change."""
    texts = {name: json.dumps(value) for name, value in args.items() if not _kept_by_helm(value)}
    kept = {name: value for name, value in args.items() if name not in texts}
    return {"args": kept, "argsJson": texts} if texts else {"args": kept}


def _kept_by_helm(value: Any) -> bool:
    """Whether a value is the same after Helm, whose numbers are floats: 1.0 becomes 1."""
    if isinstance(value, Mapping):
        return all(_kept_by_helm(below) for below in value.values())
    if isinstance(value, list | tuple):
        return all(_kept_by_helm(below) for below in value)
    if isinstance(value, float):
        return math.isfinite(value) and not value.is_integer()
    return not isinstance(value, int) or abs(value) < 2**53


def to_yaml(values: Any, several: bool = False) -> str:
    """YAML in which texts of several lines stay readable.

    Args:
        several: values is a list of documents.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = None
        if "\n" in value:
            style = "|"  # PyYAML quotes all the same what a block cannot hold
        elif not _PLAIN.fullmatch(value) or value.lower() in ("y", "n"):
            style = "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    documents = values if several else [values]
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def deep_merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Two values files as Helm merges them: mappings key by key, anything else replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = deep_merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
