"""Damages the scenes or a run, as users, copies that broke off and other programs do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scenes

SIZE = scenes.SIZE


def missing(data: Path) -> None:
    (data / "image_train_b.tif").unlink()


def truncated(data: Path) -> None:
    _cut(data / "image_train_b.tif")


def not_an_image(data: Path) -> None:
    (data / "image_train_b.tif").write_text("<html>404</html>")


def other_size(data: Path) -> None:
    scenes.write(data / "label_train_b.tif", np.zeros((1, 96, 128), np.uint8))


def other_ids(data: Path) -> None:
    rows = np.arange(SIZE, dtype=np.uint8) % 7
    scenes.write(data / "label_train_b.tif", np.tile(rows, (1, SIZE, 1)))


def no_data(data: Path) -> None:
    scenes.write(data / "image_train_b.tif", np.zeros((3, SIZE, SIZE), np.uint8))


def one_class(data: Path) -> None:
    _fill_labels(data, 0)


def only_null(data: Path) -> None:
    _fill_labels(data, 2)


def damaged_checkpoint(run: Path) -> None:
    _train_again(run)
    _cut(run / "train" / "last.pt")


def checkpoint_of_unet(run: Path) -> None:
    import torch

    _train_again(run)
    path = run / "train" / "last.pt"
    values = torch.load(path, weights_only=True)
    values["spec"]["arch"] = "unet"
    torch.save(values, path)


def damaged_bundle(run: Path) -> None:
    _cut(run / "train" / "model-bundle.zip")


def no_bundle(run: Path) -> None:
    (run / "train" / "model-bundle.zip").unlink()


def no_chips(run: Path) -> None:
    for path in run.glob("chip/train-*/*"):
        path.unlink()
    for path in run.glob("chip/train-*"):
        path.rmdir()


def damaged_chips(run: Path) -> None:
    for path in run.glob("chip/train-*/images.raw"):
        _cut(path)


def no_train_marker(run: Path) -> None:
    (run / ".rvk8s" / "train" / "done.json").unlink()


def no_config(run: Path) -> None:
    (run / "pipeline-config.json").unlink()


def damaged_config(run: Path) -> None:
    _cut(run / "pipeline-config.json")


def damaged_record(run: Path) -> None:
    _cut(run / "run.json")


def nothing(folder: Path) -> None:
    """All is well with the files."""


def _train_again(run: Path) -> None:
    """As if the training had been killed."""
    no_train_marker(run)
    (run / "train" / "metrics.json").unlink()
    (run / "train" / "model-bundle.zip").unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _fill_labels(data: Path, value: int) -> None:
    for name in ("train_a", "train_b"):
        scenes.write(data / f"label_{name}.tif", np.full((1, SIZE, SIZE), value, np.uint8))
