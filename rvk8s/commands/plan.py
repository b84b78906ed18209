"""rvk8s plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.options import (
    CLUSTER_NAMES,
    PlanCommand,
    cluster_options,
    load_project,
    make_plans,
    make_submissions,
    plan_options,
    print_output,
)
from rvk8s.streams import write_document

if TYPE_CHECKING:
    from rvk8s.plan import Plan
    from rvk8s.project.sources import Sources


@click.command("plan", cls=PlanCommand)
@plan_options
@cluster_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["json", "yaml", "values"]),
    help="Print JSON, YAML, or the values of the chart helm/rvk8s (YAML), and nothing else.",
)
def plan_command(output: str | None, **options: Any) -> None:
    """Show what a run with the same options would do; nothing is created.

    It is a run on a cluster (`rvk8s submit`) where an option that only a cluster has is given, or
    rvk8s.yaml has a namespace, or its values are asked for; else one on this machine (`rvk8s run`).
    """
    if output == "values":
        _print_values(options)
        return
    asked = any(options[name] for name in CLUSTER_NAMES)
    several = options["match"] is not None
    if asked or load_project(options["file"]).namespace:
        found = make_submissions(**options)
        show_plans([one.plan for one in found], output, several, [one.sources for one in found])
    else:
        plans = make_plans(**{k: v for k, v in options.items() if k not in CLUSTER_NAMES})
        show_plans(plans, output, several)


def print_plans(output: str | None, **options: Any) -> None:
    """The plans of plan_options() for this machine, on stdout."""
    show_plans(make_plans(**options), output, several=options["match"] is not None)


def show_plans(
    plans: list[Plan], output: str | None, several: bool, sources: Sequence[Sources] = ()
) -> None:
    """Plans on stdout: as --output says (a list, where there may be several), else a table each.

    Args:
        sources: the files that go with each to a cluster; none on one machine.
    """
    if output:
        documents = [plan.to_dict() for plan in plans]
        names = [plan.run_id for plan in plans]
        print_output(output, documents if several else documents[0], names)
        return
    from rvk8s.tables import plan_tables, show

    for plan, its in zip_longest(plans, sources):
        show(*plan_tables(plan, None if its is None else list(its.files)))


def _print_values(options: dict[str, Any]) -> None:
    from rvk8s.values import to_yaml

    submissions = make_submissions(**options)
    write_document(to_yaml([dict(s.values) for s in submissions], several=True))
