"""Each option of the solver, and those of the model that a whole training shows, has its effect."""

from __future__ import annotations

import csv
import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from fastai.optimizer import Adam
from PIL import Image, ImageColor
from pydantic import ValidationError
from rastervision.fastai_backend import bundle, schedule
from rastervision.fastai_backend.callbacks import Course, Saver
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.optimizer import FusedAdam
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.precision import Precision, choose, has_native_bf16
from said import says
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rvk8s.contract import Env
from rvk8s.errors import InputError, Preempted, Rvk8sError

Train = Callable[..., Path]
Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]

pytestmark = pytest.mark.usefixtures("thin")


def rows(folder: Path) -> list[dict[str, float]]:
    with open(folder / "log.csv", newline="") as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Gathers the learning rate of each batch of the trainings that follow."""
    seen: list[float] = []
    after_batch = Saver.after_batch

    def record(self: Saver) -> None:
        if self.learn.training:
            seen.append(self.learn.opt.hypers[-1]["lr"])
        after_batch(self)

    monkeypatch.setattr(Saver, "after_batch", record)
    return seen


@pytest.mark.slow
def test_a_training_writes_all_that_it_promises(
    train: Train,
    settings: Settings,
    make_chips: MakeChips,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The U-Net, on four bands of 16 bits: it learns; and the files of every kind are there."""
    progress = tmp_path / "progress.json"
    monkeypatch.setenv(Env.PROGRESS_FILE, str(progress))
    synced: list[set[str]] = []

    def sync() -> None:
        synced.append({p.name for p in (tmp_path / "train").iterdir()})

    options = settings(
        model={"arch": "unet"},
        data={"debug": True},
        solver={
            "batch_sz": 4,
            "num_epochs": 4,
            "lr": 3e-3,
            "save_all_checkpoints": True,
            "sync_interval": 3,
            "log_tensorboard": True,
        },
    )
    with caplog.at_level(logging.INFO):
        folder = train(options, chips=make_chips(16, 32, 4, "uint16"), sync=sync)
    log = rows(folder)
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert log[-1]["train_loss"] < log[0]["train_loss"]
    assert log[-1]["macro_f1"] > 0.6
    assert {p.name for p in folder.iterdir()} == {
        *(f"epoch-00{n}.pt" for n in (1, 2, 3, 4)),
        *("last.pt", "best.pt", "log.csv", "tensorboard", "debug", "metrics.json"),
        "model-bundle.zip",
    }
    assert {p.name for p in (folder / "debug").iterdir()} == {"train-chips.png", "valid-chips.png"}
    for picture in (folder / "debug").iterdir():
        look_at_chips(picture)
    look_at_tensorboard(folder / "tensorboard", log)
    # After epoch 3, and when all is done.
    assert len(synced) == 2
    assert "epoch-003.pt" in synced[0]
    assert "metrics.json" not in synced[0]
    assert "metrics.json" in synced[1]
    state, spec = bundle.load(folder / "model-bundle.zip")
    best = torch.load(folder / "best.pt", weights_only=True)
    assert all(torch.equal(state[k], best["model"][k]) for k in state)
    assert (spec.channels, spec.dtype, spec.img_sz) == (4, "uint16", 32)
    assert 1000 < spec.mean[0] < 9000
    assert best["epoch"] == metrics(folder)["best"]["epoch"]
    shown = json.loads(progress.read_text())
    assert (shown["epoch"], shown["epochs"], shown["batches"]) == (4, 4, 4)
    assert shown["macroF1"] == pytest.approx(log[-1]["macro_f1"], abs=1e-4)
    assert sum("training on the CPU" in r.message for r in caplog.records) == 1
    assert sum(r.message.startswith("epoch ") for r in caplog.records) == 4


