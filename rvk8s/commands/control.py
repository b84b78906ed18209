"""rvk8s wait, cancel and delete."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.local_control import (
    all_or_none,
    cancel_here,
    confirm,
    delete_here,
    local_runs,
)
from rvk8s.commands.options import Duration, runs_argument
from rvk8s.commands.run import raise_failures
from rvk8s.commands.where import cluster_place, file_option, find_places, root_uri_option
from rvk8s.streams import tell

if TYPE_CHECKING:
    from rvk8s.cluster import Cluster
    from rvk8s.errors import Rvk8sError
    from rvk8s.runs.cluster_runs import ClusterRun
    from rvk8s.runs.control import ToDelete


@click.command("wait")
@runs_argument
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
def wait_command(runs: tuple[str, ...], target: str, timeout: float | None, **where: Any) -> None:
    """Wait until each RUN has come to a point, one after the other.

    Exits with 0 when all have, with 124 after --timeout, and with another code when one no longer
    can: it has ended otherwise. The others are waited for even so.
    """
    from rvk8s.errors import Rvk8sError
    from rvk8s.runs import follow

    reached, began = follow.condition(target), time.monotonic()
    places = find_places(**where)
    found = all_or_none(lambda run: places.find(run)[0], runs)
    failures: list[tuple[str, Rvk8sError]] = []
    for run_id in [one.run_id for one in found]:
        try:
            follow.until(places, run_id, reached, timeout, began)
            tell(f"{run_id} condition met")
        except Rvk8sError as error:
            failures.append((run_id, error))
    raise_failures(failures, named=len(found) > 1)


@click.command("cancel")
@runs_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask where RUN is the beginning of an id.")
@root_uri_option
@file_option
@cluster_place
def cancel_command(runs: tuple[str, ...], yes: bool, **where: Any) -> None:
    """Stop each RUN on its cluster, or on this machine; finished stages stay finished.

    `rvk8s submit ... --run-id RUN`, or `rvk8s run` with it, goes on. Where one of several is not
    there or has ended, none is stopped.
    """
    from rvk8s.errors import Rvk8sError
    from rvk8s.runs import cluster_runs, control

    here = local_runs(runs, where)
    if here is not None:
        cancel_here(here, runs, yes)
        return
    places = find_places(on_cluster=True, **where)
    cluster = places.cluster
    assert cluster is not None

    def look(run: str) -> ClusterRun:
        found = cluster_runs.find(cluster, run)
        if found is None:
            raise control.no_run(cluster, run)
        control.check_cancellable(found)
        return found

    found = all_or_none(look, runs)
    ids = [one.run_id for one in found]
    if not yes and set(ids) - set(runs):
        confirm(f"Stop {', '.join(ids)}?")
    failures: list[tuple[str, Rvk8sError]] = []
    told: list[ClusterRun] = []
    for one in found:
        try:
            control.tell_to_stop(cluster, one)
            told.append(one)
        except Rvk8sError as error:
            failures.append((one.run_id, error))
    for one in told:
        try:
            control.see_stopped(places, cluster, one)
            tell(f"{one.run_id} cancelled")
        except Rvk8sError as error:
            failures.append((one.run_id, error))
    raise_failures(failures)


@click.command("delete")
@runs_argument
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
def delete_command(runs: tuple[str, ...], results: bool, yes: bool, **where: Any) -> None:
    """Remove the objects of each RUN from the cluster, and end it if it is running.

    What it has written stays in the storage, unless --results is given; a run of this machine has
    nothing else. Where one of several is not there, nothing is removed.
    """
    from rvk8s.runs import control

    here = local_runs(runs, where)
    if here is not None:
        delete_here(here, results, yes)
        return
    places = find_places(on_cluster=True, **where)
    cluster = places.cluster
    assert cluster is not None
    found = all_or_none(lambda run: control.to_delete(places, cluster, run, results), runs)
    ids = [one.run_id for one in found]
    if results and not yes:
        folders = ", ".join(one.folder for one in found)
        confirm(f"Delete {folders} and all that is in {'it' if len(found) == 1 else 'them'}?")
    elif not yes and set(ids) - set(runs):
        confirm(f"Delete the objects of {', '.join(ids)}?")
    for one in found if results else ():
        control.check_is_ours(one)
    raise_failures(_delete_all(cluster, found, results))


def _delete_all(
    cluster: Cluster, runs: Sequence[ToDelete], results: bool
) -> list[tuple[str, Rvk8sError]]:
    """Delete the objects of runs, then what they have written; say which of it is left.

    Returns:
        Ids of runs, and how they failed.
    """
    from rvk8s import storage
    from rvk8s.cluster.objects import wait_until_gone
    from rvk8s.errors import Rvk8sError
    from rvk8s.runs import control

    failures: list[tuple[str, Rvk8sError]] = []
    ending: list[ToDelete] = []
    left = [one for one in runs if results]
    try:
        for one in runs:
            try:
                for name in control.delete(cluster, one):
                    tell(f"{name} deleted")
                ending += [one] if results else []
            except Rvk8sError as error:
                failures.append((one.run_id, error))
        for one in ending:
            try:
                job = one.there.driver["metadata"]["uid"] if one.there else None
                wait_until_gone(cluster, one.run_id, job)  # what still writes would make it anew
                control.check_is_ours(one)  # nobody has begun it elsewhere meanwhile
                storage.delete_tree(one.folder)
                left.remove(one)
                tell(f"{one.folder} deleted")
            except Rvk8sError as error:
                failures.append((one.run_id, error))
    finally:  # Ctrl-C, too: without its objects nothing says where a run has written
        for one in left:
            root = one.folder.removesuffix(f"/{one.run_id}")
            where = ["--root-uri", root, "-n", cluster.namespace]
            again = shlex.join(["rvk8s", "delete", one.run_id, "--results", *where])
            tell(f"{one.folder} is left; to delete it: `{again}`", err=True)
    return failures
