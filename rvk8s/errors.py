"""Every kind of error that a user may see; modules name special cases of them.

    Rvk8sError                exit 1
    |-- InputError            exit 2    the user's file, argument or data: says where, what, the fix
    |   |-- InputErrors       exit 2    several of them, reported together
    |   `-- StorageRefused    exit 2    storage does not take the credentials
    |-- OutOfMemory           exit 12   host or GPU memory
    |-- DiskFull              exit 28   disk, quota or bucket
    |-- WaitedTooLong         exit 124  nobody did what was waited for
    |-- StorageUnavailable    exit 138  storage did not answer; the same call may work later
    |-- RanksLost             exit 138  another process of the training is gone or does not answer
    |-- GpuFault              exit 138  a GPU has failed; another one may not
    |-- ClusterUnavailable    exit 138  the cluster's API server did not answer
    |-- Conflict              exit 1    an object of the cluster is there already, or has changed
    |-- Interrupted           exit 130  Ctrl-C
    `-- Preempted             exit 143  SIGTERM: the node goes away
        `-- HandedOver        exit 143  this driver ends, the stages run on, another one goes on

The message of each is one line that a user can act on; a traceback is for errors that are not here.
"""

from __future__ import annotations

from collections.abc import Sequence

from rvk8s.contract import ExitCode


class Rvk8sError(Exception):
    """Base of all errors that we raise on purpose."""

    exit_code: ExitCode = ExitCode.FAILED


class InputError(Rvk8sError):
    """Something the user wrote or pointed to is wrong.

    Args:
        what: what is wrong, naming the value: "batch_sz is -1".
        where: the file (with :line), key or option that holds it.
        fix: what to do: "give a positive number".
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        text = (f"{where}: " if where else "") + what + (f"; {fix}" if fix else "")
        super().__init__(_one_line(text))


class InputErrors(InputError):
    """Several mistakes of one file, reported at once, a line each."""

    def __init__(self, errors: Sequence[InputError]):
        self.errors = tuple(errors)
        Rvk8sError.__init__(self, "\n".join(str(e) for e in errors))
        self.what, self.where, self.fix = str(self), None, None


class StorageRefused(InputError):
    """Storage does not take the credentials, or not for this."""


class OutOfMemory(Rvk8sError):
    exit_code = ExitCode.OUT_OF_MEMORY


class DiskFull(Rvk8sError):
    exit_code = ExitCode.DISK_FULL


class WaitedTooLong(Rvk8sError):
    exit_code = ExitCode.DEADLINE


class StorageUnavailable(Rvk8sError):
    exit_code = ExitCode.RETRYABLE


class RanksLost(Rvk8sError):
    """Another process of the training has ended or hangs: it has the reason, not this one."""

    exit_code = ExitCode.RETRYABLE


class GpuFault(Rvk8sError):
    exit_code = ExitCode.RETRYABLE


class ClusterUnavailable(Rvk8sError):
    """The API server did not answer, or with a passing fault.

    Args:
        retry_after: seconds after which it wants to be asked again; None where it did not say.
    """

    exit_code = ExitCode.RETRYABLE

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(_one_line(message))
        self.retry_after = retry_after


class Conflict(Rvk8sError):
    pass


class Interrupted(Rvk8sError):
    exit_code = ExitCode.INTERRUPTED


class Preempted(Rvk8sError):
    exit_code = ExitCode.PREEMPTED


class HandedOver(Preempted):
    """This driver must not act any more; the stages run on, and another driver goes on."""


def _one_line(text: str) -> str:
    """Names that a user wrote may hold line ends, and others the terminal's control codes."""
    line = " ".join(part.strip() for part in text.splitlines())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
