"""A training that was stopped ends as one that was not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rastervision.fastai_backend import checkpoint, learner, precision
from rastervision.fastai_backend.callbacks import TIMES, EpochLog, Saver
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.options import TrainSettings

from rvk8s.errors import InputError, Preempted

Train = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture
def several(settings: Callable[..., TrainSettings]) -> TrainSettings:
    """All that could depend on the moment: phases, schedule, accumulation, dropout, augmentation,
    batch normalization of what is frozen.

    Six chips are three batches: with the accumulation an epoch has two steps.
    """
    return settings(
        model={"backbone": "mobilenet_v3_small"},
        data={"dihedral": True, "lighting": 0.2},
        solver={
            "freeze_epochs": 1,
            "num_epochs": 2,
            "grad_accum": 2,
            "checkpoint_seconds": 1e-6,
            "save_all_checkpoints": True,
            "precision": "fp32",
        },
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as f:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[k], other[k]) for k in one) and one.keys() == other.keys()


def stop_at(moment: int) -> Callable[[], None]:
    """A sync that is preempted at the given call: right after a checkpoint was written."""
    calls = iter(range(moment + 1))

    def sync() -> None:
        if next(calls) == moment:
            raise Preempted("the node goes away")

    return sync


def test_stopped_trainings_end_in_equal_weights_and_logs(
    train: Train, several: TrainSettings
) -> None:
    whole = train(several, "whole")
    # A checkpoint is synced after each of two steps and at the end, in each of three epochs.
    for moment in (0, 1, 4):
        with pytest.raises(Preempted, match=r"^the node goes away$"):
            train(several, f"at{moment}", sync=stop_at(moment))
        partial = whole.parent / f"at{moment}" / ".last.pt.partial"
        partial.write_bytes(b"of a process that was killed")
        resumed = train(several, f"at{moment}")
        assert rows(resumed) == rows(whole)
        assert len(rows(resumed)) == 3
        assert not partial.exists()
        for name in ("last.pt", "best.pt", "epoch-003.pt"):
            assert same(resumed / name, whole / name), (moment, name)
    assert (whole.parent / "at0/model-bundle.zip").read_bytes() == (
        whole / "model-bundle.zip"
    ).read_bytes()


@pytest.mark.slow
def test_a_stopped_bf16_training_ends_in_equal_weights_and_logs(
    train: Train, settings: Callable[..., TrainSettings]
) -> None:
    """In the middle of an epoch, with an optimizer that has taken a step."""
    options = settings(
        data={"dihedral": True, "lighting": 0.2},
        solver={
            "num_epochs": 2,
            "grad_accum": 2,
            "checkpoint_seconds": 1e-6,
            "save_all_checkpoints": True,
            "precision": "bf16",
        },
    )
    whole = train(options, "whole")
    with pytest.raises(Preempted):
        train(options, "stopped", sync=stop_at(0))
    kept = checkpoint.Checkpoint.load(whole.parent / "stopped" / "last.pt")
    assert (kept.epoch, kept.batch) == (0, 2)
    resumed = train(options, "stopped")
    assert json.loads((resumed / "metrics.json").read_text())["precision"] == "bf16"
    assert rows(resumed) == rows(whole)
    for name in ("last.pt", "best.pt"):
        assert same(resumed / name, whole / name), name


def test_the_optimizer_goes_to_the_device_that_the_training_is_on(
    train: Train, several: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's optimizer takes no state that lies elsewhere; torch's meta device stands for one."""
    with pytest.raises(Preempted):
        train(several, sync=stop_at(4))
    monkeypatch.setattr(learner, "device_of", lambda ranks: torch.device("meta"))
    restore = checkpoint.restore_optimizer

    def look(opt: Any, state: dict[str, Any]) -> None:
        restore(opt, state)
        tensors = [v for s in opt.state.values() for v in s.values() if torch.is_tensor(v)]
        places = {v.device.type for v in [*tensors, *(p for p, *_ in opt.all_params())]}
        raise Preempted(f"{len(tensors)} tensors on {places}")

    monkeypatch.setattr(checkpoint, "restore_optimizer", look)
    with pytest.raises(Preempted, match=r"\d\d tensors on {'meta'}"):
        train(several)