def look_at_chips(path: Path) -> None:
    """Each class has its color in the legend and in labels; the image has pixels of many."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for color in small.CLASSES.colors:
        found = (pixels == ImageColor.getrgb("#808080" if color == "grey" else color)).all(2)
        assert found.sum() > 2000, color
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def look_at_tensorboard(folder: Path, log: list[dict[str, float]]) -> None:
    """The numbers of log.csv, by epoch."""
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) == log[0].keys() - {"epoch"}
    for name in ("train_loss", "macro_f1", "f1_house"):
        found = events.Scalars(name)
        assert [event.step for event in found] == [row["epoch"] for row in log]
        assert [event.value for event in found] == pytest.approx([row[name] for row in log])


def test_schedules_and_frozen_epochs(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two frozen epochs, then two others, of three batches each; a schedule for each phase."""
    seen = rates(monkeypatch)
    for name in ("constant", "one_cycle", "flat_cos"):
        solver = {"freeze_epochs": 2, "num_epochs": 2, "schedule": name, "lr": 0.01}
        folder = train(settings(solver={**solver, "save_all_checkpoints": True}), name)
        assert len(rows(folder)) == 4
        first, second = seen[:6], seen[6:]
        assert first == second
        if name == "constant":
            assert set(first) == {0.01}
        elif name == "one_cycle":
            assert first[0] == pytest.approx(0.01 / 25)
            assert 0.005 < max(first) <= 0.01
            assert first[-1] < 0.002
        else:
            assert first[:4] == pytest.approx([0.01] * 4)
            assert first[-1] < 0.009
        assert rows(folder)[-1]["lr"] == seen[-1]
        seen.clear()
    start, frozen, thawed = (
        torch.load(folder / f"epoch-00{n}.pt", weights_only=True)["model"] for n in (1, 2, 3)
    )
    body = [k for k, v in start.items() if k.startswith("body.") and v.ndim == 4]
    head = [k for k, v in start.items() if k.startswith("head.") and v.ndim == 4]
    assert all(torch.equal(start[k], frozen[k]) for k in body)
    assert not any(torch.equal(frozen[k], thawed[k]) for k in body)
    assert not any(torch.equal(start[k], frozen[k]) for k in head)


