"""The commands of a client that has no Raster Vision."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from said import says

from rvk8s import cli, project
from rvk8s.errors import Interrupted, StorageUnavailable
from rvk8s.plan import Plan

FILE = """\
apiVersion: rvk8s/v1
rootUri: runs
experiments:
  potsdam:
    module: exp.py
    args: {raw_uri: "[a]"}
    variants:
      resnet18: {args: {backbone: resnet18}}
"""
CODE = "def get_config(runner, root_uri, raw_uri, backbone='resnet50', test=False): ...\n"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the program in a folder with FILE and CODE."""
    (tmp_path / "rvk8s.yaml").write_text(FILE)
    (tmp_path / "exp.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RVK8S_DEBUG", raising=False)

    def call(*args: str) -> Result:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(args))
        out, err = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return Result(exited.value.code, out, err)

    return call


def test_version(run: Run) -> None:
    from rvk8s import __version__

    assert run("--version") == (0, f"rvk8s {__version__}\n", "")


def test_the_package_is_the_program(run: Run) -> None:
    command = [sys.executable, "-m", "rvk8s", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").out


def test_no_command_is_the_help(run: Run) -> None:
    """As with kubectl and helm."""
    shown = run()
    assert shown == run("--help")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"^  submit  ", shown.out, re.MULTILINE)


def test_experiments(run: Run) -> None:
    shown = run("experiments")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["NAME", "MODULE", "ARGS"],
        ["potsdam", "exp.py", "raw_uri=[a]"],
        ["potsdam-resnet18", "backbone=resnet18"],
    ]
    assert json.loads(run("experiments", "-o", "json").out)[1] == {
        "name": "potsdam-resnet18",
        "module": "exp.py",
        "args": {"raw_uri": "[a]", "backbone": "resnet18"},
        "variantOf": "potsdam",
    }


def test_plan(run: Run, tmp_path: Path) -> None:
    shown = run("plan", "potsdam", "--run-id", "r1", "--rerun", "train", "--from", "chip")
    assert (shown.code, shown.err) == (0, "")
    assert f"Folder      {tmp_path}/runs/r1" in shown.out
    assert "raw_uri=[a]" in shown.out
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.split()}
    assert rows["analyze"] == ["1", "0", "0", "-", "has", "to", "be", "done"]
    assert rows["chip"] == ["1", "0", "0", "-"]
    assert rows["bundle"] == ["1", "0", "0", "-", "again"]


def test_plan_of_a_cluster(run: Run) -> None:
    cluster = ["plan", "potsdam", "--root-uri", "s3://b/r", "--image", "x:1", "-n", "team"]
    shown = run(*cluster, "--nodes", "2", "--ranks", "4")
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines() if line.split()}
    assert rows["STAGE"][:4] == ["SPLITS", "NODES", "RANKS", "GPUS"]
    assert rows["train"][:4] == ["1", "2", "4", "0"]
    assert rows["chip"][:4] == ["1", "1", "1", "0"]
    Path("cron.yaml").write_text("schedule: {cron: '0 3 * * *'}\n")
    shown = run(*cluster, "--values", "cron.yaml")
    assert re.search(r"^Run  .*schedule", shown.out, re.MULTILINE)
    assert "Folder      s3://b/r/RUN" in shown.out
    assert "rvk8s-run-id" not in shown.out


POOLS = """
values:
  pools:
    gpu: {gpusPerNode: 4}
    large: {gpusPerNode: 8, cpuPerGpu: "8", memoryPerGpu: 32Gi}
"""


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (["--gpus", "8"], (2, 8)),
        (["--gpus", "8", "--gpus-per-node", "2"], (4, 8)),
        (["--gpus", "8", "--pool", "large"], (1, 8)),
        (["--gpus", "8", "--pool", "large", "--gpus-per-node", "4"], (2, 8)),
        (["--gpus", "6", "--nodes", "3"], (3, 6)),
    ],
)
def test_the_shape_of_a_training(run: Run, options: list[str], shape: tuple[int, int]) -> None:
    Path("rvk8s.yaml").write_text(FILE.replace("rootUri: runs", "rootUri: s3://b/r") + POOLS)
    shown = run("plan", "potsdam", "--image", "x:1", "-n", "team", *options, "-o", "json")
    assert (shown.code, shown.err) == (0, "")
    (train,) = [one for one in json.loads(shown.out)["stages"] if one["name"] == "train"]
    assert (train["nodes"], train["gpus"]) == shape
    assert train["ranks"] == train["gpus"]


