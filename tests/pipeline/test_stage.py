"""Stages: skipped on equal inputs, done again on others, split, on S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from forks import ForkLauncher, StageServer
from s3server import S3Server
from said import says
from tinyrun import Reference, drive, make_plan, outputs, write_run_json

from rvk8s import storage
from rvk8s.contract import Env, ExitCode, State
from rvk8s.plan import Plan


@pytest.fixture(scope="module")
def run(server: StageServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    root = tmp_path_factory.mktemp("stage")
    plan = make_plan(root, tiny_data)
    record = drive(plan, server, root / "logs")
    assert record.state == State.SUCCEEDED, record.message
    return plan


def test_markers(run: Plan) -> None:
    done = storage.read_json(run.layout.done("chip"))
    assert done
    assert (done["stage"], done["split"], done["splits"]) == ("chip", 0, 1)
    assert done["inputs"].startswith("sha256:")
    assert done["outputs"]
    assert all(storage.exists(run.layout.at(name)) for name in done["outputs"])
    configured = storage.read_json(run.layout.done("configure"))
    assert configured
    commands = ["analyze", "chip", "train", "predict", "eval", "bundle"]
    assert configured["commands"] == commands
    assert configured["split_commands"] == ["chip", "predict"]
    assert "experiment.py" in configured["sources"]
    assert storage.exists(run.layout.heartbeat("train"))
    progress = storage.read_json(run.layout.progress("train"))
    assert progress
    assert progress["epochs"] == 2


def test_scores_and_pictures(run: Plan) -> None:
    scores = storage.read_json(run.layout.scores)
    assert scores
    assert set(scores["scenes"]) == {"val_a", "val_b"}
    assert sorted(storage.list_files(run.layout.pictures)) == ["val_a.png", "val_b.png"]


def test_equal_inputs_are_skipped_before_anything_is_imported(run: Plan) -> None:
    code = (
        "import sys; from rastervision.kubernetes import stage; code = stage.run('bundle');"
        "heavy = {'torch', 'numpy', 'rasterio', 'rastervision.pipeline'} & set(sys.modules);"
        "print(int(code), sorted(heavy))"
    )
    before = storage.read_bytes(run.layout.done("bundle"))
    environ = {Env.RUN_URI: run.run_uri, "PATH": "", "PYTHONHASHSEED": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "0 []\n"
    assert storage.read_bytes(run.layout.done("bundle")) == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["chip", "analyze", "eval"])
def test_chips_and_scores_are_made_without_torch(run: Plan, stage: str) -> None:
    """Nor anything else of Raster Vision's PyTorch backend; fastai neither."""
    code = (
        f"import sys; from rastervision.kubernetes import stage; code = stage.run({stage!r});"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'albumentations', 'fastai'};"
        "print(int(code), sorted(heavy & set(sys.modules)))"
    )
    done = run.layout.done(stage)
    before = storage.read_json(done)
    assert before
    storage.delete_file(done)
    environ = {**os.environ, Env.RUN_URI: run.run_uri, "PYTHONHASHSEED": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "0 []\n"
    after = storage.read_json(done)
    assert after
    assert (after["inputs"], after["outputs"]) == (before["inputs"], before["outputs"])


def test_going_on_skips_all(run: Plan, server: StageServer, tmp_path: Path) -> None:
    record = drive(run, server, tmp_path)
    assert {stage.state for stage in record.stages} == {State.SKIPPED}


@pytest.mark.slow
def test_garbage_is_collected_in_the_work_but_not_in_what_was_imported(
    tiny_data: Path, tmp_path: Path
) -> None:
    text = "import gc\n\n\ndef get_config(runner, **args):\n"
    text += "    raise ValueError(f'{gc.isenabled()}, {gc.get_freeze_count() > 100_000}')\n"
    (tmp_path / "tells.py").write_text(text)
    plan = make_plan(tmp_path, tiny_data, module="tells.py", project_dir=str(tmp_path))
    write_run_json(plan)
    command = [sys.executable, "-m", "rastervision.kubernetes.stage", "configure"]
    environ = {**os.environ, Env.RUN_URI: plan.run_uri}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    failed = storage.read_json(plan.layout.failed("configure"))
    assert failed
    assert "ValueError: True, True" in failed["message"]


@pytest.mark.slow
def test_other_inputs_clear_what_was_there(
    run: Plan, server: StageServer, tmp_path: Path, tiny_data: Path
) -> None:
    for name in ("chip/left-over", "predict/val_a/left-over", "train/left-over"):
        storage.write_bytes(run.layout.at(name), b"")
    predicted = outputs(run.layout.at("predict"))
    changed = make_plan(run.root_uri, tiny_data, args={"epochs": 3})
    model = storage.read_bytes(run.layout.at("train/last.pt"))
    record = drive(changed, server, tmp_path)
    assert record.exit_code == ExitCode.BAD_INPUT
    assert says(str(record.message), "…another config…--rerun train…")
    assert storage.read_bytes(run.layout.at("train/last.pt")) == model
    record = drive(replace(changed, rerun=("train",)), server, tmp_path)
    states = {stage.name: stage.state for stage in record.stages}
    done = {name: states.pop(name) for name in ("configure", "chip")}
    assert set(done.values()) == {State.SKIPPED}
    assert set(states.values()) - {State.SUCCEEDED} <= {State.SKIPPED}
    assert states["train"] == states["predict"] == states["eval"] == State.SUCCEEDED
    assert not any("left-over" in name for name in storage.list_files(run.run_uri))
    assert outputs(run.layout.at("predict")) != predicted
    assert len(storage.read_bytes(run.layout.at("train/log.csv")).splitlines()) == 4


@pytest.mark.slow
def test_splits_give_the_same_predictions(
    reference: Reference, server: StageServer, tiny_data: Path, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, tiny_data, splits={"chip": 2, "predict": 2})
    assert drive(plan, server, tmp_path / "logs").state == State.SUCCEEDED
    assert storage.exists(plan.layout.done("chip", 1))
    assert outputs(plan.layout.at("predict")) == reference.outputs["predict"]


@pytest.mark.slow
def test_on_s3(
    reference: Reference, server: StageServer, tiny_data: Path, tmp_path: Path, s3: S3Server
) -> None:
    uri = s3.bucket("runs")
    storage.upload_dir(tiny_data, f"{uri}/data")
    plan = make_plan(f"{uri}/runs", f"{uri}/data")
    launcher = ForkLauncher(plan, server, tmp_path, {**s3.environ, "TMPDIR": str(tmp_path)})
    record = drive(plan, server, tmp_path, launcher)
    assert record.state == State.SUCCEEDED, record.message
    assert outputs(plan.layout.at("chip")) == reference.outputs["chip"]
    assert outputs(plan.layout.at("predict")) == reference.outputs["predict"]
    assert storage.exists(plan.layout.at("bundle/model-bundle.zip"))
    assert storage.read_json(plan.layout.scores)
    assert storage.exists(plan.layout.progress("train"))
    again = drive(plan, server, tmp_path, launcher)
    assert {stage.name: stage.state for stage in again.stages if stage.state != State.SKIPPED} == {}


def test_a_stage_before_is_not_done(server: StageServer, tiny_data: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, tiny_data)
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path / "logs")
    assert launcher.run_one("train") == ExitCode.BAD_INPUT
    failed = storage.read_json(plan.layout.failed("train"))
    assert failed
    assert says(failed["message"], "…configure…not done; …--from configure…")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({Env.CONTRACT: "99"}, "contract 99"),
        ({Env.SPLITS: "two"}, "'two' is not a number"),
        ({Env.SPLITS: "2", Env.SPLIT_INDEX: "2"}, "split 2 of 2; give 0 to 1"),
        ({Env.RUN_URI: ""}, "is not set"),
        ({Env.RUN_URI: "/nonexistent/run"}, "no such run"),
    ],
)
def test_environment(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    code = "from rastervision.kubernetes import stage; print(int(stage.run('chip')))"
    values = {Env.RUN_URI: str(tmp_path / "run"), "PYTHONHASHSEED": "0", **environ}
    answer = subprocess.run(
        [sys.executable, "-c", code + "\n"], env=values, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "2\n", answer.stderr
    found = list(tmp_path.rglob("failed.json"))
    text = json.loads(found[0].read_text())["message"] if found else answer.stderr
    assert message in text


@pytest.mark.parametrize(
    ("stage", "at", "kept"),
    [("train", "2999", True), ("train", "2001", False), ("predict", "2999", False)],
)
def test_a_node_that_is_ended_leaves_what_the_failed_one_says(
    tmp_path: Path, stage: str, at: str, kept: bool
) -> None:
    """Once one node of a training has failed, the others are ended by SIGTERM."""
    plan = make_plan(tmp_path, tmp_path)
    write_run_json(plan)
    failed = plan.layout.failed(stage)
    storage.write_json(failed, {"exitCode": 12, "message": "memory", "at": f"{at}-01-01T00:00:00Z"})
    code = (
        "import os, signal, sys; from rastervision.kubernetes import stage;"
        "stage._do = lambda _: os.kill(os.getpid(), signal.SIGTERM);"
        f"print(int(stage.run({stage!r})))"
    )
    environ = {Env.RUN_URI: plan.run_uri, "PYTHONHASHSEED": "0"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "143\n"
    said = storage.read_json(failed)
    assert said
    assert said["exitCode"] == (12 if kept else 143)
