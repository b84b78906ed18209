"""rvk8s cancel and delete of runs of this machine."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from said import says

from rvk8s import cli
from rvk8s.contract import STAGES, State, now, to_json
from rvk8s.engines import local_control
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord

Run = Callable[..., tuple[int, str, str]]
#: Holds the lock of a run as `rvk8s run` does until it is told to end, then says that it was.
HOLDER = """
import json, signal, sys
from rvk8s.engines.lock import run_lock
from rvk8s.plan import Plan
file = sys.argv[1] + "/run.json"
record = json.load(open(file))
signal.signal(signal.SIGTERM, signal.default_int_handler)
with run_lock(Plan.from_dict(record["plan"])):
    print("begun", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        record["state"] = "Cancelled"
        json.dump(record, open(file, "w"))
"""


def stored(root: Path, run_id: str, state: State, engine: str = "local") -> Path:
    stages = tuple(Stage(name) for name in STAGES)
    plan = Plan(run_id, "one", "exp.py", "/p", {}, str(root), stages)
    record = RunRecord.of_plan(plan, engine)
    record.state, record.started = state, now()
    record.stages[0].state = state
    file = Path(plan.layout.run_json)
    file.parent.mkdir(parents=True)
    file.write_bytes(to_json(record.to_dict()))
    return file


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the program where rvk8s.yaml names a folder with a run of each kind, and no cluster."""
    (tmp_path / "rvk8s.yaml").write_text("rootUri: runs\nexperiments: {}\n")
    root = tmp_path / "runs"
    stored(root, "one-done", State.SUCCEEDED)
    stored(root, "one-killed", State.RUNNING)
    stored(root, "one-away", State.RUNNING, "kubernetes")
    (root / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(args))
        assert isinstance(exited.value.code, int)
        return exited.value.code, *capfd.readouterr()

    return call


@pytest.fixture
def holder(tmp_path: Path, run: Run) -> Iterator[subprocess.Popen[str]]:
    """A process that runs one-busy."""
    folder = stored(tmp_path / "runs", "one-busy", State.RUNNING).parent
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def _state(tmp_path: Path, run_id: str) -> str:
    return str(json.loads((tmp_path / "runs" / run_id / "run.json").read_text())["state"])


def test_cancel_ends_the_process_of_a_run(
    run: Run, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert run("cancel", "one-busy") == (0, "one-busy cancelled\n", "")
    assert holder.wait(10) == 0
    assert _state(tmp_path, "one-busy") == "Cancelled"


def test_cancel_of_a_killed_run_says_so_in_its_record(run: Run, tmp_path: Path) -> None:
    assert run("cancel", "one-killed") == (0, "one-killed cancelled\n", "")
    assert _state(tmp_path, "one-killed") == "Cancelled"
    code, _, err = run("cancel", "one-killed")
    assert code == 2
    assert says(err, "error: one-killed has ended: Cancelled;…\n")


def test_cancel_of_several_stops_all_or_none(run: Run, tmp_path: Path) -> None:
    code, _, err = run("cancel", "one-killed", "one-done")
    assert code == 2
    assert says(err, "error: one-done has ended: Succeeded;…\n")
    assert _state(tmp_path, "one-killed") == "Running"


def test_delete_removes_the_folder_of_a_run(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one-done"
    code, _, err = run("delete", "one-done", "--yes")
    assert code == 2
    assert says(err, "error: one-done…this machine…; --results…\n")
    assert run("delete", "one-done", "--results", "--yes") == (0, f"{folder} deleted\n", "")
    assert not folder.exists()
    assert (tmp_path / "runs" / "one-killed").exists()


def test_delete_takes_a_damaged_record(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one-done"
    (folder / "run.json").write_text("{")
    assert run("delete", "one-done", "--results", "--yes")[0] == 0
    assert not folder.exists()


def test_delete_leaves_a_run_that_is_running(
    run: Run, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    code, out, err = run("delete", "one-busy", "--results", "--yes")
    assert (code, out) == (2, "")
    assert says(err, f"error: one-busy…process {holder.pid};…cancel one-busy\n")
    assert (tmp_path / "runs" / "one-busy").exists()


def test_a_run_that_goes_on_elsewhere_is_left(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_control, "local_process", lambda layout: "gpu-7")
    for words in (["cancel", "one-killed"], ["delete", "one-killed", "--results", "--yes"]):
        code, _, err = run(*words)
        assert code == 2
        assert says(err, "error: …one-killed, on gpu-7;…\n")
    assert _state(tmp_path, "one-killed") == "Running"


@pytest.mark.parametrize("name", ["notes", "none", "one-away", ".."])
def test_what_is_no_run_of_this_machine_is_left(run: Run, tmp_path: Path, name: str) -> None:
    before = sorted(path.name for path in (tmp_path / "runs").iterdir())
    for words in (["delete", name, "--results", "--yes"], ["cancel", name, "--yes"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == before


def test_a_beginning_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run("cancel", "one-k")[0] == 2
    assert _state(tmp_path, "one-killed") == "Running"
    assert run("cancel", "one-k", "--yes")[0] == 0


def test_a_process_of_the_same_number_elsewhere_is_not_ended(
    run: Run,
    holder: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    """As where another machine has the lock of a folder that both mount."""
    with subprocess.Popen(["sleep", "60"]) as other:
        lock = tmp_path / "runs" / "one-busy" / ".rvk8s" / "lock"
        lock.write_text(f"{other.pid}\n")
        code, _, err = run("cancel", "one-busy")
        assert code == 2
        assert says(err, f"error: process {other.pid}, …another…one-busy;…\n")
        assert other.poll() is None
        other.kill()
    assert holder.poll() is None
