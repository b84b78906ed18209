"""Prediction in megapixels/s beside Raster Vision's own, same weights, a process for each side.

    python benchmarks/predict_speed.py RUN/train/model-bundle.zip scene.tif --runs 5

Both read the scene through Raster Vision and fill its label arrays. Raster Vision's side
is SemanticSegmentationLearner with the same network (the bundle's normalisation is put before it,
because Raster Vision only divides by 255); ours is what the fastai backend runs, in each precision.
Each side has its own process, since ours changes how its process keeps freed memory; they run one
after the other in each run. Time is wall-clock time.
"""

from __future__ import annotations

import argparse
import copy
import logging
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rastervision.core.data import (
    ClassConfig,
    RasterioSource,
    Scene,
    SemanticSegmentationLabels,
    SemanticSegmentationLabelStore,
)
from rastervision.core.rv_pipeline import SemanticSegmentationPredictOptions
from rastervision.fastai_backend import bundle
from rastervision.fastai_backend.backend.scenes import RasterVisionScene, prediction_windows
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor, Votes
from rastervision.pytorch_learner import (
    SemanticSegmentationGeoDataConfig,
    SemanticSegmentationLearner,
    SemanticSegmentationLearnerConfig,
    SolverConfig,
)
from rastervision.pytorch_learner.utils import predict_scene_ss
from torch import nn


class FromUnitRange(nn.Module):
    """The bundle's network for images that were divided by 255."""

    def __init__(self, model: nn.Module, spec: bundle.ModelSpec):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] -> logits."""
        return self.model((x * 255 - self.mean) / self.std)


class Bench:
    """A bundle and a scene, opened for either side.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(args.threads)
        self.model, self.spec = bundle.load_model(args.bundle)
        self.classes = ClassConfig(names=list(self.spec.class_names))
        self.options = SemanticSegmentationPredictOptions(chip_sz=args.chip, batch_sz=args.batch)
        source = RasterioSource(args.scene)
        self.folder = tempfile.TemporaryDirectory()
        store = SemanticSegmentationLabelStore(
            self.folder.name, source.crs_transformer, self.classes
        )
        self.scene = Scene("scene", source, label_store=store)

    def raster_vision(self) -> Callable[[], SemanticSegmentationLabels]:
        """Raster Vision's prediction, without resizing (its img_sz is 256 by default)."""
        chip, batch = self.options.chip_sz, self.options.batch_sz
        data = SemanticSegmentationGeoDataConfig(
            class_config=self.classes, num_workers=0, img_sz=chip
        )
        config = SemanticSegmentationLearnerConfig(data=data, solver=SolverConfig(batch_sz=batch))
        plain = self.model.to(memory_format=torch.contiguous_format)
        learner = SemanticSegmentationLearner(
            config,
            output_dir=self.folder.name,
            model=FromUnitRange(plain, self.spec).eval(),
            training=False,
        )
        return lambda: predict_scene_ss(learner, self.scene, self.options)

    def ours(self, precision: str) -> Callable[[], SemanticSegmentationLabels]:
        """The fastai backend's prediction."""
        kind = "fp32" if precision == "exact" else precision
        settings = PredictSettings(precision=kind, exact=precision == "exact")
        predictor = ScenePredictor(copy.deepcopy(self.model), self.spec, settings)

        def predict() -> SemanticSegmentationLabels:
            labels = SemanticSegmentationLabels.make_empty(self.scene.extent, len(self.classes))
            predictor.predict(
                RasterVisionScene(self.scene),
                prediction_windows(self.scene, self.options),
                Votes(labels.pixel_counts, labels.hit_mask),
                batch_sz=self.options.batch_sz,
            )
            return labels

        return predict


_works: dict[str, Callable[[], SemanticSegmentationLabels]] = {}


def prepare(args: argparse.Namespace, precision: str | None) -> None:
    """In a process of its own: get one side ready. None is Raster Vision's."""
    bench = Bench(args)
    _works["it"] = bench.raster_vision() if precision is None else bench.ours(precision)


@dataclass(frozen=True)
class Prediction:
    """One prediction: wall-clock and CPU time in seconds, class ids (height, width)."""

    seconds: float
    cpu: float
    ids: np.ndarray

    @property
    def speed(self) -> float:
        """Megapixels/s."""
        return self.ids.size / 1e6 / self.seconds


def measure() -> Prediction:
    wall, cpu = time.perf_counter(), time.process_time()
    labels = _works["it"]()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Prediction(wall, cpu, labels.get_label_arr(labels.extent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scene")
    for name, value in (("chip", 300), ("batch", 8), ("runs", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precisions", nargs="+", default=["exact", "fp32", "bf16"])
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    sides = [None, *args.precisions]
    pools = {
        side: ProcessPoolExecutor(1, spawn, initializer=prepare, initargs=(args, side))
        for side in sides
    }
    ratios: dict[str, list[tuple[float, float]]] = {p: [] for p in args.precisions}
    for run in range(args.runs):
        base = pools[None].submit(measure).result()
        parts = [f"run {run}: Raster Vision {base.speed:.3f} Mpx/s"]
        for precision in args.precisions:
            one = pools[precision].submit(measure).result()
            wall, cpu = base.seconds / one.seconds, base.cpu / one.cpu
            ratios[precision].append((wall, cpu))
            equal = (one.ids == base.ids).mean() * 100
            parts.append(
                f"{precision} {one.speed:.3f} ({wall:.2f}x, CPU {cpu:.2f}x, {equal:.4f} % equal)"
            )
        print("; ".join(parts), flush=True)
    for pool in pools.values():
        pool.shutdown()
    for precision, values in ratios.items():
        for clock, ratio in zip(("wall clock", "CPU"), zip(*values, strict=True), strict=True):
            print(
                f"{precision}: ratio by {clock}: median {statistics.median(ratio):.2f}, "
                f"least {min(ratio):.2f}"
            )


if __name__ == "__main__":
    main()
