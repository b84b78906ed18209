"""rvk8s list, status and logs over a folder of runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3server import S3Server
from said import check_lines, says

from rvk8s import cli, storage, yaml_loader
from rvk8s.contract import RunLayout, State, now, to_json
from rvk8s.errors import InputError
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord

#: Each command that takes one, with an empty RUN.
NO_RUN = [["status", ""], ["logs", ""], ["wait", "", "--for", "ended"], ["cancel", "", "-y"]]
NO_RUN += [["delete", "", "--results", "--yes"]]
Run = Callable[..., tuple[int, str, str]]


def stored(root: Path, run_id: str, created: str) -> None:
    """A run of two stages, of which the second failed, with its logs."""
    stages = (Stage("configure"), Stage("chip", splits=2))
    plan = Plan(
        run_id, "one", "exp.py", "/p", {}, str(root), stages, created=created, go_on="rvk8s run one"
    )
    record = RunRecord.of_plan(plan, "local")
    record.state, record.exit_code = State.FAILED, 12
    record.stages[0].state, record.stages[0].seconds = State.SUCCEEDED, 4.0
    record.stages[1].state, record.stages[1].message = State.FAILED, "ran out of memory"
    layout = plan.layout
    for name, split in (("configure", None), ("chip", 0), ("chip", 1)):
        log = Path(layout.log(name, split))
        log.parent.mkdir(parents=True)
        log.write_text(f"text of {name} {split}\n")
    Path(layout.run_json).write_bytes(to_json(record.to_dict()))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the program where rvk8s.yaml names a root with two runs, and has a mistake."""
    (tmp_path / "rvk8s.yaml").write_text("rootUri: runs\nexperiments: {}\n")
    stored(tmp_path / "runs", "one-20261123-101010-aaaa", "2026-11-23T10:10:10Z")
    stored(tmp_path / "runs", "one-20261124-101010-bbbb", "2026-11-24T10:10:10Z")
    (tmp_path / "all.yaml").write_text(
        "apiVersion: rvk8s/v1\nrootUri: runs\n"
        "experiments: {one: {module: exp.py, variants: {b: {args: {depth: 2}}}}}\n"
    )
    (tmp_path / "exp.py").write_text("def get_config(runner, depth=1): ...\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(args))
        assert isinstance(exited.value.code, int)
        return exited.value.code, *capfd.readouterr()

    return call


def test_list(run: Run, tmp_path: Path) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    rows = [line.split()[:3] for line in out.splitlines()]
    assert rows == [
        ["RUN", "STATE", "STAGE"],
        ["one-20261124-101010-bbbb", "Failed", "chip"],
        ["one-20261123-101010-aaaa", "Failed", "chip"],
    ]
    listed = json.loads(run("list", "--root-uri", "../runs", "-o", "json")[1])
    assert [(one["runId"], one["exitCode"]) for one in listed] == [(r[0], 12) for r in rows[1:]]
    assert run("list", "--root-uri", "none") == (0, "", f"no runs in {tmp_path}/below/none\n")
    assert run("list", "--root-uri", "none", "-o", "json")[1] == "[]\n"


def test_status(run: Run) -> None:
    code, out, err = run("status", "one-20261124")
    assert (code, err) == (0, "")
    assert "one-20261124-101010-bbbb" in out
    assert "ran out of memory" in out
    assert "Go on with: rvk8s run one" in out
    found = json.loads(run("status", "one-20261124", "-o", "json")[1])
    assert [stage["state"] for stage in found["stages"]] == ["Succeeded", "Failed"]
    assert found["plan"]["goOn"] == "rvk8s run one"


def test_names_and_yaml(run: Run) -> None:
    """As kubectl has them: nothing else is printed, and YAML says what JSON says."""
    newest, oldest = "one-20261124-101010-bbbb", "one-20261123-101010-aaaa"
    assert run("list", "-o", "name") == (0, f"{newest}\n{oldest}\n", "")
    assert run("list", "-o", "name", "--root-uri", "none") == (0, "", "")
    assert run("status", "one-20261124", "-o", "name") == (0, f"{newest}\n", "")
    assert run("status", f"job.batch/{newest}", "-o", "name")[1] == f"{newest}\n"
    for words in (["list"], ["status", newest], ["experiments", "-f", "../all.yaml"]):
        code, out, err = run(*words, "-o", "yaml")
        assert (code, err) == (0, "")
        assert yaml_loader.load(out) == json.loads(run(*words, "-o", "json")[1])
    assert run("experiments", "-f", "../all.yaml", "-o", "name") == (0, "one\none-b\n", "")
    plan = ["plan", "one", "-f", "../all.yaml", "--run-id", newest, "-o"]
    shown = yaml_loader.load(run(*plan, "yaml")[1])
    assert shown == json.loads(run(*plan, "json")[1])
    watched = run("status", newest, "-w", "-o", "yaml")[1]
    assert watched.startswith("---\nrunId: ")


def test_status_watched_as_json_is_a_document_for_each_change(run: Run, tmp_path: Path) -> None:
    name = "one-20261124-101010-bbbb"
    file = tmp_path / "runs" / name / "run.json"
    record = RunRecord.from_dict(json.loads(file.read_text()))
    record.state, record.exit_code, record.message = State.RUNNING, None, None
    record.stages[1].state, record.stages[1].started = State.RUNNING, now()
    storage.write_json(str(file), record.to_dict())
    command = [sys.executable, "-m", "rvk8s.cli", "status", name, "-w", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        first = watching.stdout.readline()
        storage.write_json(f"{file.parent}/.rvk8s/chip-0/progress.json", {"done": 3, "total": 9})
        time.sleep(2.5)
        record.state, record.exit_code, record.message = State.FAILED, 12, "stage chip: no memory"
        record.stages[1].state = State.FAILED
        storage.write_json(str(file), record.to_dict())
        text = (first + watching.stdout.read()).decode()
        assert watching.stderr.read() == b"error: stage chip: no memory\n"
    assert watching.returncode == 12
    documents = []
    while text.strip():
        document, end = json.JSONDecoder().raw_decode(text.lstrip())
        documents.append(document)
        text = text.lstrip()[end:]
    assert [one["state"] for one in documents] == ["Running", "Running", "Failed"]
    assert [one["stages"][1]["progress"] != {} for one in documents] == [False, True, False]
    # Of a run that has ended: what it is, once, and the code is that of the looking.
    code, out, err = run("status", name, "-w", "-o", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == documents[-1]


def test_waiting_for_several(run: Run, tmp_path: Path) -> None:
    """One after the other, each for what is left of the time; none where one is not there."""
    failed, others = "one-20261124-101010-bbbb", ["one-20261123-101010-aaaa", "one-20261125-1"]
    stored(tmp_path / "runs", others[1], "2026-11-25T10:10:10Z")
    file = tmp_path / "runs" / others[1] / "run.json"
    record = RunRecord.from_dict(json.loads(file.read_text()))
    record.state, record.exit_code, record.started = State.PENDING, None, None
    file.write_text(json.dumps(record.to_dict()))
    met = "".join(f"{one} condition met\n" for one in (failed, others[0]))
    assert run("wait", failed, others[0], failed[:12], "--for=failed") == (0, met, "")
    code, out, err = run("wait", failed, "one-20261123", "--for=succeeded")
    assert (code, out, len(err.splitlines())) == (12, "", 2)
    began = time.monotonic()
    code, out, err = run("wait", others[1], failed, others[1], "--for=ended", "--timeout=1s")
    assert (code, out) == (124, f"{failed} condition met\n")
    assert says(err, f"error: {others[1]}: {others[1]}…Pending…1 s…ended\n")
    assert err.count("\n") == 1
    assert time.monotonic() - began < 3
    code, out, err = run("wait", failed, "two", "--for=ended")
    assert (code, out) == (2, "")
    assert "two" in err
    file = tmp_path / "runs" / failed / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "message": "no memory"}))
    code, out, err = run("wait", failed, others[1], "--for=succeeded", "--timeout=0s")
    assert err.splitlines()[0] == f"error: {failed}: no memory"
    assert code == 12


