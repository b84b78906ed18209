"""Ranks for tests: forked processes that train together over gloo."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rastervision.fastai_backend import learner
from rastervision.fastai_backend.callbacks import TIMES
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import TrainSettings

#: Called in a rank before it trains, with its number.
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
        port = free_port()
        fork = multiprocessing.get_context("fork")

        def work(rank: int) -> None:
            os.environ.update(env or {})
            if ranks > 1:
                os.environ.update(torchrun(rank, ranks, port))
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


def torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun would set for a rank of this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def ranked(classes: Classes, tmp_path: Path) -> Ranked:
    return Ranked(classes, tmp_path)
