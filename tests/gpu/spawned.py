"""Ranks on GPUs. A process that has used CUDA can't fork, so they are spawned."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from ranked import free_port, torchrun


def train_together(folder: Path, ranks: int, *args: Any) -> list[str]:
    """Train in `folder`; what each rank ended with: "ok" or an error.

    Args:
        args: settings, training chips, validation chips and classes, as learner.train takes them.
    """
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    with spawn.Pool(ranks) as pool:
        jobs = [
            pool.apply_async(_rank, (torchrun(rank, ranks, port), args, folder))
            for rank in range(ranks)
        ]
        end = time.monotonic() + 300
        return [job.get(max(1.0, end - time.monotonic())) for job in jobs]


def _rank(env: dict[str, str], args: tuple[Any, ...], folder: Path) -> str:
    os.environ.update(env)
    from rastervision.fastai_backend import learner

    try:
        learner.train(*args, folder)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}"
    return "ok"
