"""rvk8s cancel and delete: the question before they act."""

from __future__ import annotations

import io
import os

import click
import pytest

from rvk8s.commands.control import confirm
from rvk8s.errors import InputError, Interrupted


@pytest.mark.parametrize("answer", ["n\n", "no\n", "\n"])
def test_no_says_that_nothing_was_done(
    answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    with pytest.raises(click.exceptions.Exit) as ended:
        confirm("Stop it?")
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    assert err.endswith("nothing was done\n")
    assert "nothing was done" not in out


def test_yes_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    confirm("Stop it?")


@pytest.mark.parametrize("stdin", [io.StringIO(""), None])
def test_without_a_terminal_yes_is_named(
    stdin: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(InputError, match=r"^nothing was done: stdin has no answer; give --yes"):
        confirm("Stop it?")


def test_the_end_of_a_terminal_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, terminal = os.openpty()
    try:
        os.write(leader, b"\x04")  # Ctrl-D
        with os.fdopen(terminal) as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            with pytest.raises(Interrupted, match="nothing was done"):
                confirm("Stop it?")
    finally:
        os.close(leader)
