"""Prediction in megapixels/s beside Raster Vision's own, same weights, in one process.

    python benchmarks/predict_speed.py RUN/train/model-bundle.zip scene.tif --runs 5

Both read the scene through Raster Vision and fill its label arrays. Raster Vision's side
is SemanticSegmentationLearner with the same network (the bundle's normalisation is put before it,
because Raster Vision only divides by 255); ours is what the fastai backend runs, in each precision.
Time is wall-clock time, both sides one after the other in each run.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
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
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor, Votes
from rastervision.fastai_backend.scenes import RasterVisionScene, prediction_windows
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


def timed(work: Callable[[], np.ndarray], pixels: int) -> tuple[float, np.ndarray]:
    """(megapixels/s, result)."""
    start = time.perf_counter()
    result = work()
    return pixels / 1e6 / (time.perf_counter() - start), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scene")
    for name, value in (("chip", 300), ("batch", 8), ("runs", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)

    model, spec = bundle.load_model(args.bundle)
    classes = ClassConfig(names=list(spec.class_names))
    options = SemanticSegmentationPredictOptions(chip_sz=args.chip, batch_sz=args.batch)
    source = RasterioSource(args.scene)
    height, width = source.extent.size
    with tempfile.TemporaryDirectory() as folder:
        store = SemanticSegmentationLabelStore(folder, source.crs_transformer, classes)
        scene = Scene("scene", source, label_store=store)
        config = SemanticSegmentationLearnerConfig(
            data=SemanticSegmentationGeoDataConfig(class_config=classes, num_workers=0),
            solver=SolverConfig(batch_sz=args.batch),
        )
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        theirs = SemanticSegmentationLearner(
            config, output_dir=folder, model=FromUnitRange(plain, spec).eval(), training=False
        )

        def raster_vision() -> np.ndarray:
            labels = predict_scene_ss(theirs, scene, options)
            return labels.get_label_arr(scene.extent)

        def ours(precision: str) -> np.ndarray:
            settings = PredictSettings(precision=precision)
            predictor = ScenePredictor(copy.deepcopy(model), spec, settings)
            labels = SemanticSegmentationLabels.make_empty(scene.extent, len(classes))
            predictor.predict(
                RasterVisionScene(scene),
                prediction_windows(scene, options),
                Votes(labels.pixel_counts, labels.hit_mask),
                batch_sz=args.batch,
            )
            return labels.get_label_arr(scene.extent)

        ratios: dict[str, list[float]] = {p: [] for p in args.precisions}
        for run in range(args.runs):
            base, truth = timed(raster_vision, height * width)
            parts = [f"run {run}: Raster Vision {base:.3f} Mpx/s"]
            for precision in args.precisions:
                speed, labels = timed(lambda p=precision: ours(p), height * width)  # type: ignore[misc]
                ratios[precision].append(speed / base)
                equal = (labels == truth).mean() * 100
                ratio = speed / base
                parts.append(f"{precision} {speed:.3f} ({ratio:.2f}x, {equal:.4f} % equal)")
            print("; ".join(parts), flush=True)
    for precision, values in ratios.items():
        print(f"{precision}: ratio median {statistics.median(values):.2f}, least {min(values):.2f}")


if __name__ == "__main__":
    main()
