"""Options that several commands have, each declared once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.where import all_of, cluster_place, file_option, root_uri_option
from rvk8s.contract import STAGES
from rvk8s.streams import is_utf8, tell, write_document

if TYPE_CHECKING:
    from rvk8s.plan import Plan
    from rvk8s.project import Experiment, Project
    from rvk8s.submit import Submission


def _given(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    from rvk8s.runs.status import check_given

    # As `submit -o name` writes it.
    several = isinstance(value, tuple)
    names = [name.removeprefix("job.batch/") for name in (value if several else [value])]
    for name in names:
        check_given(name)
    return tuple(dict.fromkeys(names)) if several else names[0]


run_argument = click.argument("run", callback=_given)
runs_argument = click.argument("runs", nargs=-1, required=True, metavar="RUN...", callback=_given)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["name", "json", "yaml"]),
    help="Print names, JSON or YAML on stdout and nothing else.",
)

#: The argument and the options that make a plan; for make_plans().
plan_options = all_of(
    click.argument("experiment", required=False),
    click.option(
        "-m",
        "--match",
        metavar="PATTERN",
        help="All experiments and variants whose names match, such as '*resnet18*'.",
    ),
    click.option(
        "-a",
        "--arg",
        "args",
        type=(str, str),
        multiple=True,
        metavar="KEY VALUE",
        help="An argument of get_config; stronger than those of rvk8s.yaml. Repeatable.",
    ),
    click.option("--test", is_flag=True, help="Pass test=True to get_config: a small, fast run."),
    click.option(
        "--splits",
        multiple=True,
        metavar="N",
        help="Split chip and predict N times, or by stage: chip=4,predict=2. Repeatable.",
    ),
    click.option(
        "--gpus",
        type=click.IntRange(min=0),
        metavar="N",
        help="GPUs for training, in total; each split of predict gets one, too. Default: gpus of "
        "rvk8s.yaml, on this machine at most those that it has; else here 1, on a cluster 0: it "
        "trains on CPUs.",
    ),
    click.option(
        "--ranks",
        type=click.IntRange(min=1),
        metavar="N",
        help="Processes that train together; default: one for each GPU, at least one.",
    ),
    root_uri_option,
    click.option(
        "--from",
        "from_stage",
        type=click.Choice(STAGES),
        metavar="STAGE",
        help="With --run-id: start with this stage; those before it have to be done.",
    ),
    click.option(
        "--rerun",
        is_flag=False,
        flag_value="all",
        type=click.Choice(["all", *STAGES]),
        metavar="[STAGE]",
        help="With --run-id: do this stage and those after it again; without STAGE, all.",
    ),
    click.option("--run-id", metavar="ID", help="Go on with this run."),
    file_option,
)

#: What a plan for a cluster takes beside plan_options.
cluster_options = all_of(
    click.option(
        "--nodes",
        type=click.IntRange(min=1),
        metavar="N",
        help="Nodes that train together; default: as many as the GPUs fill.",
    ),
    click.option(
        "--gpus-per-node",
        type=click.IntRange(min=1),
        metavar="N",
        help="GPUs of each node for training; default: those of the pool's nodes.",
    ),
    click.option("--pool", metavar="NAME", help="The node pool of the training: one of pools."),
    click.option("--image", metavar="NAME:TAG", help="The image of the stages."),
    click.option(
        "--launcher",
        type=click.Choice(["pytorchjob", "job"]),
        help="What starts the training: pytorchjob needs the Kubeflow training operator.",
    ),
    click.option(
        "--values",
        "value_files",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        help="Values of the chart, stronger than those of rvk8s.yaml. Repeatable.",
    ),
    cluster_place,
)


class Duration(click.ParamType):
    """A time as kubectl writes it: 30s, 10m, 2h, 1h30m; a number alone is seconds."""

    name = "duration"
    _UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}  # noqa: RUF012

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is not a time: give 30s, 10m or 2h", param, ctx)
        return sum(float(number) * self._UNITS[unit] for number, unit in parts)


class PlanCommand(click.Command):
    """A command with plan_options, which says how -a is written where it is written otherwise."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name for parameter in self.params for name in parameter.opts}
        words = args[: args.index("--")] if "--" in args else args
        for place, word in enumerate(words):
            if word in ("-a", "--arg"):
                _check_argument(ctx, word, words[place + 1 : place + 3], options)
        return super().parse_args(ctx, args)


