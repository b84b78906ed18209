"""Out of memory: the batch size that is advised is measured, and right."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranked import Ranked
from rastervision.fastai_backend import memory, models
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.options import TrainSettings
from said import says
from torch import nn

from rvk8s.errors import OutOfMemory

Train = Callable[..., Path]
Settings = Callable[..., TrainSettings]

pytestmark = pytest.mark.usefixtures("thin")


def demand(*_: Any) -> None:
    """Ask the allocator for 4 petabytes."""
    torch.empty(2**50)


class Hungry:
    """Builds networks that run out of memory; counts what of the first one is still alive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when: str):
        self.build, self.when = models.build, when
        self.alive: list[weakref.ref[Any]] = []
        monkeypatch.setattr(models, "build", self)

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = self.build(*args, **kwargs)
        model.register_forward_pre_hook(self.look)
        last = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
        last.register_forward_hook(self.after_last)
        self.alive.append(weakref.ref(model))
        return model

    def look(self, model: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        self.large = model.training and len(inputs[0]) > 2
        if self.when == "second step":
            self.large &= any(p.grad is not None for p in model.parameters())
        if self.when == "without autocast" and not torch.is_autocast_enabled("cpu"):
            demand()

    def after_last(self, _: nn.Module, __: Any, output: torch.Tensor) -> None:
        self.alive.append(weakref.ref(output))
        if self.large:
            if self.when == "backward":
                output.register_hook(demand)
            else:
                demand()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["forward", "backward", "second step", "without autocast"])
def test_what_ran_out_is_let_go_and_a_whole_step_is_tried(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A U-Net keeps its encoder's activations. The trial is in the training's precision."""
    hungry = Hungry(monkeypatch, when)
    chosen = settings(
        model={"arch": "unet", "last_cross": False},
        solver={"batch_sz": 6, "grad_accum": 4, "precision": "bf16", "num_epochs": 2},
    )
    with pytest.raises(OutOfMemory) as e:
        train(chosen)
    assert says(str(e.value), "…solver.batch_sz to 2 …solver.grad_accum to 12…")
    assert not torch.is_autocast_enabled("cpu")
    gc.collect()
    assert len(hungry.alive) >= 2
    assert not [one for one in hungry.alive if one() is not None]


@pytest.mark.slow
def test_the_optimizer_needs_memory_too(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hungry(monkeypatch, "forward")
    monkeypatch.setattr(memory.FusedAdam, "_state", demand)
    with pytest.raises(OutOfMemory, match=r"; .*solver\.batch_sz to 3 or less.*smaller"):
        train(settings(solver={"batch_sz": 6}))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["forward", "backward"])
def test_one_of_several_ranks(
    ranked: Ranked,
    settings: Settings,
    make_chips: Callable[..., ArrayChips],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """Each tries alone: what exchanges gradients is gone."""
    Hungry(monkeypatch, when)
    said = ranked(settings(solver={"batch_sz": 8}), make_chips(8), make_chips(2))
    advice = "OutOfMemory: …4 chips of 32…; …solver.batch_sz to 4 …solver.grad_accum to 2…"
    advised = {one for one in said if says(one, advice)}
    assert advised
    assert all(says(one, "RanksLost: another rank…ended") for one in set(said) - advised)