@pytest.mark.parametrize("command", ["list", "status", "logs", "wait", "cancel", "delete", "plan"])
def test_a_kubeconfig_that_there_is_not(run: Run, command: str) -> None:
    args = {"list": [], "plan": ["potsdam"], "wait": ["x", "--for", "ended"]}.get(command, ["x"])
    shown = run(command, *args, "--kubeconfig", "none")
    assert (shown.code, shown.out) == (2, "")
    assert says(shown.err, "error: --kubeconfig none: …no such file…\n")
    assert shown.err.count("\n") == 1
    Path("empty").touch()
    shown = run(command, *args, "--kubeconfig", "empty")
    assert (shown.code, shown.out) == (2, "")
    assert says(shown.err, "error: --kubeconfig: empty…current context…")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "8", "--gpus-per-node", "16"], "(--gpus-per-node): "),
        (["--gpus", "8", "--pool", "huge"], "(--pool): "),
    ],
)
def test_a_shape_that_there_is_not(run: Run, options: list[str], message: str) -> None:
    Path("rvk8s.yaml").write_text(FILE.replace("rootUri: runs", "rootUri: s3://b/r") + POOLS)
    shown = run("plan", "potsdam", "--image", "x:1", "-n", "team", *options)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err


def test_dry_run_creates_nothing_and_is_the_plan(run: Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    options = ["-m", "*", "-a", "backbone", "x", "--test", "--splits", "chip=3"]
    dry = run("run", *options, "--dry-run", "-o", "json")
    assert (dry.code, dry.err) == (0, "")
    plans = json.loads(dry.out)
    assert [plan["experiment"] for plan in plans] == ["potsdam", "potsdam-resnet18"]
    assert plans[1]["args"] == {"raw_uri": "[a]", "backbone": "x", "test": True}
    assert plans[0]["stages"][2]["splits"] == 3
    assert sorted(tmp_path.rglob("*")) == before
    made = json.loads(run("plan", *options, "-o", "json").out)
    for one, other in zip(plans, made, strict=True):
        for key in ("runId", "created", "goOn"):
            del one[key], other[key]
    assert made == plans


def test_the_file_is_found_from_below_and_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    os.chdir(tmp_path / "below")
    assert run("plan", "potsdam").code == 0
    document = json.loads(run("plan", "potsdam", "-f", "../rvk8s.yaml", "-o", "json").out)
    assert document["projectDir"] == str(tmp_path)
    assert document["rootUri"] == str(tmp_path / "runs")
    assert "-f ../rvk8s.yaml" in document["goOn"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["plan", "potsdm"], "rvk8s.yaml: …experiment potsdm…potsdam?"),
        (["run"], "…no experiment…potsdam, potsdam-resnet18"),
        (["run", "-m", "*", "--run-id", "r"], "--run-id: …-m picks potsdam,"),
        (["run", "potsdam", "--splits", "train=2"], "--splits: train…no such stage"),
        (["run", "potsdam", "--root-uri", "gs://x"], "--root-uri: gs://…not supported"),
        (["run", "potsdam", "--root-uri", ""], "--root-uri: …empty…folder…s3:"),
        (["list", "--root-uri", ""], "--root-uri: …empty…folder…s3:"),
        (["plan", "potsdam", "--root-uri", "s3:/x"], "--root-uri: s3:/x…half"),
        (["run", "potsdam", "--gpus", "-1"], "…'--gpus': -1…range"),
        (["run", "potsdam", "--rerun", "x"], "…'--rerun': 'x'"),
        (["plan", "-f", "no.yaml", "x"], "no.yaml: …No such file"),
        (["list", "-f", "no.yaml"], "no.yaml: …No such file"),
        (["statsu"], "…command statsu…status?"),
        (["plan", "--match"], "…'--match'…requires…`rvk8s plan --help`"),
        (["plan", "x", "-a", "lr"], "-a lr…no value…-a lr VALUE"),
        (["run", "-a", "lr=3"], "-a lr=3: …-a lr 3"),
        (["submit", "x", "--arg", "lr=3", "y"], "--arg lr=3: …--arg lr 3"),
        (["plan", "x", "-a", "lr", "--test"], "-a lr…no value…--test…option"),
        (["diff", "x", "-a", "lr", "--gpus=4"], "-a lr…no value…--gpus=4…option"),
        (["list", "--root-uri", "r" * 300], "--root-uri: …300 bytes…255"),
        (["run", "potsdam", "--root-uri", "s3://b/../c"], "--root-uri: …part ..;…"),
        (["status", "r" * 300], "no run rrr…"),
        (["init", "r" * 300], "rrr…too long…"),
        (["experiments", "-f", "r" * 300], "rrr…too long…"),
        (["plan", "potsdam", "--image", "a/b:1", "--values", "r" * 300], "rrr…too long…"),
        (["run", "potsdam", "-a", "backbone", "m\udcfc"], "m\\udcfc: …not UTF-8…rename…"),
        (["render", "x", "-a"], "-a…no argument…-a KEY VALUE"),
        (["render", "-a", "-m", "x"], "-a…no argument…-a KEY VALUE"),
    ],
)
def test_errors_are_one_line_and_code_2(run: Run, args: Sequence[str], line: str) -> None:
    result = run(*args)
    assert result.code == 2
    assert result.out == ""
    errors = [text for text in result.err.splitlines() if text.lower().startswith("error:")]
    assert len(errors) == 1
    assert says(errors[0], f"error: {line}…")
    assert "Traceback" not in result.err


