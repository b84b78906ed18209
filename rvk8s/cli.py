"""The command line: parse, call, print. Decisions are made elsewhere.

A command's module is imported when that command runs, and what it needs when it needs it, so that
`rvk8s --help` imports click and nothing else of size (tests/unit/test_cli_start.py).
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from rvk8s import __version__, streams
from rvk8s.contract import ExitCode
from rvk8s.errors import InputError, Rvk8sError

#: Command -> (module below rvk8s.commands, its line in `rvk8s --help`), in the order of the help.
COMMANDS = {
    "init": ("init", "Write an rvk8s.yaml and an experiment to start from."),
    "experiments": ("experiments", "Show what rvk8s.yaml has."),
    "plan": ("plan", "Show what a run would do."),
    "run": ("run", "Run an experiment on this machine."),
    "submit": ("submit", "Run an experiment on a Kubernetes cluster."),
    "render": ("submit", "Print the YAML that submit sends."),
    "diff": ("diff", "Show what submit would change in the cluster."),
    "list": ("runs", "Show the runs of a root URI or of a namespace."),
    "status": ("runs", "Show how a run is doing."),
    "logs": ("runs", "Show what the stages of a run wrote."),
    "wait": ("control", "Wait until a run has come to a point."),
    "cancel": ("control", "Stop a run."),
    "delete": ("control", "Remove a run."),
}


#: The operating system's refusals of a path that a user has given.
_OF_PATHS = {
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENXIO,
    errno.ENODEV,
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; see COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"rvk8s.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from rvk8s.project.signature import nearest

            fix = nearest(args[0], list(COMMANDS), "there are")
            raise click.UsageError(f"no command {args[0]}; {fix}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            if error.ctx is None and name in COMMANDS:
                # click's parser does not say whose help explains the option.
                error.ctx = click.Context(click.Command(name), parent=ctx, info_name=name)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="rvk8s", message="%(prog)s %(version)s")
@click.pass_context
def rvk8s(ctx: click.Context) -> None:
    """Raster Vision experiments with fastai, on one machine or on a Kubernetes cluster.

    Start with `rvk8s init` in a new folder, or with `rvk8s experiments` in one that has an
    rvk8s.yaml.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: list[str] | None = None) -> NoReturn:
    """The program: every error is one line on stderr, and its exit code."""
    # As Ctrl-C: temporary files go, and the Kubernetes client has the user's key in one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    streams.prepare()
    try:
        sys.exit(int(_run(args)))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                streams.drop(stream)  # or Python would exit with 120


def _run(args: list[str] | None) -> int:
    """Call the command; its exit code."""
    try:
        _check_words(sys.argv[1:] if args is None else args)
        code = rvk8s.main(args=args, prog_name="rvk8s", standalone_mode=False)
        with suppress(BrokenPipeError):  # the reader is gone, but the command has done its work
            sys.stdout.flush()  # here, where its faults are ours to name
        return int(code or 0)
    except click.UsageError as error:
        message = error.format_message().rstrip(".")
        command = error.ctx.command_path if error.ctx else "rvk8s"
        _print_error(message if ";" in message else f"{message}; see `{command} --help`")
        return ExitCode.BAD_INPUT
    except click.ClickException as error:
        _print_error(error.format_message())
        return error.exit_code
    except Rvk8sError as error:
        for line in str(error).splitlines():
            _print_error(line)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _print_error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader is gone before a command that only shows something was at its end:
        # `rvk8s logs RUN | head`.
        streams.drop(sys.stdout)
        return ExitCode.FAILED
    except Exception as error:
        if os.environ.get("RVK8S_DEBUG"):
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _print_error(f"no space left to write {error.filename or 'the output'}; free some")
            streams.drop(sys.stdout)
            return ExitCode.DISK_FULL
        if isinstance(error, OSError) and not _working_folder_is_there():
            _print_error("the working folder was deleted or cannot be read; change to another one")
            return ExitCode.BAD_INPUT
        if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename:
            path = f"{error.filename}"
            path = path if len(path) < 200 else f"{path[:100]}..."
            _print_error(f"{path}: {error.strerror}; give another path, or look at this one")
            return ExitCode.BAD_INPUT
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _print_error(f"{what}; this is a fault of rvk8s: RVK8S_DEBUG=1 shows where it is")
        return ExitCode.FAILED


def _check_words(words: Sequence[str]) -> None:
    """Refuse words of the command line that no file of a run can hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            fix = "rename the file, or use a terminal with UTF-8"
            raise InputError("is not UTF-8", where=word[:100], fix=fix) from None


def _working_folder_is_there() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _print_error(line: str) -> None:
    # click drops the colour where stderr is not a terminal; https://no-color.org is ours to keep.
    color = False if os.environ.get("NO_COLOR") else None
    with suppress(OSError):  # nobody can be told where stderr cannot be written; the code says it
        click.echo(f"{click.style('error:', fg='red')} {line}", err=True, color=color)


if __name__ == "__main__":
    main()
