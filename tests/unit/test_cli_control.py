"""rvk8s cancel and delete: the question before they act; of several runs, one that fails."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from rvk8s.cli import rvk8s
from rvk8s.cluster import Object
from rvk8s.commands import control as commands
from rvk8s.commands.control import confirm
from rvk8s.errors import ClusterUnavailable, InputError, Interrupted
from rvk8s.runs import cluster_runs, control
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import Places


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


class Several:
    """A namespace with a run of each name; some cannot be changed."""

    namespace = "team"

    def __init__(self, *broken: str):
        self.broken = broken

    def find(self, cluster: Several, run: str) -> ClusterRun:
        labels = {"rvk8s.io/run": run}
        meta = {"name": run, "labels": labels, "uid": run}
        return ClusterRun(run, {"kind": "Job", "metadata": meta})

    def patch(self, kind: str, name: str, patch: Object) -> None:
        if name in self.broken:
            raise ClusterUnavailable("no route to host")


def invoke(cluster: Several, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    places = SimpleNamespace(cluster=cluster, root_uri=None)
    monkeypatch.setattr(commands, "find_places", lambda *_, **__: places)
    monkeypatch.setattr(cluster_runs, "find", cluster.find)
    return CliRunner().invoke(rvk8s, words)


@pytest.mark.parametrize("broken", ["a", "b"])
def test_the_others_are_seen_to_stop_where_one_cannot_be_told(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def see(places: Places, cluster: Several, run: ClusterRun) -> None:
        seen.append(run.run_id)
        if run.run_id == "d":
            raise ClusterUnavailable("d has not stopped")

    monkeypatch.setattr(control, "see_stopped", see)
    result = invoke(Several(broken), monkeypatch, "cancel", "a", "b", "c", "d")
    assert seen == [run for run in "abcd" if run != broken]
    assert result.stdout == "".join(f"{run} cancelled\n" for run in "abc" if run != broken)
    said = f"{broken}: no route to host\nd: d has not stopped"
    assert (str(result.exception), result.exit_code) == (said, 1)