def test_values_of_arguments_may_look_like_options(run: Run) -> None:
    plan = run("plan", "potsdam", "-a", "backbone", "-1", "-a", "raw_uri", "a=b", "-o", "json")
    assert (plan.code, plan.err) == (0, "")
    assert json.loads(plan.out)["args"] == {"raw_uri": "a=b", "backbone": "-1"}


def test_every_mistake_of_a_file_has_its_line(run: Run) -> None:
    Path("rvk8s.yaml").write_text(FILE.replace("module", "modul").replace("rootUri", "rootUrl"))
    result = run("experiments")
    assert (result.code, result.out) == (2, "")
    assert [line.split(": ")[:2] for line in result.err.splitlines()] == [
        ["error", "rvk8s.yaml:2"],
        ["error", "rvk8s.yaml:4"],
        ["error", "rvk8s.yaml:5"],
    ]


def test_a_fault_of_ours_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(project, "load", broken)
    result = run("experiments")
    assert result.code == 1
    assert says(result.err, "error: ValueError: two lines; …RVK8S_DEBUG=1…\n")
    assert result.err.count("\n") == 1
    monkeypatch.setenv("RVK8S_DEBUG", "1")
    with pytest.raises(ValueError, match="two"):
        cli.main(["experiments"])


@pytest.mark.parametrize(
    "command", ["--help", "experiments", "plan potsdam", "plan potsdam -o json"]
)
def test_output_that_has_no_place(run: Run, command: str) -> None:
    program = f"{sys.executable} -m rvk8s.cli {command} > /dev/full"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 28
    assert says(done.stderr, "error: …no space…output…\n")
    assert done.stderr.count("\n") == 1
    unheard = subprocess.run(f"{program} 2>&1", shell=True, capture_output=True, check=False)
    assert unheard.returncode == 28


def test_a_working_folder_that_is_gone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["experiments"], ["list", "--root-uri", "x"], ["plan", "potsdam"]):
        result = run(*words)
        assert (result.code, result.out) == (2, "")
        assert says(result.err, "error: …working folder…\n")
        assert result.err.count("\n") == 1
    assert run("--help").code == 0


