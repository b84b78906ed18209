"""Why a training of several processes failed: what their agent makes of how they ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rastervision.kubernetes import launch
from rastervision.kubernetes.launch import reason
from said import says
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from rvk8s.contract import Env, ExitCode


def failure(folder: Path, rank: int, exitcode: int, **told: Any) -> ProcessFailure:
    """How a rank ended; `told` is what it wrote for its agent, nothing if empty."""
    path = folder / f"error-{rank}.json"
    if told:
        path.write_text(json.dumps({"timestamp": 1, "lost": False, **told}))
    return ProcessFailure(rank, 100 + rank, exitcode, str(path))


def test_a_rank_that_nccl_ends_has_only_lost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Env.RANKS_TIMEOUT, "60")
    found = reason({5: failure(tmp_path, 5, -signal.SIGABRT)}, 8, gpus=True)
    assert launch.is_lost(found)
    assert launch.code_of(found) == ExitCode.RETRYABLE
    assert says(str(found), "rank 5 of 8…SIGABRT…NCCL…60 s (RVK8S_RANKS_TIMEOUT)…")


@pytest.mark.parametrize(("world_size", "gpus"), [(8, False), (1, True)])
def test_without_nccl_an_abort_is_what_it_is(world_size: int, gpus: bool, tmp_path: Path) -> None:
    found = reason({0: failure(tmp_path, 0, -signal.SIGABRT)}, world_size, gpus)
    assert (launch.code_of(found), found.lost) == (134, False)


def test_what_a_rank_says_goes_before_how_it_ended(tmp_path: Path) -> None:
    told = failure(tmp_path, 1, -signal.SIGABRT, message="no space", code=28, time=9.0)
    aborted = failure(tmp_path, 0, -signal.SIGABRT)
    found = reason({0: aborted, 1: told}, 2, gpus=True)
    assert (str(found), launch.code_of(found), found.lost) == ("no space", 28, False)


def test_a_killed_rank_is_the_reason_and_not_those_that_missed_it(tmp_path: Path) -> None:
    aborted = failure(tmp_path, 0, -signal.SIGABRT)
    lost = failure(tmp_path, 1, 138, message="another rank", code=138, lost=True, time=1.0)
    killed = failure(tmp_path, 2, -signal.SIGKILL)
    found = reason({0: aborted, 1: lost, 2: killed}, 3, gpus=True)
    assert says(str(found), "rank 2 of 3…SIGKILL (out of memory?)")
    assert launch.code_of(found) == ExitCode.KILLED


def test_nccl_waits_as_long_as_ranks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, seconds in (("3600", "3600"), ("60", "480")):
        monkeypatch.setenv(Env.RANKS_TIMEOUT, given)
        assert launch._nccl()["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == seconds
