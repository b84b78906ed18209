"""rvk8s run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.options import (
    PlanCommand,
    make_plans,
    output_option,
    plan_options,
    print_output,
)
from rvk8s.errors import Interrupted, Rvk8sError

if TYPE_CHECKING:
    from rvk8s.plan import Plan
    from rvk8s.runs.summary import RunSummary


@click.command("run", cls=PlanCommand)
@plan_options
@click.option("--dry-run", is_flag=True, help="Print the plan; nothing is created.")
@output_option
def run_command(output: str | None, dry_run: bool, **options: Any) -> None:
    """Run EXPERIMENT on this machine: every stage of its Raster Vision pipeline, one by one.

    EXPERIMENT is a name in rvk8s.yaml: `potsdam` is the experiment itself, `potsdam-resnet18` its
    variant resnet18. With -m, a run that fails does not keep the next one from starting. Ctrl-C
    stops everything and prints the command that goes on from there.
    """
    if dry_run:
        from rvk8s.commands.plan import print_plans

        print_plans(output, **options)
        return
    plans = make_plans(**options)
    summaries, failures = _run_all(plans, options["run_id"] is not None, output)
    with suppress(OSError):  # the program's end names it; the exit code is that of the runs
        _print_summaries(summaries, output, several=options["match"] is not None)
    raise_failures(failures)


def _print_summaries(summaries: Sequence[RunSummary], output: str | None, several: bool) -> None:
    if output:
        documents = [summary.to_dict() for summary in summaries]
        names = [summary.record.plan.run_id for summary in summaries]
        if several:
            print_output(output, documents, names)
        elif documents:
            print_output(output, documents[0], names)


def _run_all(
    plans: Sequence[Plan], run_id_given: bool, output: str | None
) -> tuple[list[RunSummary], list[tuple[str, Rvk8sError]]]:
    """Run plans one after the other, until one is interrupted.

    Returns:
        The runs that have ended, well or not, and what failed.
    """
    from rvk8s.engines import local

    summaries: list[RunSummary] = []
    failures: list[tuple[str, Rvk8sError]] = []
    for plan in plans:
        try:
            summary = local.run(
                plan, run_id_given=run_id_given, output="json" if output else "auto"
            )
            summaries.append(summary)
        except local.RunError as error:
            summaries.append(error.summary)
            failures.append((plan.run_id, error))
        except Rvk8sError as error:
            failures.append((plan.run_id, error))
            if isinstance(error, Interrupted):
                break
    return summaries, failures


def raise_failures(failures: Sequence[tuple[str, Rvk8sError]], named: bool = False) -> None:
    """Raise what failed of several runs, in one error; with the first one's code, or Ctrl-C's.

    Args:
        failures: ids of runs, and how they failed.
        named: say whose failure it is where there is one, too.
    """
    if len(failures) == 1 and not named:
        raise failures[0][1]
    if failures:
        lines = [f"{run_id}: {line}" for run_id, e in failures for line in str(e).splitlines()]
        error = Rvk8sError("\n".join(lines))
        last = failures[-1][1]
        error.exit_code = (last if isinstance(last, Interrupted) else failures[0][1]).exit_code
        raise error