def test_lr_find_where_no_rate_is_given(
    train: Train,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(schedule, "LR_FIND_BATCHES", 30)
    with caplog.at_level(logging.INFO):
        folder = train(settings(solver={"lr": None}))
    lr = metrics(folder)["lr"]
    assert 1e-7 < lr < 1
    assert says(caplog.text, f"…lr_find chose…{lr:.3g}…")
    assert (folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*/_tmp.pth"))
    assert not (folder / ".lr_find").exists()


def test_the_scale_of_gradients_is_not_that_of_lr_find(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shrinks at the greatest rates. From phase to phase it is kept."""
    before_fit, after_fit, found = Precision.before_fit, Precision.after_fit, []

    def before(self: Precision) -> None:
        found.append(self.state)
        self.state = None  # nothing is scaled on a CPU
        before_fit(self)

    def after(self: Precision) -> None:
        after_fit(self)
        self.state = {"scale": 32.0}

    monkeypatch.setattr(schedule, "LR_FIND_BATCHES", 30)
    monkeypatch.setattr(Precision, "before_fit", before)
    monkeypatch.setattr(Precision, "after_fit", after)
    train(settings(solver={"lr": None, "precision": "bf16", "freeze_epochs": 1}))
    assert found == [None, None, {"scale": 32.0}]


def test_a_fault_while_a_rate_is_looked_for_is_no_bad_rate(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FusedAdam, closure: None = None) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(schedule, "LR_FIND_BATCHES", 30)
    with monkeypatch.context() as broken:
        broken.setattr(FusedAdam, "step", fail)
        with pytest.raises(RuntimeError, match="illegal memory"):
            train(settings(solver={"lr": None}))
    monkeypatch.setattr(schedule, "LR_FIND_BATCHES", 2)  # fastai drops as many losses and more
    with pytest.raises(InputError, match=r"solver\.lr: lr_find .*no learning rate: .*; "):
        train(settings(solver={"lr": None}))


def test_gradient_options_change_the_step(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping bounds the norm; accumulation steps every second batch and at the epoch's end."""
    norms: list[float] = []
    step = FusedAdam.step

    def record(self: FusedAdam, closure: None = None) -> None:
        grads = [p.grad for ps in self.param_lists for p in ps if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        step(self, closure)

    monkeypatch.setattr(FusedAdam, "step", record)
    train(settings(), "plain")
    assert len(norms) == 3
    assert max(norms) > 0.1
    norms.clear()
    train(settings(solver={"grad_clip": 0.05}), "clipped")
    assert len(norms) == 3
    assert max(norms) < 0.051
    norms.clear()
    train(settings(solver={"grad_accum": 2}), "accumulated")
    assert len(norms) == 2


def test_early_stopping_and_beta(train: Train, settings: Settings) -> None:
    """With a rate of nearly 0 nothing gets better: two epochs after the first it is over."""
    solver = {"num_epochs": 9, "lr": 1e-12, "early_stop_patience": 2, "beta": 2.0}
    epochs = itertools.count(1)

    def sync() -> None:
        if next(epochs) == stopped:
            raise Preempted("right after the last checkpoint")

    stopped = 0
    folder = train(settings(solver=solver))
    log = rows(folder)
    stopped = len(log)
    with pytest.raises(Preempted):
        train(settings(solver=solver), "killed", sync=sync)
    assert len(rows(train(settings(solver=solver), "killed"))) == len(log)
    best = max(row["f_beta"] for row in log)
    first = next(i for i, row in enumerate(log) if row["f_beta"] == best)
    assert len(log) == first + 1 + 2 < 9
    assert metrics(folder)["best"]["epoch"] == first + 1
    assert any(row["f_beta"] != pytest.approx(row["macro_f1"], abs=1e-6) for row in log)


def test_frozen_epochs_are_not_stopped_early(train: Train, settings: Settings) -> None:
    solver = {"freeze_epochs": 3, "num_epochs": 5, "lr": 1e-12, "early_stop_patience": 1}
    log = rows(train(settings(solver=solver)))
    best = max(row["f_beta"] for row in log)
    first = next(i for i, row in enumerate(log) if row["f_beta"] == best)
    assert len(log) == max(first + 1, 3) + 1 < 8


def test_best_is_the_first_epoch_of_the_best_f_beta() -> None:
    course = Course(epochs=3)
    assert course.best is None
    course.history = [{"f_beta": f} for f in (0.2, 0.5, 0.4, 0.5)]
    assert course.best is course.history[1]


def test_batches_precision_and_few_chips(
    train: Train, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {}
    for precision in ("fp32", "bf16"):
        folder = train(settings(solver={"precision": precision, "batch_sz": 50}), precision)
        assert metrics(folder)["precision"] == precision
        weights[precision] = bundle.load(folder / "model-bundle.zip")[0]
    assert "only 6 training chips" in caplog.text
    a, b = weights["fp32"], weights["bf16"]
    assert not all(torch.equal(a[k], b[k]) for k in a)


def test_precision_that_suits_the_device() -> None:
    cpu = torch.device("cpu")
    assert choose("auto", cpu) == ("bf16" if has_native_bf16(cpu) else "fp32")
    with pytest.raises(InputError, match=r"fp16 .*GPU.*; .*auto"):
        choose("fp16", cpu)


def test_weight_decay_and_the_fused_step_are_fastais() -> None:
    """FusedAdam does what fastai's Adam does; parameters marked do_wd=False don't decay."""
    results = []
    for make in (Adam, FusedAdam):
        torch.manual_seed(0)
        a, b = (torch.nn.Parameter(torch.randn(5, 3)) for _ in range(2))
        opt = make([[a], [b]], lr=0.1)
        opt.state[b]["do_wd"] = False
        for i in range(4):
            opt.set_hypers(lr=0.1 / (i + 1), mom=0.9 - i / 20, wd=0.3)
            for p in (a, b):
                p.grad = torch.randn(5, 3)
            opt.step()
            opt.zero_grad()
        results.append((a, b))
    for reference, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference)


def test_weight_decay_shrinks_the_weights(train: Train, settings: Settings) -> None:
    def size(decay: float) -> float:
        solver = {"weight_decay": decay, "lr": 0.01, "schedule": "constant"}
        state = bundle.load(train(settings(solver=solver), f"{decay}") / "model-bundle.zip")[0]
        return float(state["head.1.weight"].norm())

    assert size(10.0) < 0.9 * size(0.0)


def test_data_options_reach_the_training(train: Train, settings: Settings) -> None:
    data = {"train_count": 4, "img_sz": 64, "normalize": "scale", "num_workers": 1}
    folder = train(settings(data=data))
    spec = metrics(folder)["model"]
    assert (spec["img_sz"], spec["mean"], spec["std"]) == (64, [0.0] * 3, [255.0] * 3)
    assert metrics(folder)["options"]["training chips"] == 4
    assert not (folder / "tensorboard").exists(), "nobody asked for it"
    assert not (folder / "debug").exists()


def test_a_loss_that_is_not_finite_ends_the_training(
    train: Train, settings: Settings, make_chips: MakeChips
) -> None:
    chips = make_chips(6, dtype="float32")
    chips.images[:] = np.nan
    with pytest.raises(Rvk8sError, match=r"^the loss .*not finite .*1; .*solver\.lr"):
        train(settings(data={"normalize": "scale"}), chips=chips)


def test_one_chip_is_no_batch_to_normalise(train: Train, settings: Settings) -> None:
    with pytest.raises(InputError, match=r"solver\.batch_sz: batch normalization can't"):
        train(settings(solver={"batch_sz": 1}))


@pytest.mark.parametrize(
    "bad",
    [
        {"solver": {"batch_sz": -1}},
        {"solver": {"lr": 0}},
        {"solver": {"precision": "fp8"}},
        {"data": {"img_sz": 16}},
        {"data": {"train_prop": 1.5}},
        {"data": {"train_prop": 0.5, "train_count": 3}},
        {"model": {"arch": "fpn"}},
        {"solver": {"bach_sz": 3}},
    ],
)
def test_bad_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSettings(**bad)


def test_a_class_that_is_not_scored_has_no_column(train: Train, settings: Settings) -> None:
    scored, ignored = (
        {key for key in rows(train(settings(solver=solver), name))[0] if key.startswith("f1_")}
        for name, solver in (("all", {}), ("less", {"ignore_class_index": 2}))
    )
    assert ignored < scored
    assert len(scored - ignored) == 1
