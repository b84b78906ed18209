"""rvk8s wait, cancel and delete."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from rvk8s.commands.options import run_argument
from rvk8s.commands.where import cluster_place, file_option, find_places, root_uri_option
from rvk8s.contract import ExitCode, RunLayout


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


def confirm(question: str) -> None:
    """Ask on stderr; goes on where the answer is yes.

    Raises:
        Exit: it is no; says that nothing was done.
        InputError: nobody answers: stdin is no terminal, and at its end.
        Interrupted: Ctrl-C or Ctrl-D.
    """
    from rvk8s.errors import InputError, Interrupted

    fix = "give --yes to go on without a question"
    silent = InputError("nothing was done: stdin has no answer", fix=fix)
    if sys.stdin is None:  # closed
        raise silent
    try:
        answer = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # the question's line has no end yet
        if not sys.stdin.isatty():
            raise silent from None
        raise Interrupted("nothing was done: interrupted") from None
    if not answer:
        click.echo("nothing was done", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)


@click.command("wait")
@run_argument
@click.option(
    "--for",
    "target",
    required=True,
    metavar="WHAT",
    help="succeeded, failed, ended, or stage=NAME: until that stage is done.",
)
@click.option(
    "--timeout", type=Duration(), metavar="TIME", help="Give up after this time: 30s, 10m, 2h."
)
@root_uri_option
@file_option
@cluster_place
def wait_command(run: str, target: str, timeout: float | None, **where: Any) -> None:
    """Wait until RUN has come to a point.

    Exits with 0 when it has, with 124 after --timeout, and at once with another code when it no
    longer can: the run has ended otherwise.
    """
    from rvk8s.runs.follow import until

    found = until(find_places(**where), run, target, timeout)
    click.echo(f"{found.run_id} condition met")


@click.command("cancel")
@run_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask where RUN is the beginning of an id.")
@file_option
@cluster_place
def cancel_command(run: str, yes: bool, **where: Any) -> None:
    """Stop RUN on its cluster; finished stages stay finished.

    `rvk8s submit ... --run-id RUN` goes on with it.
    """
    from rvk8s.errors import InputError
    from rvk8s.runs import cluster_runs, control

    places = find_places(None, on_cluster=True, **where)
    assert places.cluster is not None
    found = cluster_runs.find(places.cluster, run)
    if found is None:
        fix = "`rvk8s list` shows the runs; -n looks in another namespace"
        raise InputError(f"no run {run} in namespace {places.cluster.namespace}", fix=fix)
    if found.run_id != run and not yes:
        confirm(f"Stop {found.run_id}?")
    control.cancel(places, places.cluster, found)
    click.echo(f"{found.run_id} cancelled")


@click.command("delete")
@run_argument
@click.option("--results", is_flag=True, help="Delete the run's folder in the storage too.")
@click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="Do not ask: before results are deleted, nor where RUN is the beginning of an id.",
)
@root_uri_option
@file_option
@cluster_place
def delete_command(run: str, results: bool, yes: bool, **where: Any) -> None:
    """Remove the objects of RUN from the cluster, and end it if it is running.

    What it has written stays in the storage, unless --results is given.
    """
    from rvk8s import storage
    from rvk8s.cluster.objects import wait_until_gone
    from rvk8s.errors import InputError
    from rvk8s.heartbeat import OtherDriver, other_driver
    from rvk8s.runs import cluster_runs, control
    from rvk8s.runs.status import find_run

    places = find_places(on_cluster=True, **where)
    assert places.cluster is not None
    found = cluster_runs.find(places.cluster, run)
    run_id = found.run_id if found else run
    root = found.root_uri if found else places.root_uri
    if results:
        if root is None:
            fix = "give --root-uri"
            raise InputError(f"nothing says where the results of {run} are", fix=fix)
        run_id = run_id if found else find_run(root, run)
        if not yes:
            confirm(f"Delete {root}/{run_id} and all that is in it?")
        session = found.driver["metadata"]["uid"] if found else None
        if other := other_driver(RunLayout(f"{root}/{run_id}"), session):
            fix = "delete it there, or leave --results out"
            raise OtherDriver(f"another driver, {other.who}, has this run", fix=fix)
    elif run_id != run and not yes:
        confirm(f"Delete the objects of {run_id}?")
    deleted = control.delete(places.cluster, run_id, found)
    for name in deleted:
        click.echo(f"{name} deleted")
    if results:
        wait_until_gone(places.cluster, run_id)  # what still writes would make the folder anew
        storage.delete_tree(f"{root}/{run_id}")
        click.echo(f"{root}/{run_id} deleted")
    elif not deleted:
        fix = "`rvk8s list` shows the runs; -n looks in another namespace"
        raise InputError(f"no run {run} in namespace {places.cluster.namespace}", fix=fix)
