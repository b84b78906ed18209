"""rvk8s init."""

from __future__ import annotations

import click


@click.command("init")
@click.argument("folder", default=".", type=click.Path(file_okay=False))
def init_command(folder: str) -> None:
    """Write an rvk8s.yaml and a commented experiment to FOLDER (default: here).

    Nothing is overwritten: if one of the files is there, nothing is written.
    """
    from pathlib import Path

    from rvk8s.project.scaffold import write_templates

    written = write_templates(Path(folder))
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(f"next: set the paths and classes in {written[-1]}, then rvk8s run segmentation")
