"""Several ranks train as one would: real processes, gloo, no Raster Vision."""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import (
    checks,
    data,
    data_parallel,
    distributed,
    learner,
    models,
)
from rastervision.fastai_backend.augment import Augment
from rastervision.fastai_backend.callbacks import TIMES, EpochLog
from rastervision.fastai_backend.chip_learner import batch_of_rank
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import DataOptions, TrainSettings
from rastervision.fastai_backend.ranks import Ranks
from torch import nn

from rvk8s.contract import Env, ExitCode
from rvk8s.errors import InputError, Preempted, RanksLost, Rvk8sError

Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]
#: Hooks run in a rank before it trains, with its number.
Hook = Callable[[int], None]


class Ranked:
    """Forks ranks that train together, and gathers how they ended.

    Args:
        settings, chips, valid, classes, folder: as learner.train takes them.
    """

    def __init__(self, classes: Classes, folder: Path):
        self.classes, self.folder = classes, folder

    def __call__(
        self,
        settings: TrainSettings,
        chips: ArrayChips,
        valid: ArrayChips,
        *,
        ranks: int = 2,
        name: str = "train",
        hook: Hook = lambda rank: None,
        env: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """What each rank ended with: "ok", an error, or a signal's number."""
        output, said = self.folder / name, self.folder / f"{name}-said"
        said.mkdir(exist_ok=True)
        port = _free_port()
        fork = multiprocessing.get_context("fork")

        def work(rank: int) -> None:
            os.environ.update(env or {})
            if ranks > 1:
                os.environ.update(_torchrun(rank, ranks, port))
            try:
                hook(rank)
                learner.train(settings, chips, valid, self.classes, output, **kwargs)
                result = "ok"
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                traceback.print_exc()
                result = f"{type(error).__name__}: {error}"
            (said / str(rank)).write_text(result)
            sys.stdout.flush()
            os._exit(0)

        started = [fork.Process(target=work, args=(rank,)) for rank in range(ranks)]
        for process in started:
            process.start()
        end = time.monotonic() + 60
        for process in started:
            process.join(max(0.1, end - time.monotonic()))
        hang = [process for process in started if process.is_alive()]
        for process in hang:
            process.kill()
            process.join()
        assert not hang, "ranks hang"
        return [
            (said / str(rank)).read_text() if p.exitcode == 0 else str(p.exitcode)
            for rank, p in enumerate(started)
        ]

    def rows(self, name: str = "train") -> list[dict[str, float]]:
        with open(self.folder / name / "log.csv", newline="") as f:
            return [
                {k: float(v) for k, v in row.items() if k not in TIMES} for row in csv.DictReader(f)
            ]

    def weights(self, name: str = "train") -> dict[str, torch.Tensor]:
        return torch.load(self.folder / name / "last.pt", weights_only=True)["model"]


def _torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def ranked(classes: Classes, tmp_path: Path) -> Ranked:
    return Ranked(classes, tmp_path)


def several(settings: Settings, **solver: Any) -> TrainSettings:
    """All that could differ by rank in data and schedule."""
    return settings(
        data={"dihedral": True, "lighting": 0.2},
        solver={"batch_sz": 4, "num_epochs": 2, "precision": "fp32", "lr": 2e-4, **solver},
    )


def without_dropout(rank: int) -> None:
    nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]


def fixed_statistics(rank: int) -> None:
    """Batch normalization with its running statistics also in training: then the loss of a batch
    is the mean of its halves' losses, and two ranks compute what one does."""
    without_dropout(rank)
    nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)  # type: ignore


class TestEqualLossCurves:
    """Two ranks with half of the batch each, against one rank with all of it.

    With fixed statistics losses agree to 0.1 % and scores to 0.01 (sums are rounded in another
    order, and epochs of Adam enlarge that); where each rank normalizes over its own 8 chips,
    training losses agree to 5 %.
    """

    @pytest.mark.parametrize(
        "solver",
        [
            {},
            {"ignore_class_index": 0, "class_weights": [1.0, 2.0, 3.0], "grad_accum": 2},
            {"freeze_epochs": 1, "num_epochs": 1, "grad_clip": 0.5, "schedule": "flat_cos"},
        ],
        ids=["plain", "weights, ignored class, accumulation", "frozen, clipped"],
    )
    def test_without_batch_statistics(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips, solver: dict[str, Any]
    ) -> None:
        chips, valid, chosen = make_chips(13), make_chips(3, seed=1), several(settings, **solver)
        for ranks in (1, 2):
            said = ranked(
                chosen, chips, valid, ranks=ranks, name=f"of{ranks}", hook=fixed_statistics
            )
            assert said == ["ok"] * ranks
        one, two = ranked.rows("of1"), ranked.rows("of2")
        assert len(one) == len(two) == 2
        for a, b in zip(one, two, strict=True):
            for key in a:
                exact = {"rel": 1e-3} if "loss" in key or key == "lr" else {"abs": 0.01}
                assert a[key] == pytest.approx(b[key], **exact), (key, one, two)

    def test_with_batch_statistics(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips
    ) -> None:
        chips, valid = make_chips(32), make_chips(3, seed=1)
        chosen = several(settings, batch_sz=16, num_epochs=3)
        for ranks in (1, 2):
            said = ranked(
                chosen, chips, valid, ranks=ranks, name=f"of{ranks}", hook=without_dropout
            )
            assert said == ["ok"] * ranks
        one, two = ranked.rows("of1"), ranked.rows("of2")
        for a, b in zip(one, two, strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.05)