def _check_argument(ctx: click.Context, flag: str, following: list[str], options: set[str]) -> None:
    """Refuse KEY=VALUE, and a KEY whose value is not there or is the next option."""
    key, value = (*following, "", "")[:2]
    name, equals, text = key.partition("=")
    if not key or name in options:
        raise click.UsageError(f"{flag} names no argument; write {flag} KEY VALUE", ctx)
    if equals:
        fix = f"write {flag} {name} {text or 'VALUE'}"
        raise click.UsageError(f"{flag} {key}: the value is a word of its own; {fix}", ctx)
    if len(following) < 2 or value.partition("=")[0] in options:
        what, fix = f"{flag} {key} has no value", f"write {flag} {key} VALUE"
        if value:
            what += f": {value} is an option"
            fix += ", or a text like an option under args in rvk8s.yaml"
        raise click.UsageError(f"{what}; {fix}", ctx)


def load_project(file: str | None) -> Project:
    """The project of --file, else of the nearest rvk8s.yaml."""
    from rvk8s import project

    return project.load(Path(file) if file else project.find())


def _select(
    project: Project, experiment: str | None, match: str | None, run_id: str | None
) -> Sequence[Experiment]:
    """The experiments that the options name; one, where a run is gone on with."""
    from rvk8s.errors import InputError

    found = project.select(experiment, match)
    if run_id and len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise InputError(f"one run, but -m picks {names}", where="--run-id", fix="name one")
    return found


#: The parameters of cluster_options().
CLUSTER_NAMES: tuple[str, ...] = (
    *("nodes", "gpus_per_node", "pool", "image", "launcher", "value_files"),
    *("namespace", "context", "kubeconfig"),
)


def make_plans(
    experiment: str | None,
    match: str | None,
    args: tuple[tuple[str, str], ...],
    splits: tuple[str, ...],
    file: str | None,
    **options: Any,
) -> list[Plan]:
    """A plan for each experiment that plan_options() select."""
    from rvk8s import plan
    from rvk8s.engines.machine import gpu_count
    from rvk8s.run_options import RunOptions, parse_splits

    run_options = RunOptions(
        args=dict(args),
        splits=parse_splits(splits),
        machine_gpus=gpu_count(),
        file=file,
        **options,
    )
    experiments = _select(load_project(file), experiment, match, run_options.run_id)
    return [plan.make_plan(e, run_options) for e in experiments]


def make_submissions(
    experiment: str | None,
    match: str | None,
    args: tuple[tuple[str, str], ...],
    splits: tuple[str, ...],
    file: str | None,
    namespace: str | None,
    context: str | None,
    kubeconfig: str | None,
    value_files: tuple[str, ...],
    image: str | None,
    nodes: int | None,
    gpus_per_node: int | None,
    pool: str | None,
    launcher: str | None,
    **options: Any,
) -> list[Submission]:
    """What would be sent for each experiment that plan_options() and cluster_options() select."""
    from rvk8s import submit
    from rvk8s.commands.value_places import given_by, located
    from rvk8s.errors import InputErrors
    from rvk8s.project.values_files import combined, read_layers
    from rvk8s.run_options import ClusterOptions, RunOptions, parse_splits

    files = read_layers(value_files)
    given = {"--nodes": nodes, "--gpus-per-node": gpus_per_node, "--pool": pool, "--image": image}
    given |= {"--launcher": launcher, "-n": namespace, "--context": context}
    given |= {"--kubeconfig": kubeconfig}
    words = [word for flag, value in given.items() if value for word in (flag, str(value))]
    words += [word for path in value_files for word in ("--values", path)]
    cluster = ClusterOptions(
        image=image,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        pool=pool,
        launcher=launcher,
        values=combined(files),
        words=tuple(words),
    )
    run_options = RunOptions(
        args=dict(args), splits=parse_splits(splits), file=file, cluster=cluster, **options
    )
    project = load_project(file)
    experiments = _select(project, experiment, match, run_options.run_id)
    where = namespace or project.namespace or submit.kubeconfig_namespace(context, kubeconfig)
    submissions = []
    for one in experiments:
        try:
            submissions.append(submit.prepare(one, run_options, where))
        except InputErrors as errors:
            raise located(errors, project, one, files, given_by(run_options)) from errors
    for note in dict.fromkeys(note for one in submissions for note in one.sources.notes):
        tell(f"note: {note}", err=True)
    return submissions


def print_output(output: str, value: Any, names: Iterable[str], several: bool = False) -> None:
    """What --output asks for, on stdout.

    Args:
        value: for json and yaml; of JSON's types.
        names: for name, a line each.
        several: it is one of several documents.
    """
    if output == "json":
        print_json(value)
    elif output == "yaml":
        from rvk8s.values import to_yaml

        write_document(("---\n" if several else "") + to_yaml(value))
    else:
        for name in names:
            click.echo(name)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    # Escaped where stdout is not UTF-8, a document says the same in every encoding.
    click.echo(json.dumps(value, indent=2, ensure_ascii=not is_utf8(sys.stdout)))
