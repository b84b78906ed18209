"""Each rank has its part, and what one makes reaches all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ranked import Ranked
from rastervision.fastai_backend import data, data_parallel, distributed, models
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import DataOptions, TrainSettings
from torch import nn

from rvk8s.contract import ExitCode
from rvk8s.errors import RanksLost, Rvk8sError

MakeChips = Callable[..., ArrayChips]
Settings = Callable[..., TrainSettings]


class TestShares:
    def test_ranks_read_what_one_would(self, make_chips: MakeChips) -> None:
        """13 chips in batches of 4: three full batches, alike on all ranks; 13 to validate."""
        chips = make_chips(13)
        spec = models.ModelSpec(
            *("unet", "resnet18", 3, ("a", "b", "c"), ("red",) * 3, None),
            *((0.0,) * 3, (1.0,) * 3, 32),
        )

        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng(epoch).permutation(13)

        def batches(rank: int, ranks: int, training: bool, first: int = 0) -> list[torch.Tensor]:
            share = (rank, ranks)
            loader = data.ChipLoader(
                *(chips, 4 // ranks, spec),
                device=torch.device("cpu"),
                order=order if training else None,
                augment=Augment(DataOptions(dihedral=True, lighting=0.5), 7, share),
                drop_last=training,
                share=share,
            )
            loader.epoch, loader.first_batch = 1, first
            found = [x for x, _ in loader]
            assert len(found) == len(loader) - first
            return found

        for first in (0, 1):
            whole = batches(0, 1, True, first)
            halves = zip(batches(0, 2, True, first), batches(1, 2, True, first), strict=True)
            for one, parts in zip(whole, halves, strict=True):
                assert torch.equal(one, torch.cat(parts))
        seen = [[len(x) for x in batches(rank, 2, False)] for rank in (0, 1)]
        assert seen == [[2, 2, 2, 1], [2, 2, 2]]

    def test_what_one_rank_makes_reaches_all(self, ranked: Ranked, settings: Settings) -> None:
        """Objects, large tensors, and one download for each node."""
        tree = {
            "a": torch.arange(6).reshape(2, 3).t(),
            "b": [{"step": torch.tensor(2.0), "plain": "x"}, torch.zeros(0)],
            "c": torch.ones(3, dtype=torch.bfloat16),
            "d": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        }

        def hook(rank: int) -> None:
            group = Group.join()
            got = group.tensors_from_first(lambda: tree)
            assert torch.equal(got["a"], tree["a"])
            assert got["b"][0]["step"].item() == 2
            assert got["b"][0]["plain"] == "x"
            assert got["c"].dtype is torch.bfloat16
            assert torch.equal(got["d"], tree["d"])
            assert got["d"].stride() == tree["d"].stride()
            assert group.from_first(lambda: rank) == 0
            assert group.on_each_node(lambda: [rank]) == [0]
            assert group.sum(torch.tensor([rank, 1])).tolist() == [1, 2]
            raise Rvk8sError("all is well")

        chips = ArrayChips(np.zeros((1, 32, 32, 3), "uint8"), np.zeros((1, 32, 32), "uint8"), 1)
        said = ranked(settings(), chips, chips, hook=hook)
        assert said == ["Rvk8sError: all is well"] * 2


def test_synchronized_normalization_is_put_in_and_taken_out() -> None:
    """The same parameters, so that optimizer and checkpoints do not notice."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(64))
    before = {name: id(p) for name, p in model.named_parameters()}
    data_parallel._sync(model)
    assert type(model[1]) is type(model[3]) is nn.SyncBatchNorm
    assert {name: id(p) for name, p in model.named_parameters()} == before
    data_parallel._unsync(model)
    assert (type(model[1]), type(model[3])) == (nn.BatchNorm2d, nn.BatchNorm1d)
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 64)


def test_other_errors_are_not_the_ranks() -> None:
    assert distributed.lost(RuntimeError("shape mismatch")) is None
    assert distributed.lost(ValueError("Connection closed by peer")) is None
    gone = distributed.lost(RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed"))
    assert isinstance(gone, RanksLost)
    assert gone.exit_code == ExitCode.RETRYABLE
