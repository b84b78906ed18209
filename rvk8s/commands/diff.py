"""rvk8s diff."""

from __future__ import annotations

from typing import Any

import click

from rvk8s.commands.options import PlanCommand, cluster_options, make_submissions, plan_options


@click.command("diff", cls=PlanCommand)
@plan_options
@cluster_options
@click.pass_context
def diff_command(ctx: click.Context, experiment: str | None, **options: Any) -> None:
    """Show how a run in the cluster differs from what submit would send now.

    EXPERIMENT is a run, or an experiment, whose newest run is taken. As with kubectl diff, the exit
    code is 0 where nothing differs and 1 where something does.
    """
    from rvk8s import diff

    names = ("run_id", "file", "namespace", "context", "kubeconfig")
    target = diff.find_target(experiment, *(options[name] for name in names))
    options["run_id"] = target.run.run_id
    (submission,) = make_submissions(experiment=target.run.experiment, **options)
    text = diff.compare(target, submission)
    click.echo(text, nl=False)
    ctx.exit(1 if text else 0)
