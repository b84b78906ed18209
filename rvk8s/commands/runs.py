"""rvk8s list, status and logs: what lies below a root URI and in a namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.options import Duration, output_option, print_output, run_argument
from rvk8s.commands.where import (
    cluster_place,
    file_option,
    find_places,
    long_file_option,
    root_uri_option,
    status_command_line,
)

if TYPE_CHECKING:
    from rvk8s.runs.status import RunStatus


@click.command("list")
@root_uri_option
@file_option
@cluster_place
@click.option(
    "-A",
    "--all-namespaces",
    is_flag=True,
    help="The runs of all namespaces, also where -n is given.",
)
@click.option(
    "-l",
    "--selector",
    metavar="LABELS",
    help="Only runs of the cluster whose driver's Job has these labels: rvk8s.io/experiment=NAME.",
)
@output_option
def list_command(
    all_namespaces: bool, selector: str | None, output: str | None, **where: Any
) -> None:
    """Show the runs below the root URI and in the namespace, the newest first.

    With -n, --context or --kubeconfig, or where rvk8s.yaml has a namespace, those of the cluster.
    Without them the kubeconfig's cluster is asked for runs of a root URI on S3.
    """
    places = find_places(**where, all_namespaces=all_namespaces)
    if selector and places.cluster is None and not places.guess:
        from rvk8s.errors import InputError

        fix = "give -n, --context or --kubeconfig, or leave it out"
        raise InputError("runs in storage have no labels", where="--selector", fix=fix)
    runs = places.runs(selector or "")
    for note in places.notes():
        click.echo(note, err=True)
    if output:
        print_output(output, [run.to_dict() for run in runs], (run.run_id for run in runs))
        return
    if not runs:
        parts = [places.root_uri or ""]
        if places.cluster:
            from rvk8s.cluster.preconditions import check_namespace

            check_namespace(places.cluster)
            name = places.cluster.namespace
            parts.append(f"namespace {name}" if name else "any namespace")
        click.echo(f"no runs in {' or '.join(filter(None, parts))}", err=True)
        return
    from rvk8s.runs.tables import runs_table
    from rvk8s.tables import show

    show(runs_table(runs, with_namespace=all_namespaces))


@click.command("status")
@run_argument
@click.option("-w", "--watch", is_flag=True, help="Go on until the run has ended.")
@root_uri_option
@file_option
@cluster_place
@output_option
def status_command(run: str, watch: bool, output: str | None, **where: Any) -> None:
    """Show the stages of RUN: a run's id, or the beginning of one.

    With -w and -o, a document now and at each change, as kubectl get has it.
    """
    places = find_places(**where)
    if watch and output:
        from rvk8s.runs.follow import each_change

        def write(found: RunStatus) -> None:
            print_output(output, found.to_dict(), [found.run_id], several=True)

        each_change(places, run, write)
        return
    found, _ = places.find(run)
    if output:
        print_output(output, found.to_dict(), [found.run_id])
        return
    from rvk8s.cluster.conditions import ENDED
    from rvk8s.runs.status import LOST
    from rvk8s.runs.tables import status_tables
    from rvk8s.tables import show

    if not watch or found.state in (*ENDED, LOST):
        show(*status_tables(found))
        return
    from rvk8s.runs.follow import until_ended

    again = status_command_line(found.run_id, **where)
    until_ended(places, found.run_id, show=True, go_on=again)


@click.command("logs")
@run_argument
@click.argument("stage", required=False)
@click.option("--split", type=click.IntRange(min=0), metavar="N", help="Only split N, from 0.")
@click.option(
    "--rank",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of the training, only the node that has rank N, from 0.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "-p",
    "--previous",
    is_flag=True,
    help="Of each log, what the attempt before its last one wrote.",
)
@click.option(
    "--tail",
    type=click.IntRange(min=-1),
    default=-1,
    metavar="N",
    help="Of each log, only the last N lines; -1: all.",
)
@click.option(
    "--since",
    type=Duration(),
    metavar="TIME",
    help="Only lines of the last 30s, 10m, 2h; of pods that are there: stored logs have no times.",
)
@click.option(
    "--timestamps", is_flag=True, help="The time before each line; of pods that are there, too."
)
@root_uri_option
@long_file_option
@cluster_place
def logs_command(
    run: str,
    stage: str | None,
    split: int | None,
    rank: int | None,
    follow: bool,
    previous: bool,
    tail: int,
    since: float | None,
    timestamps: bool,
    **where: Any,
) -> None:
    """Show what the stages of RUN wrote; of one STAGE where it is named.

    On a cluster, `rvk8s logs RUN driver` shows what the driver wrote.
    """
    from rvk8s.runs.logs import print_run_logs
    from rvk8s.runs.pod_logs import Part

    if follow and previous:
        raise click.UsageError("--follow and --previous exclude each other")
    print_run_logs(
        find_places(**where),
        run,
        stage=stage,
        split=split,
        rank=rank,
        follow=follow,
        previous=previous,
        part=Part(None if tail < 0 else tail, since or None, timestamps),
    )
