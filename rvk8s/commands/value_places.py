"""Where a value that the chart refuses was written: in rvk8s.yaml, a preset, a --values file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rvk8s.errors import InputError, InputErrors

if TYPE_CHECKING:
    from rvk8s.project import Experiment, Project
    from rvk8s.project.values_files import Layer
    from rvk8s.run_options import RunOptions

#: The keys of values, from the top.
Path = tuple[str, ...]
#: Values that rvk8s.yaml has at its top, too, weaker than its values.
_AT_THE_TOP: dict[Path, Path] = {("rootUri",): ("rootUri",), ("image", "stage"): ("image",)}
#: Keys of an experiment that become values of stages.
_OF_STAGES = ("splits", "gpus", "retries", "deadlineSeconds")


def given_by(options: RunOptions) -> set[Path]:
    """The values of the chart that options of the command line give."""
    cluster = options.cluster
    assert cluster is not None
    values: dict[Path, object] = {
        ("stages", "train", "gpus"): options.gpus,
        ("stages", "train", "ranks"): options.ranks,
        ("stages", "train", "nodes"): cluster.nodes,
        ("stages", "train", "gpusPerNode"): cluster.gpus_per_node,
        ("stages", "train", "pool"): cluster.pool,
        ("launcher",): cluster.launcher,
        ("image", "stage"): cluster.image,
        ("rootUri",): options.root_uri,
    }
    values |= {("stages", stage, "splits"): number for stage, number in options.splits.items()}
    values |= {("experiment", "args", key): text for key, text in options.args.items()}
    return {path for path, value in values.items() if value is not None}


def located(
    errors: InputErrors,
    project: Project,
    experiment: Experiment,
    files: Sequence[Layer],
    given: Collection[Path],
) -> InputErrors:
    """The errors with file and line where a value stands in one.

    Args:
        files: of --values, the strongest first.
        given: the values that options gave: these errors name the option already.
    """
    from rvk8s.chart import BadValue

    def place(error: InputError) -> InputError:
        if not isinstance(error, BadValue) or not error.path or error.path in given:
            return error
        places = (
            _of_experiment(project, experiment, error.path),
            *(layer.where(error.path) for layer in (*files, *project.layers)),
            _where(project, _AT_THE_TOP.get(error.path)),
        )
        where = next((place for place in places if place), None)
        return InputError(error.what, where=where, fix=error.fix) if where else error

    return InputErrors([place(error) for error in errors.errors])


def _of_experiment(project: Project, experiment: Experiment, path: Path) -> str | None:
    """Where the experiment says it, or the variant, which is stronger; stronger than values."""
    if path[:2] == ("experiment", "args"):
        keys = [("args", *path[2:])]
    elif path[:1] == ("stages",) and len(path) == 3 and path[2] in _OF_STAGES:
        keys = [(path[2], path[1]), (path[2],)]
    else:
        return None
    name = experiment.variant_of or experiment.name
    places: list[Path] = [("experiments", name)]
    if experiment.variant_of:
        places.insert(0, (*places[0], "variants", experiment.name.removeprefix(f"{name}-")))
    found = (_where(project, (*place, *key)) for place in places for key in keys)
    return next((where for where in found if where), None)


def _where(project: Project, path: Path | None) -> str | None:
    """Where rvk8s.yaml has something that is not divided further by stages."""
    found = None if path is None else project.document.find(path)
    if found is None:
        return None
    value = project.document.value
    for key in found:
        value = value[key]
    return None if isinstance(value, dict) else project.document.where(found)
