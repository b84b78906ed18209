"""Every stage, killed at several moments and started again, ends in the same results."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forks import ForkLauncher, StageServer
from s3server import S3Server
from said import says
from tinyrun import COMMANDS, Reference, make_plan, outputs, write_run_json

from rvk8s import storage
from rvk8s.contract import STAGES, Env, ExitCode
from rvk8s.plan import Plan
from rvk8s.storage import s3_objects

#: Shares of a stage's time at which it is killed, one attempt after the other.
MOMENTS = [(0.3, signal.SIGKILL), (0.7, signal.SIGTERM)]
MORE_MOMENTS = [
    (0.2, signal.SIGKILL),
    (0.5, signal.SIGTERM),
    (0.75, signal.SIGKILL),
    (0.95, signal.SIGTERM),
]


def _forget(plan: Plan, stage: str) -> None:
    shutil.rmtree(plan.layout.stage_dir(stage))
    if stage in COMMANDS:
        shutil.rmtree(plan.layout.at(stage))


def _found(plan: Plan, stage: str) -> dict[str, str]:
    if stage in COMMANDS:
        return outputs(plan.layout.at(stage))
    return {"config": storage.read_bytes(plan.layout.config_uri).decode()}


def _killed(reference: Reference, stage: str, share: float, number: signal.Signals) -> int:
    """Kill a stage at a share of its time, earlier if it was quicker than in the reference."""
    seconds = share * reference.seconds[stage]
    while (code := reference.launcher.run_one(stage, kill=(seconds, number))) == 0:
        if number != signal.SIGKILL:
            break
        _forget(reference.plan, stage)
        seconds /= 2
    return code


@pytest.mark.parametrize(
    "moments", [MOMENTS, pytest.param(MORE_MOMENTS, marks=pytest.mark.slow)], ids=["two", "four"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_started_again(
    reference: Reference, stage: str, moments: list[tuple[float, signal.Signals]]
) -> None:
    plan, launcher = reference.plan, reference.launcher
    _forget(plan, stage)
    for share, number in moments:
        code = _killed(reference, stage, share, number)
        if number == signal.SIGKILL:
            assert code == ExitCode.KILLED
        else:  # it may have ended in the meantime
            assert code in (0, ExitCode.KILLED, ExitCode.PREEMPTED)
    assert launcher.run_one(stage) == 0
    assert _found(plan, stage) == reference.outputs[stage]
    assert storage.exists(plan.layout.done(stage))
    assert not storage.exists(plan.layout.failed(stage))


@pytest.mark.parametrize(
    ("stage", "published"),
    [("analyze", 1), ("chip", 0), ("chip", 2), ("predict", 0), ("predict", 1), ("eval", 2)],
)
def test_killed_while_outputs_are_published(
    reference: Reference, stage: str, published: int
) -> None:
    plan, launcher = reference.plan, reference.launcher
    _forget(plan, stage)
    assert launcher.run_one(stage, dieAfterPublishes=published) == ExitCode.KILLED
    assert not storage.exists(plan.layout.done(stage))
    assert launcher.run_one(stage) == 0
    assert _found(plan, stage) == reference.outputs[stage]


def test_a_scene_that_is_predicted_is_kept(reference: Reference) -> None:
    plan, launcher = reference.plan, reference.launcher
    _forget(plan, "predict")
    assert launcher.run_one("predict", dieAfterPublishes=1) == ExitCode.KILLED
    scene = Path(plan.layout.at("predict", "val_a", "labels.tif"))
    before = scene.stat().st_mtime_ns
    assert launcher.run_one("predict") == 0
    assert scene.stat().st_mtime_ns == before
    assert says((launcher.logs / "predict-0.txt").read_text(), "…val_a…predicted already…")


def test_killed_while_old_outputs_are_cleared(reference: Reference) -> None:
    """The marker of a scene is there, its prediction is gone: neither counts."""
    plan, launcher = reference.plan, reference.launcher
    layout = plan.layout
    storage.write_json(f"{layout.stage_dir('predict')}/started.json", {"inputs": "", "outputs": []})
    storage.delete_file(layout.done("predict"))
    storage.delete_file(layout.at("predict", "val_a", "labels.tif"))
    assert launcher.run_one("predict") == 0
    assert _found(plan, "predict") == reference.outputs["predict"]


def test_sigterm_says_preempted(reference: Reference) -> None:
    plan, launcher = reference.plan, reference.launcher
    _forget(plan, "train")
    middle = reference.seconds["train"] / 2
    while (code := launcher.run_one("train", kill=(middle, signal.SIGTERM))) == 0:
        _forget(plan, "train")  # it was twice as fast as before
        middle /= 2
    assert code == ExitCode.PREEMPTED
    failed = storage.read_json(plan.layout.failed("train"))
    assert failed
    assert failed["exitCode"] == ExitCode.PREEMPTED
    assert launcher.run_one("train") == 0
    assert _found(plan, "train") == reference.outputs["train"]


@pytest.mark.slow
def test_a_signal_is_told_whatever_error_others_make_of_it(tiny_data: Path, tmp_path: Path) -> None:
    """Also: it comes on a stack of its own, which faulthandler has made."""
    (tmp_path / "swallows.py").write_text(
        "import faulthandler, os, signal\n\n\n"
        "def get_config(runner, **args):\n"
        "    assert faulthandler.is_enabled()\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except BaseException:\n"
        "        pass\n"
        "    raise RuntimeError('half a file')\n"
    )
    plan = make_plan(tmp_path, tiny_data, module="swallows.py", project_dir=str(tmp_path))
    write_run_json(plan)
    command = [sys.executable, "-m", "rastervision.kubernetes.stage", "configure"]
    environ = {**os.environ, Env.RUN_URI: plan.run_uri}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == ExitCode.PREEMPTED, done.stderr
    assert says(done.stderr, "…SIGTERM; …restart…")


#: On S3: after how many of its outputs were uploaded a stage is killed, in a further attempt.
UPLOADED = {"analyze": 0, "chip": 2, "predict": 1, "eval": 1, "bundle": 0}


@pytest.mark.slow
def test_killed_on_s3(
    reference: Reference, server: StageServer, tiny_data: Path, tmp_path: Path, s3: S3Server
) -> None:
    """All stages of a run on S3, each killed several times, give what nobody disturbed gave."""
    uri = s3.bucket("killed")
    storage.upload_dir(tiny_data, f"{uri}/data")
    plan = make_plan(f"{uri}/runs", f"{uri}/data")
    write_run_json(plan)
    launcher = ForkLauncher(plan, server, tmp_path, {**s3.environ, "TMPDIR": str(tmp_path)})
    for stage in STAGES:
        codes = []
        if stage in UPLOADED:
            codes.append(launcher.run_one(stage, dieAfterPublishes=UPLOADED[stage]))
            assert codes == [ExitCode.KILLED]
        for share, number in MOMENTS[1:]:
            codes.append(launcher.run_one(stage, kill=(share * reference.seconds[stage], number)))
        assert set(codes) <= {0, ExitCode.KILLED, ExitCode.PREEMPTED}, stage
        assert launcher.run_one(stage) == 0, stage
        assert storage.exists(plan.layout.done(stage))
        assert not storage.exists(plan.layout.failed(stage))
        if stage in COMMANDS:
            found, expected = outputs(plan.layout.at(stage)), reference.outputs[stage]
            assert set(found) == set(expected), stage
            # The bundle holds the config, with the URIs of the run.
            assert found == expected or stage == "bundle"
    pictures = storage.list_files(plan.layout.pictures)
    assert sorted(pictures) == ["val_a.png", "val_b.png"]
    answer = s3_objects.client().list_multipart_uploads(Bucket="killed")
    assert not answer.get("Uploads"), "an unfinished upload is left"
