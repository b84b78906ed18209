"""The train stage with several ranks: real processes, gloo, on this machine.

Where several trainings are broken the ranks are forks of their agent (forked_ranks.py).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import forks
import pytest
from forked_ranks import name_of
from rastervision.kubernetes import launch
from said import says
from tinyrun import FOLDER, make_plan, outputs, write_run_json

from rvk8s import storage
from rvk8s.contract import Env, ExitCode
from rvk8s.engines.processes import ProcessLauncher, gpus_of
from rvk8s.errors import InputError, RanksLost
from rvk8s.plan import Plan, Stage

pytestmark = pytest.mark.slow

TWO = {Env.RANKS_PER_NODE: "2", Env.THREADS: "2"}
#: Eight batches in two epochs: this one is in the middle of the second.
BROKEN = {
    "PYTHONPATH": str(FOLDER / "broken_rank"),
    "BREAK_RANK": "1",
    "BREAK_BATCH": "6",
}


class Chipped:
    """A run that has its chips, so that it can be trained again and again."""

    def __init__(self, plan: Plan, launcher: forks.ForkLauncher):
        self.plan, self.launcher, self.layout = plan, launcher, plan.layout

    def train(self, env: dict[str, str], **more: Any) -> int:
        return self.launcher.run_one("train", env=env, **more)

    def forget(self) -> None:
        storage.delete_tree(self.layout.stage_dir("train"))
        storage.delete_tree(self.layout.at("train"))
        (self.launcher.logs / "train-0.txt").unlink(missing_ok=True)

    @property
    def failed(self) -> dict[str, Any] | None:
        return storage.read_json(self.layout.failed("train"))

    @property
    def log(self) -> str:
        return (self.launcher.logs / "train-0.txt").read_text()

    @property
    def outputs(self) -> dict[str, str]:
        return outputs(self.layout.at("train"))

    def ranks(self) -> list[int]:
        """Forked ranks that train for this run; not those that only wait to be reaped."""
        name, found = name_of(self.plan.run_uri), []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                before, _, after = path.read_text().rpartition(")")
                if before.partition("(")[2] == name and after.split()[0] != "Z":
                    found.append(int(path.parent.name))
        return found

    def end(self) -> None:
        """What a test that failed has left."""
        for pid in self.ranks():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def chipped(
    server: forks.StageServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chipped]:
    root = tmp_path_factory.mktemp("ranks")
    plan = make_plan(root, tiny_data)
    write_run_json(plan)
    launcher = forks.ForkLauncher(plan, server, root / "logs")
    for stage in ("configure", "analyze", "chip"):
        assert launcher.run_one(stage) == 0
    run = Chipped(plan, launcher)
    yield run
    run.end()


@pytest.fixture(scope="module")
def trained(chipped: Chipped) -> dict[str, str]:
    """What two ranks write that nobody disturbs."""
    chipped.forget()
    assert chipped.train(TWO) == 0
    log = chipped.log
    assert log.count("2 ranks with gloo") == 1
    assert log.count("epoch 1/2") == log.count("epoch 2/2") == 1
    assert storage.read_json(chipped.layout.done("train"))
    assert storage.read_json(chipped.layout.progress("train"))["epoch"] == 2  # type: ignore[index]
    assert json.loads(storage.read_bytes(chipped.layout.at("train", "metrics.json")))["ranks"] == 2
    # Done already: the ranks are not even started.
    assert chipped.train(TWO) == 0
    assert chipped.log.count("2 ranks each") == log.count("2 ranks each")
    return chipped.outputs


def test_killed_and_started_again(chipped: Chipped, trained: dict[str, str]) -> None:
    """A rank killed, the agent told to end, the agent killed: the results are the same."""
    chipped.forget()
    assert chipped.train({**TWO, **BROKEN, "BREAK_HOW": "kill"}) == ExitCode.KILLED
    assert chipped.failed
    assert says(chipped.failed["message"], "rank 1 of 2…SIGKILL…")
    assert _wait_for(lambda: not chipped.ranks(), 5)
    # From the checkpoint of the first epoch on.
    slow = {**TWO, **BROKEN, "BREAK_HOW": "hang", "BREAK_BATCH": "2"}
    for number, code in ((signal.SIGTERM, ExitCode.PREEMPTED), (signal.SIGKILL, ExitCode.KILLED)):
        storage.delete_file(chipped.layout.progress("train"))
        pid = chipped.launcher.start_one("train", env=slow)
        assert _wait_for(lambda: storage.exists(chipped.layout.progress("train")), 120)
        assert len(chipped.ranks()) == 2
        began = time.monotonic()
        os.kill(pid, number)
        assert _wait_for(lambda: chipped.launcher.server.code(pid), 15) == code  # noqa: B023
        assert time.monotonic() - began < 10
        assert _wait_for(lambda: not chipped.ranks(), 5)
    assert chipped.train(TWO) == 0
    assert not chipped.failed
    assert chipped.outputs == trained


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("raise", ExitCode.FAILED, "rank 1: ValueError: …"),
        ("hang", ExitCode.RETRYABLE, "…waited 4 s…"),
    ],
)
def test_a_broken_rank_ends_all(chipped: Chipped, how: str, code: int, message: str) -> None:
    chipped.forget()
    env = {**TWO, **BROKEN, "BREAK_HOW": how, Env.RANKS_TIMEOUT: "4"}
    assert chipped.train(env) == code
    assert chipped.failed
    assert chipped.failed["exitCode"] == code
    assert says(chipped.failed["message"], message)
    if how == "raise":
        assert "broken on purpose" in chipped.failed["message"]
        assert 'raise ValueError("broken on purpose")' in chipped.log, "the traceback"
    assert not storage.exists(chipped.layout.done("train"))
    assert not chipped.ranks()


@pytest.mark.parametrize("how", ["well", "broken"])
def test_two_nodes_meet(chipped: Chipped, trained: dict[str, str], how: str) -> None:
    """Two agents with a rank each, as two pods are told by the training operator."""
    chipped.forget()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "PET_NNODES": "2:2",
        "PET_NPROC_PER_NODE": "1",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"localhost:{port}",
        "PET_RDZV_ID": chipped.plan.run_id,
        Env.WORLD_SIZE: "2",
        Env.THREADS: "1",
        "GLOO_SOCKET_IFNAME": "lo",
        # The operator's are of the pod.
        "RANK": "1",
        **({**BROKEN, "BREAK_HOW": "raise"} if how == "broken" else {}),
    }
    pids = [chipped.launcher.start_one("train", env=env) for _ in range(2)]
    codes: dict[int, int] = {}
    end = time.monotonic() + 150
    while len(codes) < 2:
        assert time.monotonic() < end, f"two nodes hang\n{chipped.log}"
        for pid in set(pids) - codes.keys():
            code = chipped.launcher.server.code(pid)
            if code is not None:
                codes[pid] = code
        time.sleep(0.1)
    if how == "well":
        assert list(codes.values()) == [0, 0], chipped.log
        assert chipped.outputs == trained
    else:
        assert sorted(codes.values()) == [ExitCode.FAILED, ExitCode.RETRYABLE], chipped.log
        assert chipped.failed
        assert chipped.failed["message"].startswith("rank 1: ValueError: ")


def test_rvk8s_run_ranks(chipped: Chipped, trained: dict[str, str]) -> None:
    """The whole pipeline as a user starts it, where the chips are there: client, stages, agent and
    ranks are programs."""
    chipped.forget()
    plan = chipped.plan
    command = [sys.executable, "-m", "rvk8s.cli", "run", "tiny", "-f", str(FOLDER / "rvk8s.yaml")]
    for key, value in plan.args.items():
        command += ["-a", key, str(value)]
    command += ["--root-uri", plan.root_uri, "--run-id", plan.run_id, "--ranks", "2", "-o", "json"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    states = {one["name"]: one["state"] for one in json.loads(answer.stdout)["stages"]}
    assert states["chip"] == "Skipped"
    assert states["train"] == states["bundle"] == "Succeeded"
    assert chipped.outputs == trained


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PET_NNODES": "2", "PET_NPROC_PER_NODE": "2"}, "2 nodes .*c10d"),
        ({Env.RANKS_PER_NODE: "2", Env.WORLD_SIZE: "4"}, "engine .*4 processes"),
        ({Env.RANKS_PER_NODE: "2", "PET_NPROC_PER_NODE": "4"}, "is 2, PET_NPROC_PER_NODE 4"),
        ({"PET_NPROC_PER_NODE": "many"}, "'many' is no number"),
    ],
)
def test_contradictions(env: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launch.Launch.from_environ(env)


def test_what_the_engines_say() -> None:
    env = {"PET_NNODES": "3:3", "PET_NPROC_PER_NODE": "auto", Env.RANKS_PER_NODE: "2"}
    env |= {"PET_RDZV_ENDPOINT": "host:1", "PET_RDZV_CONF": "timeout=1800,last_call_timeout=5"}
    found = launch.Launch.from_environ(env)
    assert (found.nodes, found.per_node, found.world_size) == (3, 2, 6)
    expected = {"timeout": 1800, "join_timeout": 900, "read_timeout": 900, "last_call_timeout": "5"}
    assert found.rendezvous() == expected
    assert launch.Launch.from_environ({}).world_size == 1


def test_a_host_that_never_resolves() -> None:
    began = time.monotonic()
    with pytest.raises(RanksLost, match=r"^nowhere\.invalid, .*nodes meet"):
        launch.wait_for_host("nowhere.invalid:29400", seconds=0.5)
    assert time.monotonic() - began < 20


def test_gpus_of_processes_that_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [gpus_of(1, slot, ["0", "1"]) for slot in range(3)] == ["0", "1", "0"]
    assert gpus_of(2, 0, ["3", "5", "7"]) == "3,5"
    assert gpus_of(0, 0, ["0"]) == gpus_of(1, 1, []) == ""
    monkeypatch.setattr("rvk8s.engines.processes.gpu_names", lambda: ["0", "1"])
    launcher = ProcessLauncher(make_plan(tmp_path, tmp_path), tmp_path)
    env = launcher.environment(Stage("predict", splits=2, gpus=1), 1, 2, 1, slot=1)
    assert (env["CUDA_VISIBLE_DEVICES"], env[Env.GPUS]) == ("1", "1")
    assert Env.RANKS_PER_NODE not in env
    env = launcher.environment(Stage("train", gpus=2, ranks=2), 0, 1, 4)
    assert (env["CUDA_VISIBLE_DEVICES"], env[Env.RANKS_PER_NODE]) == ("0,1", "2")


def _wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """What the condition gives, as soon as it is true; else what it gave last."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found
