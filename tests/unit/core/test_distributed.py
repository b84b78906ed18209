"""Several ranks train as one would: real processes, gloo, no Raster Vision."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import checks, data, distributed, learner, models
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.callbacks import TIMES, EpochLog
from rastervision.fastai_backend.chip_learner import batch_of_rank
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import DataOptions, TrainSettings
from rastervision.fastai_backend.ranks import Ranks
from torch import nn

from rvk8s.contract import Env, ExitCode
from rvk8s.errors import InputError, Preempted, RanksLost, Rvk8sError

Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]
#: Hooks run in a rank before it trains, with its number.
Hook = Callable[[int], None]


class Ranked:
    """Forks ranks that train together, and gathers how they ended.

    Args:
        settings, chips, valid, classes, folder: as learner.train takes them.
    """

    def __init__(self, classes: Classes, folder: Path):
        self.classes, self.folder = classes, folder

    def __call__(
        self,
        settings: TrainSettings,
        chips: ArrayChips,
        valid: ArrayChips,
        *,
        ranks: int = 2,
        name: str = "train",
        hook: Hook = lambda rank: None,
        env: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """What each rank ended with: "ok", an error, or a signal's number."""
        output, said = self.folder / name, self.folder / f"{name}-said"
        said.mkdir(exist_ok=True)
        port = _free_port()
        fork = multiprocessing.get_context("fork")

        def work(rank: int) -> None:
            os.environ.update(env or {})
            if ranks > 1:
                os.environ.update(_torchrun(rank, ranks, port))
            try:
                hook(rank)
                learner.train(settings, chips, valid, self.classes, output, **kwargs)
                result = "ok"
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                traceback.print_exc()
                result = f"{type(error).__name__}: {error}"
            (said / str(rank)).write_text(result)
            sys.stdout.flush()
            os._exit(0)

        started = [fork.Process(target=work, args=(rank,)) for rank in range(ranks)]
        for process in started:
            process.start()
        end = time.monotonic() + 60
        for process in started:
            process.join(max(0.1, end - time.monotonic()))
        hang = [process for process in started if process.is_alive()]
        for process in hang:
            process.kill()
            process.join()
        assert not hang, "ranks hang"
        return [
            (said / str(rank)).read_text() if p.exitcode == 0 else str(p.exitcode)
            for rank, p in enumerate(started)
        ]

    def rows(self, name: str = "train") -> list[dict[str, float]]:
        with open(self.folder / name / "log.csv", newline="") as f:
            return [
                {k: float(v) for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)
            ]

    def weights(self, name: str = "train") -> dict[str, torch.Tensor]:
        return torch.load(self.folder / name / "last.pt", weights_only=True)["model"]


def _torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def ranked(classes: Classes, tmp_path: Path) -> Ranked:
    return Ranked(classes, tmp_path)


def several(settings: Settings, **solver: Any) -> TrainSettings:
    """All that could differ by rank in data and schedule."""
    return settings(
        data={"dihedral": True, "lighting": 0.2},
        solver={"batch_sz": 4, "num_epochs": 2, "precision": "fp32", "lr": 2e-4, **solver},
    )


def without_dropout(rank: int) -> None:
    nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]


def fixed_statistics(rank: int) -> None:
    """Batch normalization with its running statistics also in training: then the loss of a batch
    is the mean of its halves' losses, and two ranks compute what one does."""
    without_dropout(rank)
    nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)  # type: ignore


class TestEqualLossCurves:
    """Two ranks with half of the batch each, against one rank with all of it.

    With fixed statistics losses agree to 0.1 % and scores to 0.01 (sums are rounded in another
    order, and epochs of Adam enlarge that); where each rank normalizes over its own 8 chips,
    training losses agree to 5 %.
    """

    @pytest.mark.parametrize(
        "solver",
        [
            {},
            {"ignore_class_index": 0, "class_weights": [1.0, 2.0, 3.0], "grad_accum": 2},
            {"freeze_epochs": 1, "num_epochs": 1, "grad_clip": 0.5, "schedule": "flat_cos"},
        ],
        ids=["plain", "weights, ignored class, accumulation", "frozen, clipped"],
    )
    def test_without_batch_statistics(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips, solver: dict[str, Any]
    ) -> None:
        chips, valid, chosen = make_chips(13), make_chips(3, seed=1), several(settings, **solver)
        for ranks in (1, 2):
            said = ranked(
                chosen, chips, valid, ranks=ranks, name=f"of{ranks}", hook=fixed_statistics
            )
            assert said == ["ok"] * ranks
        one, two = ranked.rows("of1"), ranked.rows("of2")
        assert len(one) == len(two) == 2
        for a, b in zip(one, two, strict=True):
            for key in a:
                exact = {"rel": 1e-3} if "loss" in key or key == "lr" else {"abs": 0.01}
                assert a[key] == pytest.approx(b[key], **exact), (key, one, two)

    def test_with_batch_statistics(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips
    ) -> None:
        chips, valid = make_chips(32), make_chips(3, seed=1)
        chosen = several(settings, batch_sz=16, num_epochs=3)
        for ranks in (1, 2):
            said = ranked(
                chosen, chips, valid, ranks=ranks, name=f"of{ranks}", hook=without_dropout
            )
            assert said == ["ok"] * ranks
        one, two = ranked.rows("of1"), ranked.rows("of2")
        for a, b in zip(one, two, strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.05)
