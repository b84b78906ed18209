"""rvk8s list, status and logs: what lies below a root URI."""

from __future__ import annotations

import click

from rvk8s.commands.options import (
    file_option,
    long_file_option,
    output_option,
    print_json,
    root_uri,
    root_uri_option,
)


@click.command("list")
@root_uri_option
@file_option
@output_option
def list_command(output: str | None, file: str | None, **given: str | None) -> None:
    """Show the runs below the root URI, the newest first."""
    root = root_uri(given["root_uri"], file)

    from rvk8s import status

    runs = status.list_runs(root)
    if output:
        print_json([run.to_dict() for run in runs])
        return
    if not runs:
        click.echo(f"no runs in {root}", err=True)
        return
    from rvk8s.tables import console

    console().print(status.runs_table(runs))


@click.command("status")
@click.argument("run")
@root_uri_option
@file_option
@output_option
def status_command(run: str, output: str | None, file: str | None, **given: str | None) -> None:
    """Show the stages of RUN: a run's id, or the beginning of one."""
    root = root_uri(given["root_uri"], file)

    from rvk8s import status

    found = status.run_status(root, run)
    if output:
        print_json(found.to_dict())
        return
    from rvk8s.tables import console

    console().print(status.status_table(found))


@click.command("logs")
@click.argument("run")
@click.argument("stage", required=False)
@click.option("--split", type=click.IntRange(min=0), metavar="N", help="Only split N, from 0.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@root_uri_option
@long_file_option
def logs_command(
    run: str,
    stage: str | None,
    split: int | None,
    follow: bool,
    file: str | None,
    **given: str | None,
) -> None:
    """Show what the stages of RUN wrote; of one STAGE where it is named."""
    from rvk8s import logs

    logs.print_logs(root_uri(given["root_uri"], file), run, stage=stage, split=split, follow=follow)
