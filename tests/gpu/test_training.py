"""Training on a GPU: every precision learns, and a training that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rastervision.fastai_backend import checkpoint, learner
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.options import TrainSettings
from unet import DEVICE, distance, needs_gpu, rows, skip_without

from rvk8s.errors import Preempted

pytestmark = needs_gpu("training on a GPU")

Train = Callable[..., Path]
Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_precision_learns_alike(
    train: Train, settings: Settings, make_chips: MakeChips, precision: str
) -> None:
    """Losses are fp32's to 5 % in the first epoch, and to 0.1 in the last, which is a tenth of what
    they fall."""
    skip_without(precision)
    curves = {}
    for each in ("fp32", precision):
        chosen = settings(solver={"precision": each})
        folder = train(chosen, each, chips=make_chips(32, 64), valid=make_chips(4, 64, seed=1))
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["device"], metrics["precision"]) == (DEVICE, each)
        curves[each] = [row["train_loss"] for row in metrics["history"]]
        assert curves[each][-1] < 0.7 * curves[each][0]
    assert curves[precision][0] == pytest.approx(curves["fp32"][0], rel=0.05), curves
    assert curves[precision][-1] == pytest.approx(curves["fp32"][-1], abs=0.1), curves


def test_a_gpu_trains_as_a_cpu(
    train: Train, settings: Settings, make_chips: MakeChips, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(solver={"precision": "fp32", "num_epochs": 1})
    first = train(chosen, "gpu", chips=make_chips(16, 64))
    monkeypatch.setattr(learner, "device_of", lambda ranks: torch.device("cpu"))
    second = train(chosen, "cpu", chips=make_chips(16, 64))
    gpu, cpu = rows(first)[0], rows(second)[0]
    assert gpu["train_loss"] == pytest.approx(cpu["train_loss"], rel=0.02), (gpu, cpu)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("moment", [1, 3, 9], ids=["frozen", "between phases", "later"])
def test_a_stopped_training_ends_as_one_that_was_not(
    train: Train, settings: Settings, make_chips: MakeChips, precision: str, moment: int
) -> None:
    """Weights are apart as those of two trainings that nobody stopped: a GPU adds in any order."""
    skip_without(precision)
    solver = {"freeze_epochs": 1, "num_epochs": 2, "checkpoint_seconds": 1e-6, "grad_accum": 2}
    chosen = settings(solver={**solver, "precision": precision})
    chips = make_chips(24, 64)
    calls = iter(range(moment + 1))

    def sync() -> None:
        if next(calls) == moment:
            raise Preempted("the node goes away")

    one, other = (train(chosen, name, chips=chips) for name in ("one", "other"))
    with pytest.raises(Preempted):
        train(chosen, "stopped", chips=chips, sync=sync)
    stopped = train(chosen, "stopped", chips=chips)
    assert distance(stopped, one) <= 3 * distance(one, other) + 1e-4
    for a, b in zip(rows(stopped), rows(one), strict=True):
        assert a["lr"] == b["lr"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.05)
    ends = [checkpoint.Checkpoint.load(folder / "last.pt") for folder in (stopped, one)]
    assert ends[0].scaler == ends[1].scaler
    assert bool(ends[0].scaler) == (precision == "fp16")
