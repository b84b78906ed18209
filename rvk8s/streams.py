"""Standard streams that take any text: showing a result must not decide how a command ends."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

import click

#: What stands for a character that the stream's encoding does not have; others become `?`.
_NEAR = {
    "–": "-",
    "—": "-",
    "−": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "…": "...",
    "×": "x",
    "→": "->",
    "\N{NO-BREAK SPACE}": " ",
}
#: Error handlers of streams that may refuse a character.
_REFUSE = ("strict", "surrogateescape", "surrogatepass")
_HANDLER = "rvk8s-near"


def prepare() -> None:
    """Make stdout and stderr take every character, also where they are closed."""
    codecs.register_error(_HANDLER, _nearest)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the caller (`>&-`).
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in _REFUSE:
            stream.reconfigure(errors=_HANDLER)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_NEAR.get(char, "?") for char in missing), error.end


def is_utf8(stream: TextIO) -> bool:
    """Whether a stream can write every character as it is."""
    return (stream.encoding or "utf-8").lower().replace("-", "") in ("utf8", "utf8sig")


def tell(text: str, err: bool = False) -> None:
    """Print what a command has done, and go on where nobody reads it or the disk is full.

    What could not be written to stdout is said when the program ends: the buffer still has it.
    """
    with suppress(OSError):
        click.echo(text, err=err)


def write_document(text: str) -> None:
    """Print YAML for a program: always as UTF-8, which is what kubectl and helm read.

    People at a terminal of another encoding see what it can show.
    """
    out = sys.stdout
    if is_utf8(out) or out.isatty() or not isinstance(out, io.TextIOWrapper):
        click.echo(text, nl=False)
        return
    out.flush()
    out.buffer.write(text.encode(errors="replace"))
    out.flush()


def drop(stream: TextIO | None) -> None:
    """Throw away what a stream could not write: Python would complain again at its end."""
    if stream:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
