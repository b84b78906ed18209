"""`rvk8s run potsdam` as a user starts it, on synthetic scenes: stopped while it trains, gone on
with by the command that it prints, and looked at when it is done.

Its stages are forks, but for the training that is stopped and the one that goes on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from PIL import Image

from rvk8s.contract import Env, ExitCode

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
#: Small: 16 chips of 128 pixels, and a network that is quick; epochs enough to be stopped in one.
ARGS = {
    "train_ids": "6_10",
    "val_ids": "2_12",
    "pretrained": "false",
    "arch": "deeplabv3",
    "backbone": "squeezenet1_1",
    "num_epochs": "6",
    "chip_sz": "128",
    "pred_chip_size": "256",
    "lr": "0.001",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    draw = [sys.executable, str(REPOSITORY / "examples/synthetic.py"), str(out), "--gsd", "0.1"]
    subprocess.run([*draw, "--scenes", "6_10", "2_12", "--size", "512"], check=True)
    return out


@pytest.mark.timeout(500)
def test_stopped_while_it_trains_and_gone_on_with(raw: Path, tmp_path: Path, table: Bench) -> None:
    root, environ = tmp_path / "root", _environ(table)
    args = [word for name, value in ARGS.items() for word in ("-a", name, value)]
    command = ["rvk8s", "run", "potsdam", "-f", str(REPOSITORY / "rvk8s.yaml"), "--splits", "1"]
    command += ["--root-uri", str(root), "-a", "raw_uri", str(raw), *args]
    said = _stopped_in_train(command, root, environ)
    (run,) = root.iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "Cancelled"
    states = {stage["name"]: stage["state"] for stage in record["stages"]}
    assert states["configure"] == states["chip"] == "Succeeded"
    assert states["train"] == "Cancelled"
    assert states["predict"] == "Pending"
    chipped = (run / ".rvk8s/chip/done.json").read_bytes()
    seconds = {stage["name"]: stage["seconds"] for stage in record["stages"]}

    (go_on,) = re.findall(r"go on with\n\s*(rvk8s run .*)", said)
    done = subprocess.run(shlex.split(go_on), capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert "chip: skipped, found done" in done.stderr
    assert (run / ".rvk8s/chip/done.json").read_bytes() == chipped
    assert "going on after epoch" in (run / ".rvk8s/train/log.txt").read_text()
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "Succeeded"
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert stages["chip"]["state"] == "Skipped"
    assert stages["chip"]["seconds"] == seconds["chip"], "the seconds of the skip"
    _look_at(run, done.stdout)


def _stopped_in_train(command: list[str], root: Path, environ: dict[str, str]) -> str:
    """Start a run, interrupt it while it trains, and return what it says on stderr."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        start_new_session=True,
    )
    try:
        progress = _wait_for(lambda: next(root.glob("*/.rvk8s/train/progress.json"), None), process)
        # The checkpoint of the first epoch.
        _wait_for(lambda: list(root.glob("*/train/last.pt")), process)
        child = json.loads((progress.parent / "heartbeat.json").read_text())["pid"]
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=20)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED, said
    assert "Traceback" not in said
    assert not _alive(child)
    assert out == ""
    return said


def _look_at(run: Path, printed: str) -> None:
    """The scores, the picture and the bundle of a run that is done."""
    scores = json.loads((run / "eval/scores.json").read_text())
    assert set(scores["scenes"]) == {"2_12"}
    overall = scores["overall"]
    assert overall["pixels"] == 512 * 512
    assert 0.05 < overall["macroF1"] <= 1
    assert "macro F1" in printed
    assert "Impervious" in printed
    with Image.open(run / "eval/pictures/2_12.png") as picture:
        assert picture.width > 500
    rows = (run / "train/log.csv").read_text().splitlines()
    assert len(rows) == 1 + int(ARGS["num_epochs"])
    assert (run / "bundle/model-bundle.zip").stat().st_size > 10_000_000
    logs = "".join(log.read_text() for log in run.glob(".rvk8s/*/log.txt"))
    assert logs.count("labels without a CRS") == 1
    assert "NotGeoreferenced" not in logs


def _environ(table: Bench) -> dict[str, str]:
    path = f"{table.rvk8s.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, Env.THREADS: "1"}


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    end = time.monotonic() + 240
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found
