"""rvk8s plan."""

from __future__ import annotations

from typing import Any

import click

from rvk8s.commands.options import make_plans, output_option, plan_options, print_json


@click.command("plan")
@plan_options
@output_option
def plan_command(output: str | None, **options: Any) -> None:
    """Show what `rvk8s run EXPERIMENT` with the same options would do; nothing is created."""
    print_plans(output, **options)


def print_plans(output: str | None, **options: Any) -> None:
    """The plans of plan_options() on stdout: JSON (with -m a list), else a table each."""
    plans = make_plans(**options)
    if output:
        documents = [plan.to_dict() for plan in plans]
        print_json(documents if options["match"] is not None else documents[0])
        return
    from rvk8s.tables import console, plan_table

    for plan in plans:
        console().print(plan_table(plan))
