"""Training again into the folder of another training: labels, classes or weights have changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import checkpoint, learner
from rastervision.fastai_backend.chips import (
    ArrayChips,
    Classes,
    LabelKind,
    SubsetChips,
    labels_digest,
)
from rastervision.fastai_backend.devices import say_where
from rastervision.fastai_backend.options import SolverOptions, TrainSettings
from rastervision.fastai_backend.windows import SceneWindows, Window, WindowChips
from said import says
from torchvision import models as torchvision_models

from rvk8s.errors import InputError, Preempted

Train = Callable[..., Path]
Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]
REMOVE = r"; remove .*/train\b"


def corrected(chips: ArrayChips) -> ArrayChips:
    """The same images, a few pixels with another label."""
    labels = chips.labels.copy()
    labels[0, :3, :3] = (labels[0, :3, :3] + 1) % 3
    return ArrayChips(chips.images, labels, 3)


def preempt() -> None:
    raise Preempted("the node goes away")


@pytest.fixture(params=["finished", "stopped"])
def again(request: pytest.FixtureRequest, train: Train, settings: Settings) -> Train:
    """Trains for two epochs, to the end or until the first one's, and then gives train()."""
    two = settings(solver={"num_epochs": 2})
    if request.param == "finished":
        train(two)
    else:
        with pytest.raises(Preempted):
            train(two, sync=preempt)
    return lambda **kwargs: train(kwargs.pop("settings", two), **kwargs)


def test_labels_that_were_corrected(again: Train, make_chips: MakeChips) -> None:
    chips, valid = make_chips(6), make_chips(2, seed=1)
    other = r"other labels: {} labels \(digest\) \w+ .*" + REMOVE
    with pytest.raises(InputError, match=other.format("training")):
        again(chips=corrected(chips))
    with pytest.raises(InputError, match=other.format("validation")):
        again(valid=corrected(valid))
    assert (again(chips=chips, valid=valid) / "metrics.json").exists()


def test_classes_of_other_names(
    again: Train, make_chips: MakeChips, settings: Settings, tmp_path: Path
) -> None:
    renamed = Classes(("ground", "roof", "road"), ("grey", "red", "blue"))
    two = settings(solver={"num_epochs": 2})
    chips, valid = make_chips(6), make_chips(2, seed=1)
    message = r"class_names ground, house, road, .*ground, roof, road" + REMOVE
    with pytest.raises(InputError, match=message):
        learner.train(two, chips, valid, renamed, tmp_path / "train")


def test_other_weights_to_start_from(again: Train, settings: Settings, tmp_path: Path) -> None:
    network = torchvision_models.get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), tmp_path / "start.pth")
    model = {"pretrained_uri": str(tmp_path / "start.pth")}
    with pytest.raises(InputError, match=r"model\.pretrained_uri None .*/start\.pth"):
        again(settings=settings(model=model, solver={"num_epochs": 2}))


def test_what_an_older_version_wrote_is_gone_on_with(
    again: Train, tmp_path: Path, make_chips: MakeChips, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no digests: nobody knows whether labels have changed, and the log says so."""
    new = ("training labels (digest)", "validation labels (digest)", "model.pretrained_uri")
    last = tmp_path / "train/last.pt"
    values = torch.load(last, weights_only=True)
    for key in new:
        del values["options"][key]
    torch.save(values, last)
    if (path := tmp_path / "train/metrics.json").exists():
        metrics = json.loads(path.read_text())
        for key in new:
            del metrics["options"][key]
        path.write_text(json.dumps(metrics))
    with caplog.at_level(logging.WARNING):
        again(chips=corrected(make_chips(6)))
    assert says(caplog.text, "…not say…model.pretrained_uri, training labels (digest)…")


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_more_epochs_of_a_constant_rate(train: Train, settings: Settings, finished: bool) -> None:
    """They end as if there had been so many from the beginning."""

    def epochs(number: int, schedule: str = "constant") -> TrainSettings:
        frozen = {"freeze_epochs": 1, "save_all_checkpoints": True}
        return settings(solver={"num_epochs": number, "schedule": schedule, **frozen})

    whole = train(epochs(2), "whole")
    if finished:
        train(epochs(1))
    else:
        with pytest.raises(Preempted):
            train(epochs(1), sync=preempt)
    more = train(epochs(2))
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(f / name, weights_only=True)["model"] for f in (whole, more))
        assert all(torch.equal(one[k], other[k]) for k in one), name
    metrics = json.loads((more / "metrics.json").read_text())
    assert (metrics["epochs"], metrics["options"]["solver.num_epochs"]) == (3, 2)
    assert (more / "model-bundle.zip").read_bytes() == (whole / "model-bundle.zip").read_bytes()
    for other, what in (
        (epochs(1), r"solver\.num_epochs 2 .*1"),
        (epochs(3, "one_cycle"), r"solver\.num_epochs 2 .*3, solver\.schedule constant "),
    ):
        with pytest.raises(InputError, match=what):
            train(other)


def test_windows_that_each_epoch_draws_anew_have_no_digest(make_chips: MakeChips) -> None:
    chips = make_chips(2)
    digest = labels_digest(chips)
    assert digest == labels_digest(make_chips(2))
    assert digest != labels_digest(corrected(chips))
    chips.class_pixels = lambda: None  # type: ignore[method-assign, assignment, return-value]
    assert labels_digest(chips) is None
    assert checkpoint.LABELS in "training labels (digest)"


class OneScene:
    """A scene whose labels nobody may read."""

    id, height, width, channels, dtype = "a", 32, 32, 3, np.dtype("uint8")
    image_in_strips = labels_in_strips = True
    label_kind: LabelKind = "pixels"

    def image(self, window: Window) -> np.ndarray:
        return np.zeros((16, 16, 3), np.uint8)

    def labels(self, window: Window) -> np.ndarray:
        raise AssertionError("the other ranks wait while one reads")


def test_labels_of_windows_are_not_read_for_a_digest(make_chips: MakeChips) -> None:
    """They have no chip store, which would know what it holds."""
    windows = [Window(0, 0, 16, 16), Window(16, 16, 32, 32)]
    chips = WindowChips([SceneWindows("a", OneScene, windows)], 16, 3)
    assert labels_digest(chips) is None
    assert labels_digest(SubsetChips(chips, np.array([1]))) is None
    assert labels_digest(SubsetChips(make_chips(2), np.array([1]))) is not None


@pytest.mark.parametrize(
    ("options", "ranks", "chips"),
    [
        ({}, 8, "1"),
        ({"batch_sz": 24}, 8, "3"),
        ({"batch_sz": 32}, 8, None),
        ({"sync_bn": True}, 8, None),
        ({"batch_sz": 1}, 1, None),
    ],
)
def test_few_chips_for_batch_normalization_are_said(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, int],
    ranks: int,
    chips: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with caplog.at_level(logging.INFO):
        say_where(torch.device("cuda"), ranks, "fp16", SolverOptions(**options))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (chips is not None)
    if chips is not None:
        assert says(warnings[0], f"…only {chips} chips…solver.sync_bn…solver.batch_sz to 32…")