def test_a_run_that_vanishes_while_another_is_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are waited for even so, and what failed before is not forgotten."""
    first, gone, last = (f"one-2026112{day}-1" for day in (5, 6, 7))
    for name in (first, gone, last):
        stored(tmp_path / "runs", name, "2026-11-25T10:10:10Z")
    file = tmp_path / "runs" / first / "run.json"
    record = RunRecord.from_dict(json.loads(file.read_text()))
    record.state = State.RUNNING
    file.write_bytes(to_json(record.to_dict()))
    alive = {"at": now(), "pid": os.getpid()}
    storage.write_json(RunLayout(str(file.parent)).heartbeat("chip", 0), alive)

    def pause(seconds: float) -> None:
        shutil.rmtree(tmp_path / "runs" / gone)
        record.state = State.FAILED
        file.write_bytes(to_json(record.to_dict()))

    monkeypatch.setattr("rvk8s.runs.follow.time.sleep", pause)
    code, out, err = run("wait", first, gone, last, "--for=failed")
    assert (code, out) == (2, f"{first} condition met\n{last} condition met\n")
    assert gone in err


def test_ctrl_c_of_a_watched_run_names_the_same_place(run: Run, tmp_path: Path) -> None:
    name = "one-20261124-101010-bbbb"
    file = tmp_path / "runs" / name / "run.json"
    record = RunRecord.from_dict(json.loads(file.read_text()))
    record.state, record.started = State.RUNNING, now()
    storage.write_json(str(file), record.to_dict())
    options = ["--root-uri", "../runs", "-f", "../rvk8s.yaml"]
    command = [sys.executable, "-m", "rvk8s.cli", "status", name[:12], "-w", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith(f"run {name} in")
        watching.send_signal(signal.SIGINT)
        last = watching.stderr.read().splitlines()[-1]
    assert watching.returncode == 130
    assert last.endswith(f": rvk8s status {name} -w {' '.join(options)}")


def test_logs(run: Run) -> None:
    code, out, _ = run("logs", "one-20261123")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("text")] == [
        "text of configure None",
        "text of chip 0",
        "text of chip 1",
    ]
    out = run("logs", "one-20261123", "chip", "--split", "1", "-f")[1]
    assert "text of chip 1" in out
    assert "text of chip 0" not in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["status", "one"], "2 runs…one; …one-2026112"),
        (["status", "two"], "no run two in "),
        *((words, "RUN: …empty…run's id") for words in NO_RUN),
        (["logs", "one-20261123", "chop"], "…no stage chop; …configure,"),
        (["logs", "one-20261123", "train"], "nothing…stage train;"),
        (["list", "-l", "a=b"], "--selector: …labels…-n, --context"),
        (["list", "--root-uri", "ftp://x"], "--root-uri: ftp://…not supported…folder"),
    ],
)
def test_errors(run: Run, args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert says(err, f"error: {message}…")
    assert err.count("\n") == 1


def test_a_run_that_cannot_be_read_hides_no_other(run: Run, tmp_path: Path) -> None:
    rows = run("list")[1].splitlines()[1:]
    root = tmp_path / "runs"
    (root / "one-closed" / "run.json").mkdir(parents=True)
    code, out, err = run("list")
    assert (code, out.splitlines()[1:]) == (0, rows)
    assert says(err, f"{root}/one-closed…not shown…Is a directory…\n")
    assert err.count("\n") == 1
    (root / "one-odd").mkdir()
    (root / "one-odd" / "run.json").write_text("{}")
    code, out, err = run("list", "-o", "json")
    assert (code, len(json.loads(out))) == (0, 2)
    check_lines(
        err.splitlines(), [f"{root}/one-closed…not shown…", f"{root}/one-odd…not shown…no rvk8s…"]
    )


def test_what_may_not_be_read_is_not_to_be_written(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("{}")
    file.chmod(0)
    tmp_path.chmod(0o500)
    root = os.geteuid() == 0
    try:
        if root:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(InputError, match=r"denied; .*read"):
            storage.read_json(str(file))
        with pytest.raises(InputError, match=r"denied; .*read"):
            storage.list_dirs(str(tmp_path))
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "…this version…(it has no rvk8s)"),
        ("", "…damaged"),
        ('{"plan": {', "…damaged"),
        ("[]", "…damaged"),
    ],
)
def test_json_that_is_no_run(run: Run, tmp_path: Path, text: str, said: str) -> None:
    """Refused with the file's name, by the commands that need just that run."""
    (tmp_path / "rvk8s.yaml").write_text(
        "apiVersion: rvk8s/v1\nrootUri: runs\nexperiments: {one: {module: exp.py}}\n"
    )
    (tmp_path / "exp.py").write_text("def get_config(runner): ...\n")
    file = tmp_path / "runs" / "one-odd" / "run.json"
    file.parent.mkdir()
    file.write_text(text)
    for words in (["status", "one-odd"], ["run", "one", "--run-id", "one-odd"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert says(err, f"error: {file}: {said}…; …new run\n")
        assert err.count("\n") == 1
    assert "one-odd" not in run("list")[1]


def test_no_root(run: Run) -> None:
    Path("../rvk8s.yaml").write_text("experiments: {}\n")
    code, _, err = run("list")
    assert code == 2
    assert says(err, "…no rootUri…--root-uri…")


@pytest.mark.parametrize("words", [["list"], ["status", "one-20261123"], ["logs", "one-20261123"]])
def test_the_same_on_s3(run: Run, tmp_path: Path, s3: S3Server, words: list[str]) -> None:
    root, uri = str(tmp_path / "runs"), f"{s3.bucket('cli')}/runs"
    storage.upload_dir(root, uri)
    code, out, err = run(*words, "--root-uri", uri)
    assert (code, err) == (0, "")
    assert out.replace(uri, root).split() == run(*words)[1].split()