class TestOneOutput:
    def test_a_resumed_training_ends_as_one_that_was_not_stopped(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips
    ) -> None:
        """Stopped in the middle of an epoch; dropout and statistics of each rank included."""
        chips, valid = make_chips(12), make_chips(3, seed=1)
        chosen = several(settings, checkpoint_seconds=1e-6, grad_accum=2)
        assert ranked(chosen, chips, valid, name="whole") == ["ok", "ok"]
        calls = iter(range(3))

        def sync() -> None:
            if next(calls) == 2:
                raise Preempted("the node goes away")

        first, second = ranked(chosen, chips, valid, name="stopped", sync=sync)
        assert first == "Preempted: the node goes away"
        assert second == "RanksLost: another rank of the training has ended"
        assert ranked(chosen, chips, valid, name="stopped") == ["ok", "ok"]
        assert ranked.rows("stopped") == ranked.rows("whole")
        whole, stopped = ranked.weights("whole"), ranked.weights("stopped")
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)

    def test_rank_0_alone_speaks_and_writes(
        self,
        ranked: Ranked,
        settings: Settings,
        make_chips: MakeChips,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """A learning rate is found, training stops early, and one rank has no validation chip."""
        chosen = several(settings, lr=None, num_epochs=9, early_stop_patience=1, sync_bn=True)

        def hook(rank: int) -> None:
            logging.basicConfig(level=logging.INFO, force=True)
            without_dropout(rank)

        assert ranked(chosen, make_chips(8), make_chips(1, seed=1), hook=hook) == ["ok", "ok"]
        said = capfd.readouterr().err
        assert said.count("training on the CPU, 2 ranks with gloo") == 1
        assert said.count("solver.sync_bn needs GPUs") == 1
        rows = ranked.rows()
        assert said.count("train loss") == len(rows)
        assert said.count("stopping early") == (len(rows) < 9)
        found = re.findall(r"lr_find chose a learning rate of (\S+)", said)
        assert len(set(found)) == 1, "both ranks choose alike"
        outputs = sorted(path.name for path in (ranked.folder / "train").iterdir())
        assert "model-bundle.zip" in outputs
        assert not [name for name in outputs if name.endswith(".partial")]


class TestFailures:
    def break_rank(self, how: Callable[[], None]) -> Hook:
        """In the second rank's third batch."""

        def hook(rank: int) -> None:
            after_batch = EpochLog.after_batch

            def broken(self: EpochLog) -> None:
                after_batch(self)
                if rank == 1 and self.course.epoch == 0 and self.course.batch == 2:
                    how()

            EpochLog.after_batch = broken  # type: ignore[method-assign]

        return hook

    @pytest.mark.parametrize("how", ["raises", "is killed", "hangs"])
    def test_the_others_end(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips, how: str
    ) -> None:
        def fail() -> None:
            if how == "raises":
                raise ValueError("broken")
            if how == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)

        began = time.monotonic()
        first, second = ranked(
            several(settings),
            make_chips(12),
            make_chips(2),
            hook=self.break_rank(fail),
            env={Env.RANKS_TIMEOUT: "3"},
        )
        assert time.monotonic() - began < 30
        if how == "hangs":
            assert first.startswith("RanksLost: the ranks waited 3 s for each other: one of them")
        else:
            assert first == "RanksLost: another rank of the training has ended"
        assert {"raises": "broken", "is killed": "-9", "hangs": "RanksLost"}[how] in second

    def test_a_batch_that_cannot_be_shared(self) -> None:
        assert batch_of_rank(8, 100, 4) == 2
        assert batch_of_rank(8, 7, 2) == 3
        with pytest.raises(InputError, match=r"solver.batch_sz: 9 chips .* use 8 or 12"):
            batch_of_rank(9, 100, 4)
        with pytest.raises(InputError, match=r"by 4 ranks; use 4, or another"):
            batch_of_rank(3, 100, 4)
        with pytest.raises(InputError, match="1 training chips are too few for 2 ranks"):
            batch_of_rank(8, 1, 2)
        chosen = TrainSettings(solver={"batch_sz": 9})
        errors = checks.check(chosen, Classes(("a",), ("red",)), 0, ranks=2)
        assert "can't be shared" in str(errors[0])

    def test_an_engine_that_counts_otherwise(self) -> None:
        env = {**_torchrun(0, 2, 1), Env.WORLD_SIZE: "4"}
        with pytest.raises(InputError, match="the engine says 4, torchrun says 2"):
            Ranks.from_env(env)
        with pytest.raises(InputError, match="the engine says 2, torchrun says 1"):
            Ranks.from_env({Env.WORLD_SIZE: "2"})

    def test_a_timeout_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in ("soon", "0"):
            monkeypatch.setenv(Env.RANKS_TIMEOUT, text)
            with pytest.raises(InputError, match=f"{Env.RANKS_TIMEOUT}: '{text}' is no time"):
                distributed.timeout()


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
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: id(p) for name, p in model.named_parameters()}
    data_parallel._change_class(model, nn.BatchNorm2d, nn.SyncBatchNorm)
    assert type(model[1]) is nn.SyncBatchNorm
    assert {name: id(p) for name, p in model.named_parameters()} == before
    data_parallel._change_class(model, nn.SyncBatchNorm, nn.BatchNorm2d)
    assert type(model[1]) is nn.BatchNorm2d
    assert model(torch.zeros(2, 3, 4, 4)).shape == (2, 4, 4, 4)


def test_other_errors_are_not_the_ranks() -> None:
    assert distributed.lost(RuntimeError("shape mismatch")) is None
    assert distributed.lost(ValueError("Connection closed by peer")) is None
    gone = distributed.lost(RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed"))
    assert isinstance(gone, RanksLost)
    assert gone.exit_code == ExitCode.RETRYABLE
