"""Ranks that exchange gradients over NCCL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rastervision.fastai_backend import learner
from rastervision.fastai_backend.chip_learner import ChipLearner
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.data_parallel import DataParallel
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.ranks import Ranks
from spawned import train_together
from torch import nn
from unet import DEVICE, needs_gpu, rows

Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]


class GroupOfOne(Group):
    """One rank, that exchanges everything with itself."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(tensor)
        return tensor


class TestOneRank:
    pytestmark = needs_gpu("NCCL")

    @pytest.fixture
    def device(self, tmp_path: Path) -> Iterator[torch.device]:
        """A GPU, of a process group that has one rank."""
        backend = "cpu:gloo,cuda:nccl" if DEVICE == "cuda" else "gloo"
        store = dist.FileStore(str(tmp_path / "store"), 1)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        yield torch.device(DEVICE, 0 if DEVICE == "cuda" else None)
        dist.destroy_process_group()

    @pytest.mark.parametrize("sync_bn", [False, True])
    def test_trains_as_without(
        self,
        train: Callable[..., Path],
        settings: Settings,
        make_chips: MakeChips,
        device: torch.device,
        monkeypatch: pytest.MonkeyPatch,
        sync_bn: bool,
    ) -> None:
        chosen = settings(solver={"precision": "fp32", "ignore_class_index": 0, "grad_accum": 2})
        plain = train(chosen, "plain", chips=make_chips(16, 64))
        make, kinds = learner.make_learner, set()

        def made(*args: Any) -> ChipLearner:
            learn = make(*args)
            learn.add_cb(DataParallel(GroupOfOne(Ranks()), device, sync_bn, 3, 64))
            learn.model.register_forward_pre_hook(
                lambda model, _: kinds.update(type(m) for m in model.modules())
            )
            return learn

        monkeypatch.setattr(learner, "make_learner", made)
        wrapped = train(chosen, "wrapped", chips=make_chips(16, 64))
        synced = sync_bn and device.type == "cuda"
        assert (nn.SyncBatchNorm in kinds) == synced
        assert (nn.BatchNorm2d in kinds) == (not synced)
        for a, b in zip(rows(wrapped), rows(plain), strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.02)
            assert a["valid_loss"] == pytest.approx(b["valid_loss"], rel=0.1)


class TestTwoRanks:
    pytestmark = needs_gpu("NCCL between two GPUs", 2)

    @pytest.mark.parametrize(
        "solver",
        [{"precision": "fp32"}, {"precision": "fp16"}, {"precision": "fp32", "sync_bn": True}],
        ids=["fp32", "fp16", "sync_bn"],
    )
    def test_train_as_one(
        self,
        settings: Settings,
        make_chips: MakeChips,
        classes: Classes,
        tmp_path: Path,
        solver: dict[str, Any],
    ) -> None:
        """Where batch normalization is over the chips of both they train as one does, to 2 %; over
        each one's own to 10 %."""
        chosen = settings(solver={"batch_sz": 16, "num_epochs": 2, **solver})
        args = (chosen, make_chips(32, 64), make_chips(3, 64, seed=1), classes)
        for ranks in (1, 2):
            assert train_together(tmp_path / f"of{ranks}", ranks, *args) == ["ok"] * ranks
        one, two = rows(tmp_path / "of1"), rows(tmp_path / "of2")
        close = 0.02 if "sync_bn" in solver else 0.1
        for a, b in zip(one, two, strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=close), (one, two)