def test_the_best_epoch_is_that_of_the_weights(
    train: Train, settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after best.pt and before last.pt; a GPU then gives the epoch other scores."""
    row, save = EpochLog._row, Saver.save_last
    scores = iter([0.5, 0.6, 0.4])

    def killed(self: Saver) -> None:
        if self.course.history[-1]["f_beta"] == 0.6:
            raise Preempted("in between")
        save(self)

    monkeypatch.setattr(EpochLog, "_row", lambda self: row(self) | {"f_beta": next(scores)})
    monkeypatch.setattr(Saver, "save_last", killed)
    two = settings(solver={"num_epochs": 2})
    with pytest.raises(Preempted):
        train(two)
    metrics = json.loads((train(two) / "metrics.json").read_text())
    assert [row["f_beta"] for row in metrics["history"]] == [0.5, 0.4]
    assert metrics["best"]["f_beta"] == 0.6


def test_another_kind_of_device(
    train: Train, settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto would choose another precision there: a training keeps its own, where it can."""
    two = settings(solver={"num_epochs": 2})

    def device_with(bf16: bool) -> None:
        monkeypatch.setattr(precision, "has_native_bf16", lambda device: bf16)

    for first, then in ((False, True), (True, False)):
        name = f"bf16-{first}"
        device_with(first)
        with pytest.raises(Preempted):
            train(two, name, sync=stop_at(0))
        device_with(then)
        if then:
            metrics = json.loads((train(two, name) / "metrics.json").read_text())
            assert metrics["precision"] == metrics["options"]["precision in use"] == "fp32"
        else:
            with pytest.raises(InputError, match=r"precision in use bf16 .*fp32"):
                train(two, name)
            device_with(first)
            train(two, name)
        for bf16 in (True, False):  # once finished, it is finished everywhere
            device_with(bf16)
            assert train(two, name).is_dir()


def test_a_finished_training_is_left_alone(
    train: Train, settings: Callable[..., TrainSettings]
) -> None:
    folder = train(settings())
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    train(settings(solver={"checkpoint_seconds": 7}))
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_equal_seeds_give_equal_models(
    train: Train, settings: Callable[..., TrainSettings]
) -> None:
    first, again, other = (
        train(settings(solver={"seed": seed}), name)
        for seed, name in ((3, "first"), (3, "again"), (4, "other"))
    )
    assert same(first / "last.pt", again / "last.pt")
    assert rows(first) == rows(again)
    assert not same(first / "last.pt", other / "last.pt")


def test_large_seeds(train: Train, settings: Callable[..., TrainSettings]) -> None:
    first, other = (
        train(settings(solver={"seed": seed}), str(seed)) for seed in (2**31 - 1, 2**64 + 1)
    )
    assert not same(first / "last.pt", other / "last.pt")


def test_a_step_of_fewer_batches_is_one_of_their_mean(
    train: Train, settings: Callable[..., TrainSettings], make_chips: Callable[..., ArrayChips]
) -> None:
    """An epoch has one batch, where eight would make a step: powers of two round nothing."""
    solver = {"num_epochs": 2, "precision": "fp32"}
    one, eighth = (
        train(settings(solver={**solver, "grad_accum": n}), f"{n}", chips=make_chips(2))
        for n in (1, 8)
    )
    assert same(one / "last.pt", eighth / "last.pt")


def test_fp16_keeps_its_scale_from_phase_to_phase(
    train: Train, settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped exactly between them."""
    monkeypatch.setattr(precision, "choose", lambda *_: "fp16")
    options = settings(solver={"freeze_epochs": 1, "num_epochs": 1})
    whole = train(options, "whole")
    with pytest.raises(Preempted):
        train(options, "stopped", sync=stop_at(0))
    stopped = train(options, "stopped")
    scalers = [checkpoint.Checkpoint.load(f / "last.pt").scaler for f in (whole, stopped)]
    assert scalers[0]["scale"] < 65536 / 2
    assert scalers[0] == scalers[1]
    assert same(stopped / "last.pt", whole / "last.pt")


@pytest.mark.slow
def test_a_stopped_fp16_training_goes_on_with_its_scale(
    train: Train, settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 is refused on CPUs, where it is slow; the gradient scaler works there as on a GPU."""
    monkeypatch.setattr(precision, "choose", lambda *_: "fp16")
    solver = {"num_epochs": 8, "grad_accum": 2, "checkpoint_seconds": 1e-6}
    options = settings(solver={**solver, "save_all_checkpoints": True})
    whole = train(options, "whole")
    with pytest.raises(Preempted):
        train(options, "stopped", sync=stop_at(19))  # after the first step of the seventh epoch
    kept = checkpoint.Checkpoint.load(whole.parent / "stopped" / "last.pt").scaler
    # It begins with 65536 and is halved at each step that is left out: its gradients don't fit.
    assert 0 < kept["scale"] < 65536
    assert not same(whole / "epoch-006.pt", whole / "epoch-007.pt"), "not all steps are left out"
    stopped = train(options, "stopped")
    assert json.loads((stopped / "metrics.json").read_text())["precision"] == "fp16"
    assert rows(stopped) == rows(whole)
    assert same(stopped / "last.pt", whole / "last.pt")
    assert all(torch.isfinite(w).all() for w in weights(stopped / "last.pt").values())
