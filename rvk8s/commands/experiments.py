"""rvk8s experiments."""

from __future__ import annotations

import click

from rvk8s.commands.options import load_project, output_option, print_output
from rvk8s.commands.where import file_option


@click.command("experiments")
@file_option
@output_option
def experiments_command(file: str | None, output: str | None) -> None:
    """Show the experiments and variants of rvk8s.yaml, and the arguments that each is given."""
    project = load_project(file)
    if output:
        keys = ("name", "module", "args", "variant_of")
        names = ("name", "module", "args", "variantOf")
        documents = [
            {new: getattr(experiment, old) for old, new in zip(keys, names, strict=True)}
            for experiment in project.experiments
        ]
        print_output(output, documents, (experiment.name for experiment in project.experiments))
        return
    from rvk8s.tables import experiments_table, show

    show(experiments_table(project.experiments))
