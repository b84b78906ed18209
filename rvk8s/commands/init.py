"""rvk8s init."""

from __future__ import annotations

import click


@click.command("init")
@click.argument("folder", default=".", type=click.Path(file_okay=False))
@click.option(
    "--task",
    type=click.Choice(["segmentation", "classification", "detection"]),
    default="segmentation",
    show_default=True,
    help="What the experiment gives: classes of pixels, of a grid's cells, or boxes of objects.",
)
def init_command(folder: str, task: str) -> None:
    """Write an rvk8s.yaml and a commented experiment to FOLDER (default: here).

    Nothing is overwritten: if one of the files is there, nothing is written.
    """
    import shlex
    from pathlib import Path

    from rvk8s.project.scaffold import write_templates

    settings, experiment = write_templates(Path(folder), task)
    click.echo(f"wrote {settings}\nwrote {experiment}")
    click.echo(f"next: in {settings} set data_uri and validation, the scenes that score the model,")
    click.echo(f"      in {experiment} the classes; then")
    if Path(folder) != Path():
        click.echo(f"  cd {shlex.quote(folder)}")
    click.echo(f"  rvk8s run {task} --test")
