"""rvk8s cancel and delete: the question before they act; of several runs, one that fails."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result
from said import says

from rvk8s.cli import rvk8s
from rvk8s.cluster import Object, objects
from rvk8s.commands import control as commands
from rvk8s.commands.local_control import confirm
from rvk8s.errors import ClusterUnavailable, InputError, Interrupted
from rvk8s.runs import cluster_runs, control
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.control import ToDelete
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
    with pytest.raises(InputError, match=r"^nothing was done: .*stdin.*--yes"):
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

    def patch(self, kind: str, name: str, patch: Object, *, uid: str) -> None:
        if name in self.broken:
            raise ClusterUnavailable("no route to host")


def invoke(cluster: Several, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    places = SimpleNamespace(cluster=cluster, root_uri=None)
    monkeypatch.setattr(commands, "find_places", lambda *_, **__: places)
    monkeypatch.setattr(commands, "local_runs", lambda runs, where: None)
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


def delete(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *words: str,
    faults: dict[str, BaseException],
) -> tuple[Result, list[str]]:
    """Delete a, b and c, each with a folder.

    Args:
        faults: what is raised where the objects of a run are waited for, or (delete RUN) deleted.

    Returns:
        What came of it, and the folders that are left.
    """

    def fail(what: str) -> None:
        if what in faults:
            raise faults[what]

    def delete_one(cluster: Several, run: ToDelete) -> list[str]:
        fail(f"delete {run.run_id}")
        return [f"job.batch/{run.run_id}"]

    def to_delete(places: Places, cluster: Several, run: str, results: bool) -> ToDelete:
        (root / run).mkdir(exist_ok=True)
        return ToDelete(run, str(root / run) if results else "", None)

    monkeypatch.setattr(control, "to_delete", to_delete)
    monkeypatch.setattr(control, "delete", delete_one)
    monkeypatch.setattr(objects, "wait_until_gone", lambda _, run, __: fail(run))
    result = invoke(Several(), monkeypatch, "delete", "a", "b", "c", *words)
    return result, sorted(folder.name for folder in root.iterdir())


def test_a_folder_that_is_left_is_named_and_the_others_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {"a": InputError("pod/a was deleted and does not go away")}
    result, left = delete(tmp_path, monkeypatch, "--results", "--yes", faults=faults)
    assert result.exception is faults["a"]
    assert left == ["a"]
    assert f"{tmp_path}/b deleted\n{tmp_path}/c deleted\n" in result.stdout
    again = f"rvk8s delete a --results --root-uri {tmp_path} -n team"
    assert says(result.stderr, f"{tmp_path}/a is left…`{again}`\n")
    assert result.stderr.count("\n") == 1


def test_each_folder_that_is_left_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run whose objects are not deleted: what has gone may be the driver's Job."""
    unavailable = ClusterUnavailable("no route to host")
    faults = {"delete b": unavailable, "a": unavailable}
    result, left = delete(tmp_path, monkeypatch, "--results", "--yes", faults=faults)
    assert str(result.exception) == "b: no route to host\na: no route to host"
    assert left == ["a", "b"]
    named = [line.split(";")[0] for line in result.stderr.splitlines()]
    assert named == [f"{tmp_path}/{run} is left" for run in "ab"]
    _, left = delete(tmp_path, monkeypatch, faults={})
    assert left == ["a", "b", "c"]


def test_folders_are_named_where_deleting_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {"b": KeyboardInterrupt()}
    result, left = delete(tmp_path, monkeypatch, "--results", "--yes", faults=faults)
    assert isinstance(result.exception, (KeyboardInterrupt, SystemExit))
    assert left == ["b", "c"]
    named = [line.split(";")[0] for line in result.stderr.splitlines() if "left" in line]
    assert named == [f"{tmp_path}/{run} is left" for run in "bc"]


def test_of_objects_alone_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {"delete a": ClusterUnavailable("no route to host")}
    result, _ = delete(tmp_path, monkeypatch, faults=faults)
    assert (result.exception, result.stderr) == (faults["delete a"], "")
    assert result.stdout == "job.batch/b deleted\njob.batch/c deleted\n"