def test_a_closed_pipe_is_no_error(run: Run) -> None:
    program = f"{sys.executable} -m rvk8s.cli"
    for command in ("experiments", "plan potsdam", "plan potsdam -o json"):
        done = subprocess.run(
            f"{program} {command} | true", shell=True, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""


@pytest.mark.parametrize(("no_color", "word"), [("", "\x1b[31merror:\x1b[0m"), ("1", "error:")])
def test_errors_are_red_on_a_terminal_unless_no_color_is_set(no_color: str, word: str) -> None:
    leader, terminal = os.openpty()
    command = [sys.executable, "-m", "rvk8s.cli", "statsu"]
    environ = os.environ | {"NO_COLOR": no_color}
    subprocess.run(command, stdout=terminal, stderr=terminal, env=environ, check=False)
    os.close(terminal)
    with os.fdopen(leader, "rb") as shown:
        assert says(shown.read1(1000).decode(), f"{word} …statsu…")


@pytest.mark.parametrize(
    ("words", "task"),
    [((), "segmentation"), *((("--task", t), t) for t in ("classification", "detection"))],
    ids=["segmentation", "classification", "detection"],
)
def test_init(run: Run, tmp_path: Path, words: tuple[str, ...], task: str) -> None:
    result = run("init", "new/one", *words)
    assert (result.code, result.err) == (0, "")
    assert f"wrote new/one/rvk8s.yaml\nwrote new/one/experiments/{task}.py\n" in result.out
    assert says(
        result.out,
        f"…new/one/rvk8s.yaml set data_uri and validation…new/one/experiments/{task}.py…classes…",
    )
    loaded = project.load(tmp_path / "new" / "one" / "rvk8s.yaml")
    names = [experiment.name for experiment in loaded.experiments]
    assert names == [task, f"{task}-resnet50"]
    os.chdir(tmp_path / "new" / "one")
    for name in names:
        assert run("run", name, "--test", "--dry-run").code == 0


@pytest.mark.parametrize("folder", [".", "my project"])
def test_the_commands_that_init_prints_work(run: Run, tmp_path: Path, folder: str) -> None:
    (tmp_path / "rvk8s.yaml").unlink()
    lines = run("init", folder).out.splitlines()
    commands = [line.strip() for line in lines if line.startswith("  ") and not line[2:3].isspace()]
    assert commands[-1] == "rvk8s run segmentation --test"
    assert commands[:-1] == ([] if folder == "." else [f"cd '{folder}'"])
    script = " && ".join([*commands[:-1], f"{commands[-1]} --dry-run"])
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(script, shell=True, capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_init_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    result = run("init")
    assert (result.code, result.out) == (2, "")
    assert says(result.err, "error: rvk8s.yaml: …already…nothing…")
    assert (tmp_path / "rvk8s.yaml").read_text() == FILE
    assert not (tmp_path / "experiments").exists()
    (tmp_path / "file").touch()
    result = run("init", "file/below")
    assert result.code == 2
    assert says(result.err, "error: file/below: …Not a directory…\n")


@pytest.mark.parametrize(
    "ends",
    [
        [StorageUnavailable("no answer"), Interrupted("interrupted")],
        [Interrupted("interrupted")],
    ],
)
def test_run_with_a_pattern_ends_with_ctrl_c(
    run: Run, monkeypatch: pytest.MonkeyPatch, ends: list[Exception]
) -> None:
    """Storage that was away for one run does not keep the next one from starting; Ctrl-C does."""
    left = iter(ends)

    def end(plan: Plan, **_: object) -> None:
        raise next(left)

    monkeypatch.setattr("rvk8s.engines.local.run", end)
    result = run("run", "-m", "*", "-o", "json")
    assert (result.code, result.out) == (130, "[]\n")
    said = [line.rpartition(": ")[2] for line in result.err.splitlines()]
    assert said == [str(error) for error in ends]


def test_run_with_a_pattern_goes_on_after_a_failure(run: Run, tmp_path: Path) -> None:
    """Both runs fail, the second is started all the same, and each is named."""
    (tmp_path / "runs").write_text("a file where the root should be")
    result = run("run", "-m", "*", "-o", "json")
    assert result.code == 2
    assert result.out == "[]\n"
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    names = [line.split(": ")[1] for line in errors]
    assert [re.sub(r"-\d{8}-\d{6}-[0-9a-f]{4}$", "", name) for name in names] == [
        "potsdam",
        "potsdam-resnet18",
    ]
