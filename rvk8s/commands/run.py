"""rvk8s run."""

from __future__ import annotations

from typing import Any

import click

from rvk8s.commands.options import make_plans, output_option, plan_options, print_json


@click.command("run")
@plan_options
@click.option("--dry-run", is_flag=True, help="Print the plan; nothing is created.")
@output_option
def run_command(output: str | None, dry_run: bool, **options: Any) -> None:
    """Run EXPERIMENT on this machine: every stage of its Raster Vision pipeline, one by one.

    EXPERIMENT is a name in rvk8s.yaml: `potsdam` is the experiment itself, `potsdam-resnet18` its
    variant resnet18. Ctrl-C stops everything and prints the command that goes on from there.
    """
    if dry_run:
        from rvk8s.commands.plan import print_plans

        print_plans(output, **options)
        return
    plans = make_plans(**options)

    from rvk8s.engines import local

    given = options["run_id"] is not None
    summaries = [
        local.run(plan, run_id_given=given, output="json" if output else "auto") for plan in plans
    ]
    if output:
        documents = [summary.to_dict() for summary in summaries]
        print_json(documents if options["match"] is not None else documents[0])
