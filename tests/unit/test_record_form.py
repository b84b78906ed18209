"""Files in a run's folder are input: each fault is one line and hides no other run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from said import says

from rvk8s import cli
from rvk8s.contract import STAGES, State, now, to_json
from rvk8s.errors import InputError
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord, read_record
from rvk8s.runs.summary import RunSummary

Run = Callable[..., tuple[int, str, str]]


def _stored(root: Path, run_id: str, state: State = State.SUCCEEDED) -> Path:
    plan = Plan(run_id, "one", "exp.py", "/p", {}, str(root), tuple(Stage(n) for n in STAGES))
    record = RunRecord.of_plan(plan, "local")
    record.started = now()
    record.state = record.stages[0].state = state
    record.stages[0].started = now()
    file = Path(plan.layout.run_json)
    file.parent.mkdir(parents=True)
    file.write_bytes(to_json(record.to_dict()))
    return file


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Calls the program in a folder with the runs one-right and one-odd."""
    (tmp_path / "rvk8s.yaml").write_text(
        "apiVersion: rvk8s/v1\nrootUri: runs\nexperiments: {one: {module: exp.py}}\n"
    )
    (tmp_path / "exp.py").write_text("def get_config(runner): ...\n")
    _stored(tmp_path / "runs", "one-right")
    _stored(tmp_path / "runs", "one-odd")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("RVK8S_DEBUG", raising=False)

    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(args))
        assert isinstance(exited.value.code, int)
        return exited.value.code, *capfd.readouterr()

    return call


def _changed(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        at: Any = document
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


#: What stands in run.json, and a word of what is said.
FORMS = {
    "newer contract": (_changed("contract", value=2), "newer contract"),
    "contract of another kind": (_changed("contract", value="2"), "newer contract"),
    "newer API": (_changed("apiVersion", value="rvk8s/v2"), "newer contract"),
    "unknown state": (_changed("state", value="Paused"), "state is 'Paused'"),
    "state in a list": (_changed("state", value=["Failed"]), "state is"),
    "no time": (_changed("started", value="yesterday"), "started is"),
    "time without a zone": (_changed("started", value="2026-12-01T10:00:00"), "started is"),
    "created as a number": (_changed("plan", "created", value=5), "plan.created is 5"),
    "id of another place": (_changed("plan", "runId", value="../../x"), "plan.runId is"),
    "plan as a text": (_changed("plan", value="x"), "plan is 'x'"),
    "stages as a mapping": (_changed("stages", value={}), "stages is"),
    "stages as numbers": (_changed("stages", value=[1]), "stages is"),
    "unknown stage": (_changed("stages", 0, "name", value="x"), "stages[0].name is"),
    "seconds as a text": (_changed("stages", 1, "seconds", value="4"), "stages[1].seconds is"),
    "endless splits": (_changed("stages", 1, "splits", value=10**9), "stages[1].splits is"),
    "no splits": (_changed("plan", "stages", 1, "splits", value=0), "plan.stages[1].splits is"),
    "stages of another plan": (
        lambda document: document["stages"].reverse(),
        "stages are not",
    ),
    "a key less": (lambda document: document["plan"].pop("args"), "no plan.args"),
}
TEXTS = {
    "empty": "",
    "cut off": '{"apiVersion": "rvk8s/v1", "plan": {"run',
    "a list": "[]",
    "a page": "<html></html>",
    "binary": "\udcff\udcfe\x00",
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("name", [*FORMS, *TEXTS])
def test_each_odd_run_is_one_line_and_hides_no_other(run: Run, tmp_path: Path, name: str) -> None:
    file = tmp_path / "runs" / "one-odd" / "run.json"
    keyword = "damaged"
    if name in FORMS:
        change, keyword = FORMS[name]
        document = json.loads(file.read_text())
        change(document)
        file.write_bytes(to_json(document))
    else:
        file.write_text(TEXTS[name], errors="surrogateescape")
    before = file.read_bytes()
    for words in (["list"], ["list", "-o", "name"]):
        code, out, err = run(*words)
        assert (code, "one-right" in out, "one-odd" in out) == (0, True, False)
        assert says(err, f"…one-odd is not shown…{keyword}…\n")
        assert err.count("\n") == 1
    for words in (["status", "one-odd"], ["run", "one", "--run-id", "one-odd"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert says(err, f"error: {file}: …{keyword}…;…\n")
        assert err.count("\n") == 1
    assert file.read_bytes() == before


def test_ten_odd_runs_have_a_line_each_and_others_a_count(run: Run, tmp_path: Path) -> None:
    for number in range(12):
        _stored(tmp_path / "runs", f"odd-{number:02}").write_text("{")
    lines = run("list")[2].splitlines()
    assert len(lines) == 11
    assert says(lines[-1], "2 more…")


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    file = _stored(tmp_path, "a")
    document = {**json.loads(file.read_text()), "contract": 2, "rvk8s": "9.1.0"}
    file.write_bytes(to_json(document))
    with pytest.raises(InputError, match=r"use rvk8s 9\.1\.0 or newer"):
        read_record(str(file))


def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    """They lack what was added since."""
    file = _stored(tmp_path, "a")
    document = json.loads(file.read_text())
    del document["driver"], document["plan"]["values"]
    for stage in document["stages"]:
        for key in ("disruptions", "losses", "givenBack", "images"):
            del stage[key]
    file.write_bytes(to_json(document))
    record = read_record(str(file))
    assert record is not None
    assert record.plan.run_id == "a"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"epoch": "x", "epochs": 3, "loss": "low", "macroF1": [1]}',
        '{"epoch": Infinity, "macroF1": 0.5, "epochs": true}',
        '{"pixelsDone": null, "pixelsTotal": 5, "scenes": "many"}',
        '{"updated": 5, "message": {"a": 1}}',
    ],
)
def test_odd_progress_hides_no_status(run: Run, tmp_path: Path, text: str) -> None:
    file = _stored(tmp_path / "runs", "one-busy", State.RUNNING)
    folder = file.parent / ".rvk8s" / "configure"
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(text)
    (folder / "heartbeat.json").write_text(text)
    for words in (["status", "one-busy"], ["list"], ["status", "one-busy", "-o", "json"]):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert "one-busy" in out


_PART = {"precision": None, "recall": 0.5, "f1": 0.5, "iou": 0.5}
_SCORES: dict[str, Any] = {
    "scenes": {"a": {}},
    "classes": [{"name": "field", "support": 1, **_PART}],
    "overall": {"accuracy": 0.5, "pixels": 1, "pixelWeightedF1": 0.5},
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '{"classes": 1}',
        json.dumps({**_SCORES, "overall": {}}),
        json.dumps({**_SCORES, "overall": {"pixels": None, "pixelWeightedF1": 0.5}}),
        json.dumps({**_SCORES, "overall": {"pixels": 1, "pixelWeightedF1": "high"}}),
        json.dumps({**_SCORES, "classes": [{"name": "field"}]}),
        json.dumps({**_SCORES, "test": {}}),
    ],
)
def test_damaged_scores_are_said_and_not_shown(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    record = read_record(str(_stored(tmp_path, "a")))
    assert record is not None
    record.stage("eval").state = State.SUCCEEDED
    file = Path(record.plan.layout.scores)
    file.parent.mkdir()
    file.write_text(json.dumps(_SCORES))
    assert RunSummary.of(record).scores == _SCORES
    assert not caplog.messages
    file.write_text(text)
    assert RunSummary.of(record).scores is None
    (message,) = caplog.messages
    assert says(message, f"{file} is damaged…--rerun eval")
