"""What cancel and delete have in common, and what they do with runs of this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from rvk8s.commands.run import raise_failures
from rvk8s.commands.where import root_uri_of
from rvk8s.contract import ExitCode
from rvk8s.streams import tell

if TYPE_CHECKING:
    from rvk8s.engines.local_control import LocalRun
    from rvk8s.errors import Rvk8sError


class _Run(Protocol):
    @property
    def run_id(self) -> str: ...


_Found = TypeVar("_Found", bound=_Run)


def confirm(question: str) -> None:
    """Ask on stderr; goes on where the answer is yes.

    Raises:
        Exit: it is no; says that nothing was done.
        InputError: nobody answers: stdin is no terminal, and at its end.
        Interrupted: Ctrl-C or Ctrl-D.
    """
    from rvk8s.errors import InputError, Interrupted

    fix = "give --yes to go on without a question"
    silent = InputError("nothing was done: stdin has no answer", fix=fix)
    if sys.stdin is None:  # closed
        raise silent
    try:
        answer = click.confirm(question, err=True)
    except click.Abort:
        tell("", err=True)  # the question's line has no end yet
        if not sys.stdin.isatty():
            raise silent from None
        raise Interrupted("nothing was done: interrupted") from None
    if not answer:
        tell("nothing was done", err=True)
        raise click.exceptions.Exit(ExitCode.FAILED)


def local_runs(runs: Sequence[str], where: Mapping[str, Any]) -> list[LocalRun] | None:
    """The runs that are meant, where they are those of this machine; None where a cluster's are.

    Args:
        where: the options that say where runs are.

    Raises:
        InputError: several runs are meant by a name; some are here and others are not.
    """
    from rvk8s import storage
    from rvk8s.cluster.kubeconfig import is_there
    from rvk8s.engines import local_control
    from rvk8s.errors import InputError
    from rvk8s.runs.status import NoSuchRun

    if any(where[name] is not None for name in ("namespace", "context", "kubeconfig")):
        return None
    try:
        root = root_uri_of(where["root_uri"], where["file"])
    except InputError:
        if where["root_uri"] is not None:
            raise
        return None
    if storage.is_s3(root) and is_there():
        return None
    found: list[LocalRun] = []
    missing: list[InputError] = []
    for run in runs:
        try:
            one = local_control.find(root, run)
            found += [one] if one not in found else []
        except NoSuchRun as error:
            missing.append(error)
    if missing and (found or not is_there()):
        raise missing[0]
    return found or None


def cancel_here(runs: Sequence[LocalRun], named: Sequence[str], yes: bool) -> None:
    """Stop runs of this machine.

    Args:
        named: as the user has them.
    """
    from rvk8s.engines import local_control

    for one in runs:
        local_control.check_cancellable(one)
    ids = [one.run_id for one in runs]
    if not yes and set(ids) - set(named):
        confirm(f"Stop {', '.join(ids)}?")
    raise_failures(_each(local_control.cancel, runs, lambda one: f"{one.run_id} cancelled"))


def delete_here(runs: Sequence[LocalRun], results: bool, yes: bool) -> None:
    """Delete the folders of runs of this machine."""
    from rvk8s.engines import local_control

    for one in runs:
        local_control.check_deletable(one, results)
    folders = ", ".join(one.folder for one in runs)
    if not yes:
        confirm(f"Delete {folders} and all that is in {'it' if len(runs) == 1 else 'them'}?")
    raise_failures(_each(local_control.delete, runs, lambda one: f"{one.folder} deleted"))


def _each(
    act: Callable[[LocalRun], None], runs: Sequence[LocalRun], said: Callable[[LocalRun], str]
) -> list[tuple[str, Rvk8sError]]:
    from rvk8s.errors import Rvk8sError

    failures: list[tuple[str, Rvk8sError]] = []
    for one in runs:
        try:
            act(one)
            tell(said(one))
        except Rvk8sError as error:
            failures.append((one.run_id, error))
    return failures


def all_or_none(look: Callable[[str], _Found], runs: Sequence[str]) -> list[_Found]:
    """What is found of several runs, each once.

    Raises:
        InputErrors, InputError: what is wrong with some of them.
    """
    from rvk8s.errors import InputError, InputErrors

    found: dict[str, _Found] = {}
    wrong: dict[str, InputError] = {}
    for run in runs:
        try:
            one = look(run)
            found.setdefault(one.run_id, one)
        except InputError as error:
            wrong.setdefault(str(error), error)
    if wrong:
        raise InputErrors(list(wrong.values())) if len(wrong) > 1 else next(iter(wrong.values()))
    return list(found.values())
