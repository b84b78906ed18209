"""Experiment + options -> Plan."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from said import check_lines, says

from rvk8s.contract import STAGES
from rvk8s.engines import machine
from rvk8s.engines.machine import gpu_count
from rvk8s.errors import InputError
from rvk8s.plan import Plan, Stage, absolute_root, make_plan, new_run_id
from rvk8s.project import Experiment
from rvk8s.project.signature import Signature
from rvk8s.run_options import RunOptions, parse_splits


def experiment(**changes: Any) -> Experiment:
    return Experiment(
        **{
            "name": "potsdam",
            "module": "exp.py",
            "signature": Signature("get_config", ("root_uri", "raw_uri", "lr"), ("raw_uri",)),
            "where": "rvk8s.yaml:3: experiments.potsdam",
            "project_dir": "/project",
            "args": {"raw_uri": "x", "lr": 1},
            "root_uri": "/runs",
            **changes,
        }
    )


def refused(options: RunOptions, **changes: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        make_plan(experiment(**changes), options)
    return str(caught.value).splitlines()


def test_the_whole_plan() -> None:
    plan = make_plan(
        experiment(
            splits={"chip": 4, "predict": 4},
            gpus=8,
            retries={"train": 3},
            deadline_seconds={"predict": 60},
            image="image:1",
        ),
        RunOptions(args={"lr": "0.1"}, splits={"predict": 2}),
    )
    assert plan == Plan(
        run_id=plan.run_id,
        experiment="potsdam",
        module="exp.py",
        project_dir="/project",
        args={"raw_uri": "x", "lr": "0.1"},
        root_uri="/runs",
        stages=(
            Stage("configure"),
            Stage("analyze"),
            Stage("chip", splits=4),
            Stage("train", gpus=8, ranks=8, retries=3),
            Stage("predict", splits=2, gpus=1, deadline_seconds=60),
            Stage("eval"),
            Stage("bundle"),
        ),
        image="image:1",
        created=plan.created,
        go_on=f"rvk8s run potsdam -a lr 0.1 --splits predict=2 --run-id {plan.run_id}",
    )
    assert plan.run_uri == f"/runs/{plan.run_id}"
    assert plan.layout.run_json == f"/runs/{plan.run_id}/run.json"
    assert plan.stage("train").gpus == 8


def test_round_trip() -> None:
    options = RunOptions(run_id="potsdam-1", from_stage="chip", rerun="train", test=False)
    plan = make_plan(experiment(args={"raw_uri": ["ä", {"b": None}], "lr": 1e-3}), options)
    stored = json.loads(json.dumps(plan.to_dict()))
    assert Plan.from_dict(stored) == plan
    assert set(stored) >= {"runId", "projectDir", "rootUri", "fromStage", "goOn"}
    del stored["rootUri"]
    with pytest.raises(InputError, match=r"run\.json: .*plan has no rootUri; .*new run"):
        Plan.from_dict(stored)


def test_run_ids() -> None:
    ids = {new_run_id("potsdam-resnet18") for _ in range(20)}
    assert len(ids) > 1
    for run_id in ids:
        assert re.fullmatch(r"potsdam-resnet18-\d{8}-\d{6}-[0-9a-f]{4}", run_id)
    assert len(new_run_id("x" * 40)) <= 63


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("1", "1"), ("no", "no"), ("", "")]
)
def test_arguments_of_the_command_line(text: str, value: object) -> None:
    """As Raster Vision: only true and false are more than strings."""
    plan = make_plan(experiment(), RunOptions(args={"lr": text}))
    assert plan.args["lr"] == value
    assert type(plan.args["lr"]) is type(value)


def test_test() -> None:
    lines = refused(RunOptions(test=True))
    check_lines(lines, ["--test: get_config…test; …raw_uri, lr"])
    signature = Signature("get_config", ("test",), ("test",))
    plan = make_plan(experiment(signature=signature), RunOptions(test=True))
    assert plan.args["test"] is True
    assert " --test " in plan.go_on


def test_all_mistakes_at_once() -> None:
    options = RunOptions(
        args={"lrr": "1", "root_uri": "x"},
        root_uri="ftp://x",
        rerun="all",
        from_stage="chip",
        gpus=2,
        machine_gpus=0,
    )
    wanted = [
        "-a lrr: get_config…lr?",
        "-a root_uri: root_uri…rvk8s…rootUri…--root-uri…",
        "rvk8s.yaml:3: experiments.potsdam: get_config…raw_uri; …-a raw_uri VALUE",
        "--root-uri: ftp://…not supported; …s3://bucket/prefix",
        "--gpus: 2…has none; …CPU…`rvk8s submit`…`rvk8s plan -n NAMESPACE`…",
        "--from: …--run-id…`rvk8s list`…",
        "--rerun: …--run-id…`rvk8s list`…",
    ]
    check_lines(refused(options, args={}), wanted)


def test_what_else_is_refused() -> None:
    signature = Signature("get_config", ("a", "b"), ("a", "b"))
    (line,) = refused(RunOptions(), signature=signature, args={})
    assert says(line, "…arguments a, b; …-a a VALUE")
    (line,) = refused(RunOptions(), root_uri=None)
    assert says(line, "no root URI…; …rootUri…rvk8s.yaml…")
    for run_id in ("", "Potsdam", "a_b", "-a", "a-", "a/b", "x" * 64):
        (line,) = refused(RunOptions(run_id=run_id))
        assert says(line, f"--run-id: {run_id!r}…not the name…")
    (line,) = refused(RunOptions(gpus=3, machine_gpus=2))
    wanted = "--gpus: 3…machine has 2; …2; …cluster…`rvk8s submit`…`rvk8s plan -n NAMESPACE`"
    assert says(line, wanted)


@pytest.mark.parametrize(
    ("in_file", "option", "machine", "train"),
    [
        (None, None, None, 0),
        (4, None, None, 4),
        (4, 2, None, 2),
        (None, None, 0, 0),
        (None, None, 8, 1),
        (4, None, 0, 0),
        (4, None, 8, 4),
        (0, None, 8, 0),
        (4, 2, 8, 2),
        (4, 0, 8, 0),
    ],
)
def test_gpus(in_file: int | None, option: int | None, machine: int | None, train: int) -> None:
    plan = make_plan(experiment(gpus=in_file), RunOptions(gpus=option, machine_gpus=machine))
    assert plan.stage("train").gpus == train
    assert plan.stage("predict").gpus == min(train, 1)
    assert {s.gpus for s in plan.stages if s.name not in ("train", "predict")} == {0}


def test_rerun() -> None:
    def rerun(stage: str | None) -> tuple[str, ...]:
        return make_plan(experiment(), RunOptions(run_id="r", rerun=stage)).rerun

    assert rerun(None) == ()
    assert rerun("predict") == ("predict", "eval", "bundle")
    assert rerun("all") == STAGES
    # The command that goes on does not do it once more.
    assert "--rerun" not in make_plan(experiment(), RunOptions(run_id="r", rerun="all")).go_on


def test_go_on_is_a_shell_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = RunOptions(args={"raw_uri": "a b"}, root_uri="r", file="../x.yaml", gpus=0)
    plan = make_plan(experiment(), options)
    assert plan.root_uri == str(tmp_path / "r")
    assert plan.go_on == (
        f"rvk8s run potsdam -f ../x.yaml -a raw_uri 'a b' --gpus 0 --root-uri {tmp_path}/r"
        f" --run-id {plan.run_id}"
    )


@pytest.mark.parametrize(
    ("root", "absolute"),
    [
        ("runs", "/p/runs"),
        ("../runs/", "/runs"),
        ("/a//b/", "/a/b"),
        ("~/x", os.path.expanduser("~/x")),
        ("s3://b", "s3://b"),
        ("s3://b/p/", "s3://b/p"),
        ("./s3:/x", "/p/s3:/x"),
        ("s3/x", "/p/s3/x"),
        ("a:b", "/p/a:b"),
    ],
)
def test_absolute_root(root: str, absolute: str) -> None:
    assert absolute_root(root, "/p", "rootUri") == absolute


@pytest.mark.parametrize("root", ["", " ", "s3:/b/p", "s3:b", "S3:/b", "gs:/b", "file:/p"])
def test_roots_that_would_be_odd_folders(root: str) -> None:
    said = "half of a URI" if root.strip() else "empty"
    with pytest.raises(InputError, match=f"^--root-uri: .*{said}.* s3://bucket/prefix"):
        absolute_root(root, "/p", "--root-uri")


@pytest.mark.parametrize(
    ("values", "splits"),
    [
        ((), {}),
        (("4",), {"chip": 4, "predict": 4}),
        (("chip=4,predict=2",), {"chip": 4, "predict": 2}),
        (("4", "predict=2"), {"chip": 4, "predict": 2}),
    ],
)
def test_splits(values: tuple[str, ...], splits: dict[str, int]) -> None:
    assert parse_splits(values) == splits


@pytest.mark.parametrize(
    "value", ["0", "-1", "x", "", "chip=", "chip=0", "train=2", "=2", "1,", "²"]
)
def test_bad_splits(value: str) -> None:
    with pytest.raises(InputError, match=r"--splits: .*--splits chip=4,predict=2"):
        parse_splits([value])


def test_gpu_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_count(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    for visible, count in (("0,1", 2), ("", 0), ("1", 1), ("0,-1,1", 1), ("0,1,2,3", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_count(tmp_path) == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_count(tmp_path) == 3


@pytest.mark.parametrize(
    ("says", "count"),
    [
        ("echo 'GPU 0: A (UUID: GPU-1)'; echo '  MIG 1g: x'; echo 'GPU 1: B (UUID: GPU-2)'", 2),
        ("echo No devices were found; exit 6", 0),
        ("exec sleep 60", 0),
    ],
)
def test_gpu_count_of_wsl(
    says: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_PATIENCE", 0.5)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{says}\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_count(tmp_path) == 0, "nothing is asked where there is no GPU"
    (tmp_path / "dxg").touch()
    assert gpu_count(tmp_path) == count
    monkeypatch.setattr(machine, "_WSL_TOOL", str(tool))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert gpu_count(tmp_path) == count
