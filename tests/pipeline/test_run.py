"""`rvk8s run` as a user starts it: refusals, Ctrl-C, a killed engine, two at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import pytest
from s3server import S3Server
from said import says
from tcpproxy import proxy_to
from tinyrun import FOLDER, Reference, make_plan

from rvk8s import storage
from rvk8s.contract import ExitCode, State, now
from rvk8s.engines.lock import run_lock
from rvk8s.errors import InputError
from rvk8s.plan import Plan
from rvk8s.runs import logs, status
from rvk8s.runs.record import RunRecord


def _command(root: Path | str, data: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "rvk8s.cli", "run", "tiny", "-f", str(FOLDER / "rvk8s.yaml")]
    return [*command, "--root-uri", str(root), "-a", "raw_uri", str(data), *more]


@pytest.fixture
def started(tmp_path: Path, tiny_data: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run whose first stage is working, and its folder."""
    command = _command(tmp_path / "root", tiny_data)
    process = subprocess.Popen(
        command,
        # A killed engine leaves its temporary files.
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        beat = _wait_for(lambda: next(tmp_path.rglob("heartbeat.json"), None))
        yield process, beat.parents[2]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_ctrl_c_while_s3_hangs(tmp_path: Path, tiny_data: Path, s3: S3Server) -> None:
    """The stage, its heartbeat, the display and run.json all wait for a server that is silent."""
    root = f"{s3.bucket('hangs')}/runs"
    with proxy_to(s3.endpoint) as proxy:
        process = subprocess.Popen(
            _command(root, tiny_data),
            env={**os.environ, "TMPDIR": str(tmp_path), "AWS_ENDPOINT_URL": proxy.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            beat = _wait_for(lambda: next((s3.data / "hangs").rglob("heartbeat.json"), None))
            child = json.loads(beat.read_text())["pid"]
            proxy.silent.set()
            time.sleep(1)  # some of them wait by then
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
            # Some seconds are given to the server; the rest is this machine's own work.
            assert time.monotonic() - began < 20
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert "--run-id tiny-" in said
    assert "Traceback" not in said
    assert not _alive(child)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c(started: tuple[subprocess.Popen[str], Path], number: int) -> None:
    process, run = started
    child = json.loads((run / ".rvk8s/configure/heartbeat.json").read_text())["pid"]
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=15)
    assert time.monotonic() - began < 10
    assert process.returncode == ExitCode.INTERRUPTED
    assert f"--run-id {run.name}" in said
    assert "Traceback" not in said
    assert not _alive(child)
    record = RunRecord.from_dict(json.loads((run / "run.json").read_text()))
    assert record.state == State.CANCELLED
    assert record.stage("configure").state == State.CANCELLED


@pytest.mark.slow
def test_nohup_holds(tmp_path: Path, tiny_data: Path) -> None:
    """SIGHUP by nohup and SIGINT by a shell's `&` are ignored; SIGTERM still ends the run."""
    script = 'nohup "$@" & echo $!; wait'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *_command(tmp_path / "root", tiny_data)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        engine = int(process.stdout.readline())
        beat = _wait_for(lambda: next(tmp_path.rglob("heartbeat.json"), None))
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(engine, number)
        time.sleep(1)
        record = json.loads((beat.parents[2] / "run.json").read_text())
        assert record["state"] == State.RUNNING
        os.kill(engine, signal.SIGTERM)
        said, _ = process.communicate(timeout=15)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert "go on with" in said
    record = json.loads((beat.parents[2] / "run.json").read_text())
    assert record["state"] == State.CANCELLED


def test_a_killed_engine_leaves_no_children(
    started: tuple[subprocess.Popen[str], Path],
) -> None:
    process, run = started
    child = json.loads((run / ".rvk8s/configure/heartbeat.json").read_text())["pid"]
    process.kill()
    _wait_for(lambda: not _alive(child), seconds=12)


@pytest.mark.slow
def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    answer = subprocess.run(
        _command(tmp_path / "root", tmp_path / "no-data"), capture_output=True, text=True
    )
    assert answer.returncode == ExitCode.BAD_INPUT
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 8, "an image and a label of four scenes"
    assert says(errors[0], "…image_train_a.tif…not exist…")
    assert answer.stdout == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", ["rastervision.pipeline", "torch"])
def test_an_install_of_the_client_alone(missing: str, tmp_path: Path, tiny_data: Path) -> None:
    hide = f"import sys; sys.modules[{missing!r}] = None; from rvk8s.cli import main; main()"
    words = _command(tmp_path / "root", tiny_data)[3:]
    answer = subprocess.run([sys.executable, "-c", hide, *words], capture_output=True, text=True)
    assert answer.returncode == ExitCode.BAD_INPUT
    what = {"torch": "torch"}.get(missing, "Raster Vision")
    wanted = f"error: …client alone, without {what}; …pip install '.[stage]'…`rvk8s submit`…\n"
    assert says(answer.stderr, wanted)
    assert answer.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_going_on_prints_json(reference: Reference, tmp_path: Path) -> None:
    """All stages are found done, so this pays for no imports."""
    plan = reference.plan
    args = [word for key, value in plan.args.items() for word in ("-a", key, str(value))]
    command = _command(Path(plan.root_uri), tmp_path, *args, "--run-id", plan.run_id, "-o", "json")
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    assert document["runId"] == plan.run_id
    assert document["state"] == "Succeeded"
    assert {stage["state"] for stage in document["stages"]} == {"Skipped"}
    assert len(document["pictures"]) == 2
    assert document["scores"]["overall"]["pixels"] > 0


@pytest.mark.parametrize("stderr", ["no reader", "full", "closed"])
def test_a_run_does_not_need_stderr(reference: Reference, tmp_path: Path, stderr: str) -> None:
    """All stages are found done; each is said on stderr, where something else than a run fails."""
    plan = reference.plan
    args = [word for key, value in plan.args.items() for word in ("-a", key, str(value))]
    command = _command(Path(plan.root_uri), tmp_path, *args, "--run-id", plan.run_id, "-o", "json")
    reader, writer = os.pipe()
    os.close(reader)
    to = {"no reader": "", "full": "2>/dev/full", "closed": "2>&-"}[stderr]
    shell = ["sh", "-c", f'exec "$@" {to}', "sh", *command]
    answer = subprocess.run(shell, stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert json.loads(answer.stdout)["state"] == "Succeeded", "nothing else is on stdout"
    assert answer.returncode == 0


def test_an_unknown_run_id(tmp_path: Path, tiny_data: Path) -> None:
    command = _command(tmp_path / "root", tiny_data, "--run-id", "tiny-0")
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == ExitCode.BAD_INPUT
    assert "no run tiny-0" in answer.stderr
    assert os.listdir(tmp_path) == []


def _only_one_has_it(plan: Plan) -> None:
    with run_lock(plan):
        refused = pytest.raises(InputError, match=f"run by process {os.getpid()}")
        with refused, run_lock(plan):
            pass
    with run_lock(plan):
        pass


def test_two_at_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tmp_path)
    _only_one_has_it(plan)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_two_at_once_where_the_file_system_has_no_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "root", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flock = fcntl.flock

    def refusing(file: TextIO, operation: int) -> None:
        if file.name.startswith(plan.root_uri):
            raise OSError(number, os.strerror(number))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", refusing)
    _only_one_has_it(plan)


def test_status_and_list(reference: Reference) -> None:
    plan = reference.plan
    run = next(run for run in status.list_runs(plan.root_uri) if run.run_id == plan.run_id)
    assert (run.run_id, run.state) == (plan.run_id, "Succeeded")
    assert status.run_status(plan.root_uri, "tiny").run_id == plan.run_id
    with pytest.raises(InputError, match="no run other"):
        status.run_status(plan.root_uri, "other")


def beat(path: str, age: float) -> None:
    """Leave a heartbeat that was written some seconds ago."""
    storage.write_json(path, {"at": now()})
    os.utime(path, (time.time() - age, time.time() - age))


def test_lost(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tmp_path)
    record = RunRecord.of_plan(plan, "test")
    record.state = State.RUNNING
    train = record.stage("train")
    train.state, train.started = State.RUNNING, "2026-01-01T00:00:00Z"
    storage.write_json(plan.layout.run_json, record.to_dict())
    for age, state in ((61.0, "Lost"), (-3600.0, "Running")):
        beat(plan.layout.heartbeat("train"), age)
        found = status.run_status(str(tmp_path), plan.run_id)
        assert found.state == state
        assert {s.record.name: s.state for s in found.stages}["train"] == state


def test_lost_between_two_stages(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tmp_path)
    record = RunRecord.of_plan(plan, "test")
    record.state, record.started = State.RUNNING, "2026-01-01T00:00:00Z"
    chip = record.stage("chip")
    chip.state = State.SUCCEEDED
    for ended, state in (("2026-01-01T00:10:00Z", "Lost"), (now(), "Running")):
        chip.ended = ended
        storage.write_json(plan.layout.run_json, record.to_dict())
        assert status.run_status(str(tmp_path), plan.run_id).state == state


def test_a_driver_that_lives_has_not_lost_a_stage_that_waits(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tmp_path)
    record = RunRecord.of_plan(plan, "kubernetes")
    record.state, record.started = State.RUNNING, "2026-01-01T00:00:00Z"
    train = record.stage("train")
    train.state, train.started = State.RUNNING, "2026-01-01T00:00:00Z"
    storage.write_json(plan.layout.run_json, record.to_dict())
    for age, state in ((61.0, "Lost"), (0.0, "Running")):
        beat(plan.layout.heartbeat("driver"), age)
        assert status.run_status(str(tmp_path), plan.run_id).state == state


def test_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(tmp_path, tmp_path)
    record = RunRecord.of_plan(plan, "test")
    storage.write_json(plan.layout.run_json, record.to_dict())
    with pytest.raises(InputError, match="nothing is written"):
        logs.print_logs(str(tmp_path), "tiny")
    storage.write_bytes(plan.layout.log("predict", 1), b"second\n")
    storage.write_bytes(plan.layout.log("predict", 0), b"first\n")
    storage.write_bytes(plan.layout.log("chip"), b"chips\n")
    logs.print_logs(str(tmp_path), "tiny")
    assert capsys.readouterr().out == (
        "==> chip <==\nchips\n==> predict, split 0 <==\nfirst\n==> predict, split 1 <==\nsecond\n"
    )
    logs.print_logs(str(tmp_path), "tiny", "predict", split=1)
    assert capsys.readouterr().out == "==> predict, split 1 <==\nsecond\n"
    with pytest.raises(InputError, match="no stage training"):
        logs.print_logs(str(tmp_path), "tiny", "training")


def _alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found
