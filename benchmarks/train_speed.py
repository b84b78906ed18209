"""Training images/s of the fastai backend beside Raster Vision's own learner, in turn.

    python benchmarks/train_speed.py --size 300 --batch 8 --steps 20 --runs 5

Both train the same network from the same weights on the same chips, with the same batch size and
the same, constant learning rate. Raster Vision's learner gets its chips as tensors in memory, which
is faster than the PNG files that its backend reads; ours reads a ChipSource. Each training has a
process of its own, since ours sets how its process keeps memory. Time is the CPU time of that
process, so that other work on the machine disturbs less; the loss is the mean over the last quarter
of the steps. The two are shown other chips of the same set in each step, so of one run they differ;
the median of their ratios over all runs has to be 1 within --tolerance, else the exit code is 1.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rastervision.fastai_backend import learner, models
from rastervision.fastai_backend.callbacks import Saver
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import TrainSettings

CLASSES = Classes(("ground", "house", "road", "tree", "car", "other"), ("grey",) * 6)


def make_chips(n: int, size: int) -> ArrayChips:
    """Rectangles of each class, of a color of its own, with noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((n, size, size), np.uint8)
    for chip in labels:
        for c in range(1, len(CLASSES)):
            y, x = rng.integers(0, size * 3 // 4, 2)
            chip[y : y + size // 3, x : x + size // 3] = c
    colors = rng.integers(40, 210, (len(CLASSES), 3))
    pixels = colors[labels] + rng.normal(0, 25, (n, size, size, 3))
    return ArrayChips(np.clip(pixels, 1, 255).astype(np.uint8), labels, len(CLASSES))


class Clock:
    """CPU seconds from the end of the first step on (it holds one-time work), and the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.start = self.end = 0.0

    def step(self, loss: float) -> None:
        self.losses.append(loss)
        self.end = time.process_time()
        if len(self.losses) == 1:
            self.start = self.end

    def result(self, batch: int) -> tuple[float, float]:
        """(images/s, loss)."""
        steps = len(self.losses) - 1
        last = self.losses[-max(1, len(self.losses) // 4) :]
        return steps * batch / (self.end - self.start), statistics.mean(last)


def ours(chips: ArrayChips, args: argparse.Namespace, weights: Path) -> tuple[float, float]:
    """Train with the fastai backend."""
    clock, after_batch = Clock(), Saver.after_batch

    def record(self: Saver) -> None:
        after_batch(self)
        if self.learn.training:
            clock.step(float(self.learn.loss))

    Saver.after_batch = record
    model = {"arch": args.arch, "backbone": args.backbone, "pretrained_uri": str(weights)}
    solver = {"batch_sz": args.batch, "num_epochs": 1, "lr": args.lr, "schedule": "constant"}
    settings = TrainSettings(
        model=model, solver=solver, data={"flip_horiz": False, "normalize": "scale"}
    )
    valid = make_chips(2, args.size)
    with tempfile.TemporaryDirectory() as folder:
        learner.train(settings, chips, valid, CLASSES, Path(folder))
    Saver.after_batch = after_batch
    return clock.result(args.batch)


def theirs(
    chips: ArrayChips, args: argparse.Namespace, spec: models.ModelSpec, weights: Path
) -> tuple[float, float]:
    """Train with Raster Vision's SemanticSegmentationLearner."""
    from rastervision.core.data import ClassConfig
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
        SolverConfig,
    )
    from torch.utils.data import TensorDataset

    clock = Clock()

    class Timed(SemanticSegmentationLearner):
        def train_step(self, batch, batch_ind):
            output = super().train_step(batch, batch_ind)
            clock.step(float(output["train_loss"].detach()))
            return output

    images = torch.from_numpy(chips.images).permute(0, 3, 1, 2).float() / 255
    dataset = TensorDataset(images.contiguous(), torch.from_numpy(chips.labels).long())
    model = models.build(spec).to(memory_format=torch.contiguous_format)
    model.load_state_dict(torch.load(weights, weights_only=True))
    config = SemanticSegmentationLearnerConfig(
        data=SemanticSegmentationGeoDataConfig(
            class_config=ClassConfig(names=list(CLASSES.names)), num_workers=0
        ),
        solver=SolverConfig(batch_sz=args.batch, num_epochs=1, lr=args.lr, one_cycle=False),
    )
    with tempfile.TemporaryDirectory() as folder:
        learn = Timed(
            config,
            output_dir=folder,
            train_ds=dataset,
            valid_ds=TensorDataset(*dataset[:2]),
            model=model,
        )
        learn.train_epoch(learn.opt, step_scheduler=learn.step_scheduler)
    return clock.result(args.batch)


def alone(side: Callable[..., tuple[float, float]], *args: object) -> tuple[float, float]:
    """Call `side` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_quietly, side, *args).result()


def _quietly(side: Callable[..., tuple[float, float]], *args: object) -> tuple[float, float]:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    (options,) = (arg for arg in args if isinstance(arg, argparse.Namespace))
    torch.set_num_threads(options.threads)
    return side(*args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="unet")
    parser.add_argument("--backbone", default="resnet18")
    for name, value in (("size", 300), ("batch", 8), ("steps", 20), ("runs", 1), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--tolerance", type=float, default=0.15)
    args = parser.parse_args()
    chips = make_chips(args.batch * args.steps, args.size)
    colors = CLASSES.colors
    spec = models.ModelSpec(
        args.arch,
        args.backbone,
        3,
        CLASSES.names,
        colors,
        None,
        (0.0,) * 3,
        (255.0,) * 3,
        args.size,
    )
    ratios, losses = [], []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        for run in range(args.runs):
            torch.manual_seed(run)
            torch.save(models.build(spec).state_dict(), weights)
            rv_speed, rv_loss = alone(theirs, chips, args, spec, weights)
            speed, loss = alone(ours, chips, args, weights)
            ratios.append(speed / rv_speed)
            losses.append(loss / rv_loss)
            print(
                f"run {run}: Raster Vision {rv_speed:.2f} images/s, loss {rv_loss:.3f}; "
                f"fastai backend {speed:.2f} images/s, loss {loss:.3f}; ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"ratio: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}")
    found = statistics.median(losses)
    print(f"loss of the fastai backend / of Raster Vision: median {found:.3f}")
    if not abs(found - 1) <= args.tolerance:  # nan, too
        sys.exit(f"the losses are not equal within {args.tolerance:.0%}")


if __name__ == "__main__":
    main()
