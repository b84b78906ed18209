"""Chips per second from the chip store beside Raster Vision's dataset, one core, in one process.

    python benchmarks/chip_speed.py scene.tif label.tif --runs 5

Raster Vision's side is SemanticSegmentationSlidingWindowGeoDataset, item by item as its data loader
reads it; ours is StoredChips.read in batches, in random order, as training reads it, from a store
that this program wrote with the same windows. Files are in the page cache on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rastervision.core.data import (
    ClassConfig,
    RasterioSource,
    Scene,
    SemanticSegmentationLabelSource,
)
from rastervision.fastai_backend.store import ChipFormat, ChipWriter, Part, StoredChips
from rastervision.pytorch_learner import SemanticSegmentationSlidingWindowGeoDataset


def make_store(folder: Path, scene: Scene, dataset, copies: int, classes: int) -> StoredChips:
    """The dataset's chips, several times over, as a chip job writes them."""
    size = dataset.size[0]
    source = scene.raster_source
    form = ChipFormat(size, source.num_channels, str(source.dtype), classes)
    with ChipWriter(folder, Part("train", 0, 1, 1), form) as writer:
        writer.start_scene(scene.id)
        for _ in range(copies):
            for window in dataset.windows:
                image, label = scene[window]
                writer.add(image, label.astype(np.uint8), tuple(window))
    return StoredChips(folder, "train", [scene.id])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image")
    parser.add_argument("label")
    for name, value in (("chip", 300), ("batch", 8), ("classes", 6), ("runs", 5), ("copies", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    classes = ClassConfig(names=[str(i) for i in range(args.classes)])
    classes.ensure_null_class()
    source = RasterioSource(args.image)
    labels = SemanticSegmentationLabelSource(RasterioSource(args.label), classes)
    scene = Scene("scene", source, labels)
    theirs = SemanticSegmentationSlidingWindowGeoDataset(
        scene, size=args.chip, stride=args.chip, padding=0
    )
    ratios, speeds = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), scene, theirs, args.copies, args.classes)
        for run in range(args.runs):
            start = time.process_time()
            for i in range(len(theirs)):
                theirs[i]
            base = len(theirs) / (time.process_time() - start)
            order = np.random.default_rng(run).permutation(len(store))
            start = time.process_time()
            for k in range(0, len(order), args.batch):
                store.read(order[k : k + args.batch], epoch=run)
            speeds.append(len(order) / (time.process_time() - start))
            ratios.append(speeds[-1] / base)
            print(
                f"run {run}: Raster Vision {base:.0f} chips/s, store {speeds[-1]:.0f} chips/s, "
                f"ratio {ratios[-1]:.0f}",
                flush=True,
            )
    print(f"median {statistics.median(speeds):.0f} chips/s, {statistics.median(ratios):.0f} times")


if __name__ == "__main__":
    main()
