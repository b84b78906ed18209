"""Whatever stdout can take decides neither what a command does nor its exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from rvk8s import cli, streams
from rvk8s.contract import State, to_json
from rvk8s.engines import processes
from rvk8s.plan import Plan, Stage
from rvk8s.runs import display
from rvk8s.runs.record import RunRecord

#: What is found in users' files: an umlaut, a currency sign, another script, an emoji.
TEXT = "Gebäude 5 € 建物 🏠"
FILE = f"""\
apiVersion: rvk8s/v1
rootUri: runs
experiments:
  city:
    module: exp.py
    args: {{name: {TEXT}}}
"""
CODE = f"def get_config(runner, name=''): ...  # {TEXT}\n"


class Result(NamedTuple):
    code: int
    out: bytes
    err: bytes


Run = Callable[..., Result]


def _stored(root: Path, run_id: str) -> RunRecord:
    stages = (Stage("configure"), Stage("train"))
    args = {"name": TEXT}
    plan = Plan(run_id, "city", "exp.py", "/p", args, str(root), stages, created="2026-12-01")
    record = RunRecord.of_plan(plan, "local")
    record.state = record.stages[0].state = State.SUCCEEDED
    record.stages[0].message = f"warns of {TEXT}"
    log = Path(plan.layout.log("configure", None))
    log.parent.mkdir(parents=True)
    log.write_text(f"{TEXT}\n", encoding="utf-8")
    Path(plan.layout.run_json).write_bytes(to_json(record.to_dict()))
    return record


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the program with standard streams of an encoding, in a folder with two runs."""
    (tmp_path / "rvk8s.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "exp.py").write_text(CODE, encoding="utf-8")
    for run_id in ("city-a", "city-b"):
        _stored(tmp_path / "runs", run_id)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("RVK8S_DEBUG", raising=False)

    def call(encoding: str, *words: str) -> Result:
        raw = io.BytesIO(), io.BytesIO()
        out = io.TextIOWrapper(raw[0], encoding, "strict")
        err = io.TextIOWrapper(raw[1], encoding, "backslashreplace")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as exited:
                cli.main(list(words))
        assert isinstance(exited.value.code, int)
        return Result(exited.value.code, raw[0].getvalue(), raw[1].getvalue())

    return call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "iso8859-15", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "words",
    [
        "experiments",
        "plan city",
        "run city --dry-run",
        "list",
        "status city-a",
        "logs city-a",
        "wait city-a --for ended",
    ],
)
def test_each_command_prints_what_can_be_printed(run: Run, words: str, encoding: str) -> None:
    result = run(encoding, *words.split())
    assert (result.code, result.err) == (0, b"")
    if words.split()[0] in ("list", "wait"):  # they show nothing of a user's
        return
    shown = TEXT.encode(encoding, "replace").decode(encoding)
    assert shown in result.out.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_documents_say_the_same_in_every_encoding(run: Run, form: str, encoding: str) -> None:
    result = run(encoding, "experiments", "-o", form)
    read = json.loads if form == "json" else yaml.safe_load
    assert read(result.out)[0]["args"] == {"name": TEXT}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_kubectl_reads_is_utf8(run: Run, encoding: str) -> None:
    words = ["city", "--image", "a/b:1", "--root-uri", "s3://b/c"]
    for command in (["render"], ["submit", "--dry-run", "client"], ["plan", "-o", "values"]):
        result = run(encoding, *command, *words)
        assert result.code == 0, result.err
        assert TEXT in str(list(yaml.safe_load_all(result.out)))


def test_errors_are_printed_in_every_encoding(run: Run) -> None:
    result = run("ascii", "plan", TEXT)
    assert result.code == 2
    assert result.err.startswith(b"error: ")
    assert b"Geb" in result.err


def test_scores_are_shown_where_dashes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has dashes and quotes of its own, which a Latin-1 terminal does not."""
    plan = Plan("city-a", "city", "exp.py", "/p", {}, "/root", (Stage("eval"),))
    values = {"precision": None, "recall": 0.5, "f1": 0.5, "iou": 0.5}
    scores = {
        "scenes": ["a"],
        "classes": [{"name": TEXT, "support": 1, **values}],
        "overall": {"pixels": 1, "pixelWeightedF1": 0.5, "rasterVisionAverageF1": 0.25},
    }
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, "latin-1", "strict"))
    streams.prepare()
    display.print_summary(RunRecord.of_plan(plan, "local"), scores, ())
    sys.stdout.flush()
    text = out.getvalue().decode("latin-1")
    assert "Gebäude" in text
    assert 'Raster Vision\'s "average F1"' in text
    assert " - " in text


@pytest.fixture
def no_reader() -> Iterator[io.TextIOWrapper]:
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writer, "w")))
    yield stream
    os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    stream.close()


def test_without_a_reader_what_a_command_does_is_done(
    run: Run, no_reader: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rvk8s wait a b --for ended | head -1` waits for both."""
    from rvk8s.runs import follow

    asked = []
    until = follow.until
    monkeypatch.setattr(follow, "until", lambda *args: [asked.append(args[1]), until(*args)])
    monkeypatch.setattr(sys, "stdout", no_reader)
    with pytest.raises(SystemExit) as exited:
        cli.main(["wait", "city-a", "city-b", "--for", "ended"])
    assert (exited.value.code, asked) == (0, ["city-a", "city-b"])


@pytest.mark.parametrize("output", [[], ["-o", "json"], ["-o", "name"]])
def test_a_run_ends_with_its_own_code_without_a_reader(
    run: Run,
    output: list[str],
    tmp_path: Path,
    no_reader: io.TextIOWrapper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rvk8s.engines import local
    from rvk8s.runs.summary import RunSummary

    def end(plan: Plan, **_: object) -> RunSummary:
        summary = RunSummary(RunRecord.of_plan(plan, "local"), None, ())
        if not output:
            display.print_summary(summary.record, None, ())
        return summary

    monkeypatch.setattr(local, "run", end)
    monkeypatch.setattr(sys, "stdout", no_reader)
    with pytest.raises(SystemExit) as exited:
        cli.main(["run", "city", *output])
    assert exited.value.code == 0


@pytest.mark.parametrize("words", ["list", "status city-a", "logs city-a", "plan city", "--help"])
def test_a_closed_stdout_is_no_fault(run: Run, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as exited:
        cli.main(words.split())
    assert exited.value.code == 0
    sys.stdout.close()


def test_a_stage_does_not_write_in_the_terminals_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    plan = _stored(tmp_path, "city-a").plan
    launcher = processes.ProcessLauncher(plan, tmp_path)
    environment = launcher.environment(Stage("train"), 0, 1, threads=1)
    assert environment["PYTHONIOENCODING"].startswith("utf-8")
