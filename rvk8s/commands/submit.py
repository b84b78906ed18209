"""rvk8s submit and render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from rvk8s.commands.options import (
    PlanCommand,
    cluster_options,
    make_submissions,
    plan_options,
    print_json,
)
from rvk8s.commands.run import raise_failures
from rvk8s.commands.where import status_command_line
from rvk8s.errors import Interrupted, Rvk8sError
from rvk8s.streams import write_document

if TYPE_CHECKING:
    from rvk8s.cluster import Cluster, Object
    from rvk8s.submit import Submission

_DRY_RUNS = ("none", "client", "server")


@click.command("render", cls=PlanCommand)
@plan_options
@cluster_options
def render_command(**options: Any) -> None:
    """Print the YAML that `rvk8s submit EXPERIMENT` with the same options sends.

    It is what `helm template` makes of `rvk8s plan EXPERIMENT -o values`; kubectl apply takes it.
    """
    for submission in make_submissions(**options):
        write_document(submission.rendered.text)


class _Submit(PlanCommand):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What follows --dry-run is the experiment unless it is a value, as with kubectl."""
        words = [
            f"{word}=client" if word == "--dry-run" and after not in _DRY_RUNS else word
            for word, after in zip(args, [*args[1:], ""], strict=True)
        ]
        return super().parse_args(ctx, words)


@click.command("submit", cls=_Submit)
@plan_options
@cluster_options
@click.option("--wait", is_flag=True, help="Return when the run has ended; exit with its code.")
@click.option("--follow", is_flag=True, help="Show the stages until the run has ended; as --wait.")
@click.option(
    "--dry-run",
    is_flag=False,
    flag_value="client",
    type=click.Choice(_DRY_RUNS),
    help="Create nothing: print what would be sent, or have the server check it. none: a real run.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["name", "json", "yaml"]),
    help="Print the objects, or only the name of the driver's Job.",
)
def submit_command(
    wait: bool, follow: bool, dry_run: str | None, output: str | None, **options: Any
) -> None:
    """Run EXPERIMENT on a Kubernetes cluster; it goes on when this machine is switched off.

    The cluster and namespace are those that kubectl would use. `--gpus 4` becomes nodes x GPUs by
    the GPUs per node of the pool (values.pools); `rvk8s plan` shows the shape.
    """
    from rvk8s import submit

    submissions = make_submissions(**options)
    for submission in submissions:
        submit.check_is_run(submission)
    dry_run = None if dry_run == "none" else dry_run
    place = {name: options[name] for name in ("context", "kubeconfig")}
    if dry_run == "client":
        for submission in submissions:
            _print_objects(submission, list(submission.rendered.manifests), output or "yaml", "")
        return
    from rvk8s.cluster import Cluster
    from rvk8s.runs import display

    cluster = Cluster.connect(
        context=options["context"], namespace=submissions[0].namespace, file=options["kubeconfig"]
    )
    act = submit.try_out if dry_run else submit.send
    for submission in submissions:
        sent = act(cluster, submission)
        with suppress(OSError):  # the others are sent even so; the program's end names it
            _print_objects(submission, sent, output, " (server dry run)" if dry_run else "")
        if output is None and not dry_run and not follow:
            display.say(f"see it with: {_follow_command(submission, place)}")
    if (wait or follow) and not dry_run:
        _wait_for_all(cluster, submissions, place, show=follow)


def _wait_for_all(
    cluster: Cluster,
    submissions: Sequence[Submission],
    place: Mapping[str, str | None],
    *,
    show: bool,
) -> None:
    """Wait until all runs have ended; one that fails is told at the end, Ctrl-C at once.

    Args:
        place: --context and --kubeconfig, for the command that looks again.
    """
    from rvk8s.runs.follow import until_ended
    from rvk8s.runs.places import Places

    failures: list[tuple[str, Rvk8sError]] = []
    for submission in submissions:
        plan, again = submission.plan, _follow_command(submission, place)
        try:
            until_ended(Places(cluster=cluster), plan.run_id, show=show, go_on=again)
        except Rvk8sError as error:
            failures.append((plan.run_id, error))
            if isinstance(error, Interrupted):
                break
    raise_failures(failures)


def _print_objects(
    submission: Submission, objects: list[Object], output: str | None, note: str
) -> None:
    if output == "name":
        jobs = [n for n in submission.names if n.startswith(("job.", "cronjob."))]
        click.echo("\n".join(jobs))
    elif output == "json":
        print_json({"apiVersion": "v1", "kind": "List", "items": objects})
    elif output == "yaml" and objects == list(submission.rendered.manifests):
        write_document(submission.rendered.text)
    elif output == "yaml":
        from rvk8s.values import to_yaml

        write_document(to_yaml(objects, several=True))
    else:
        for name in submission.names:
            click.echo(f"{name} {'configured' if submission.replaces else 'created'}{note}")


def _follow_command(submission: Submission, place: Mapping[str, str | None]) -> str:
    return status_command_line(submission.plan.run_id, namespace=submission.namespace, **place)
