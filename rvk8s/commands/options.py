"""Options that several commands have, each declared once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rvk8s.contract import STAGES

if TYPE_CHECKING:
    from rvk8s.plan import Plan
    from rvk8s.project import Project
    from rvk8s.runs.places import Places
    from rvk8s.submit import Submission

Function = Callable[..., Any]


def _file_option(*names: str) -> Callable[[Function], Function]:
    return click.option(
        *names,
        metavar="FILE",
        type=click.Path(),
        help="The rvk8s.yaml; default: the one of this folder or of the nearest one above.",
    )


file_option = _file_option("-f", "--file")
#: For `logs`, where -f follows, as in kubectl and tail.
long_file_option = _file_option("--file")


def _given(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from rvk8s.runs.status import check_given

    check_given(value)
    return value


run_argument = click.argument("run", callback=_given)
root_uri_option = click.option(
    "--root-uri",
    metavar="URI",
    help="The folder or s3://bucket/prefix of the runs; default: rootUri of rvk8s.yaml.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["json"]),
    help="Print JSON on stdout and nothing else.",
)

_PLAN_OPTIONS: tuple[Callable[[Function], Function], ...] = (
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

namespace_option = click.option(
    "-n",
    "--namespace",
    metavar="NAME",
    help="The namespace of the runs; default: namespace of rvk8s.yaml, else the kubeconfig's.",
)
context_option = click.option(
    "--context", metavar="NAME", help="The context of the kubeconfig; default: the current one."
)
_CLUSTER_OPTIONS: tuple[Callable[[Function], Function], ...] = (
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
    namespace_option,
    context_option,
)


def _all_of(
    options: tuple[Callable[[Function], Function], ...],
) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


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


#: The argument and the options that make a plan; for make_plans().
plan_options = _all_of(_PLAN_OPTIONS)
#: What a plan for a cluster takes beside plan_options.
cluster_options = _all_of(_CLUSTER_OPTIONS)


def load_project(file: str | None) -> Project:
    """The project of --file, else of the nearest rvk8s.yaml."""
    from rvk8s import project

    return project.load(Path(file) if file else project.find())


def _root_uri(given: str | None, file: str | None) -> str:
    """--root-uri, else the rootUri of rvk8s.yaml; absolute."""
    from rvk8s import project
    from rvk8s.errors import InputError
    from rvk8s.plan import absolute_root

    if given is not None:
        return absolute_root(given, str(Path.cwd()), "--root-uri")
    path = Path(file) if file else project.find()
    found = project.root_uri_of(path)
    if found is None:
        fix = "add it or give --root-uri: a folder or s3://bucket/prefix"
        raise InputError("has no rootUri", where=str(path), fix=fix)
    return found


def find_places(
    root_uri: str | None,
    file: str | None,
    namespace: str | None,
    context: str | None,
    on_cluster: bool = False,
) -> Places:
    """Where --root-uri, -n, --context and rvk8s.yaml say that runs are.

    -n or --context alone means the cluster, --root-uri alone the storage; rvk8s.yaml may name both.
    Runs on S3 may be of a cluster; where none is named, that of the kubeconfig is asked.

    Args:
        on_cluster: a cluster is needed: without -n and --context that of the kubeconfig.
    """
    from rvk8s import project, storage
    from rvk8s.cluster import Cluster, kubeconfig
    from rvk8s.runs.places import Places

    on_cluster = on_cluster or namespace is not None or context is not None
    if root_uri is None and not on_cluster:
        path = Path(file) if file else project.find()
        namespace = project.namespace_of(path)
        on_cluster = namespace is not None
        found = project.root_uri_of(path) if on_cluster else _root_uri(None, file)
    else:
        found = None if root_uri is None else _root_uri(root_uri, file)
        if on_cluster and namespace is None:
            namespace = _file_namespace(file)
    cluster = Cluster.connect(context=context, namespace=namespace) if on_cluster else None
    guess = cluster is None and storage.is_s3(found or "") and kubeconfig.is_there()
    return Places(found, cluster, guess)


def status_command_line(
    run_id: str,
    *,
    namespace: str | None = None,
    context: str | None = None,
    root_uri: str | None = None,
    file: str | None = None,
) -> str:
    """The command that follows a run, where it was looked for."""
    given = {"-n": namespace, "--context": context, "--root-uri": root_uri, "-f": file}
    words = [word for flag, value in given.items() if value for word in (flag, value)]
    return shlex.join(["rvk8s", "status", run_id, "-w", *words])


def _file_namespace(file: str | None) -> str | None:
    from rvk8s import project
    from rvk8s.errors import InputError

    try:
        return project.namespace_of(Path(file) if file else project.find())
    except InputError:
        if file:
            raise
        return None


#: The parameters of cluster_options().
CLUSTER_NAMES: tuple[str, ...] = (
    *("nodes", "gpus_per_node", "pool", "image", "launcher", "value_files", "namespace", "context"),
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
    from rvk8s.errors import InputError
    from rvk8s.run_options import RunOptions, parse_splits

    run_options = RunOptions(
        args=dict(args),
        splits=parse_splits(splits),
        machine_gpus=gpu_count(),
        file=file,
        **options,
    )
    experiments = load_project(file).select(experiment, match)
    if run_options.run_id and len(experiments) > 1:
        names = ", ".join(e.name for e in experiments)
        raise InputError(f"one run, but -m picks {names}", where="--run-id", fix="name one")
    return [plan.make_plan(e, run_options) for e in experiments]


def make_submissions(
    experiment: str | None,
    match: str | None,
    args: tuple[tuple[str, str], ...],
    splits: tuple[str, ...],
    file: str | None,
    namespace: str | None,
    context: str | None,
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
    from rvk8s.errors import InputError, InputErrors
    from rvk8s.project.values_files import combined, read_layers
    from rvk8s.run_options import ClusterOptions, RunOptions, parse_splits

    files = read_layers(value_files)
    given = {"--nodes": nodes, "--gpus-per-node": gpus_per_node, "--pool": pool, "--image": image}
    given |= {"--launcher": launcher, "-n": namespace, "--context": context}
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
    experiments = project.select(experiment, match)
    if run_options.run_id and len(experiments) > 1:
        names = ", ".join(e.name for e in experiments)
        raise InputError(f"one run, but -m picks {names}", where="--run-id", fix="name one")
    where = namespace or project.namespace or submit.kubeconfig_namespace(context)
    submissions = []
    for one in experiments:
        try:
            submissions.append(submit.prepare(one, run_options, where))
        except InputErrors as errors:
            raise located(errors, project, one, files, given_by(run_options)) from errors
    return submissions


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
