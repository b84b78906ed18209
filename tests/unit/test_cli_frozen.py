"""Every command and option, written down: whoever changes one breaks a user's script.

Change this table only on purpose, and say so in the notes of the release.
"""

import click

from rvk8s.cli import COMMANDS, rvk8s

PLAN = [
    "EXPERIMENT?",
    "-m/--match PATTERN",
    "-a/--arg KEY VALUE...",
    "--test",
    "--splits N...",
    "--gpus N",
    "--ranks N",
    "--root-uri URI",
    "--from STAGE",
    "--rerun [STAGE]",
    "--run-id ID",
    "-f/--file FILE",
]
WHERE = ["-n/--namespace NAME", "--context NAME", "--kubeconfig FILE"]
CLUSTER = [
    "--nodes N",
    "--gpus-per-node N",
    "--pool NAME",
    "--image NAME:TAG",
    "--launcher pytorchjob|job",
    "--values FILE...",
    *WHERE,
]
OUTPUT = "-o/--output name|json|yaml"
RUNS = ["--root-uri URI", "-f/--file FILE", *WHERE]
FROZEN = {
    "init": ["FOLDER?", "--task segmentation|classification|detection"],
    "experiments": ["-f/--file FILE", OUTPUT],
    "plan": [*PLAN, *CLUSTER, "-o/--output json|yaml|values"],
    "run": [*PLAN, "--dry-run", OUTPUT],
    "submit": [
        *PLAN,
        *CLUSTER,
        "--wait",
        "--follow",
        "--dry-run none|client|server",
        OUTPUT,
    ],
    "render": [*PLAN, *CLUSTER],
    "diff": [*PLAN, *CLUSTER],
    "list": [*RUNS, "-A/--all-namespaces", "-l/--selector LABELS", OUTPUT],
    "status": ["RUN", "-w/--watch", *RUNS, OUTPUT],
    "logs": [
        "RUN",
        "STAGE?",
        "--split N",
        "--rank N",
        "-f/--follow",
        "-p/--previous",
        "--tail N",
        "--since TIME",
        "--timestamps",
        "--root-uri URI",
        "--file FILE",
        *WHERE,
    ],
    "wait": ["RUN...", "--for WHAT", "--timeout TIME", *RUNS],
    "cancel": ["RUN...", "-y/--yes", *RUNS],
    "delete": ["RUN...", "--results", "-y/--yes", *RUNS],
}


def described(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return parameter.human_readable_name + ("" if parameter.required else "?")
    assert isinstance(parameter, click.Option)
    words = ["/".join(parameter.opts)]
    if not parameter.is_flag:
        choice = isinstance(parameter.type, click.Choice)
        words.append(parameter.metavar or (choice and "|".join(parameter.type.choices)) or "?")
    return " ".join(words) + ("..." if parameter.multiple else "")


def test_commands_and_options() -> None:
    context = click.Context(rvk8s)
    found = {}
    for name in rvk8s.list_commands(context):
        command = rvk8s.get_command(context, name)
        assert command is not None
        assert command.name == name
        found[name] = [described(parameter) for parameter in command.params]
    assert found == FROZEN
    assert [described(parameter) for parameter in rvk8s.params] == ["--version"]


def test_every_option_has_a_help_and_every_command_a_docstring() -> None:
    context = click.Context(rvk8s)
    for name in COMMANDS:
        command = rvk8s.get_command(context, name)
        assert command is not None
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
