"""Several ranks train as one would: real processes, gloo, no Raster Vision."""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranked import Hook, Ranked, torchrun
from rastervision.fastai_backend import checks, distributed, learner, schedule
from rastervision.fastai_backend.callbacks import EpochLog
from rastervision.fastai_backend.chip_learner import ChipLearner, batch_of_rank
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.ranks import Ranks
from said import says
from torch import nn

from rvk8s.contract import Env
from rvk8s.errors import InputError, Preempted
from rvk8s.storage import uploads

Settings = Callable[..., TrainSettings]
MakeChips = Callable[..., ArrayChips]

pytestmark = pytest.mark.usefixtures("thin")


def several(settings: Settings, **solver: Any) -> TrainSettings:
    """All that could differ by rank in data, schedule and batch normalization."""
    return settings(
        model={"backbone": "mobilenet_v3_small"},
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
            pytest.param(
                {"freeze_epochs": 1, "num_epochs": 1, "grad_clip": 0.5, "schedule": "flat_cos"},
                marks=pytest.mark.slow,
            ),
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
    @pytest.mark.slow
    def test_a_resumed_training_ends_as_one_that_was_not_stopped(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips
    ) -> None:
        """Stopped in the middle of an epoch; dropout and statistics of each rank included.

        Three ranks: the sum of two gradients is the same in either order.
        """
        chips, valid, ranks = make_chips(18), make_chips(3, seed=1), 3
        chosen = several(settings, batch_sz=6, checkpoint_seconds=1e-6, num_epochs=3)
        assert ranked(chosen, chips, valid, ranks=ranks, name="whole") == ["ok"] * ranks
        calls = iter(range(6))

        def sync() -> None:
            if next(calls) == 5:
                raise Preempted("the node goes away")

        first, *others = ranked(chosen, chips, valid, ranks=ranks, name="stopped", sync=sync)
        assert first == "Preempted: the node goes away"
        (lost,) = set(others)
        assert says(lost, "RanksLost: another rank…ended")
        assert ranked(chosen, chips, valid, ranks=ranks, name="stopped") == ["ok"] * ranks
        assert ranked.rows("stopped") == ranked.rows("whole")
        whole, stopped = ranked.weights("whole"), ranked.weights("stopped")
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)

    def test_all_begin_with_the_statistics_of_rank_0(
        self, ranked: Ranked, settings: Settings, make_chips: MakeChips
    ) -> None:
        """They are of pretrained weights, which rank 0 alone loads."""

        def hook(rank: int) -> None:
            def other_statistics(learn: ChipLearner) -> None:
                for buffer in learn.model.buffers():
                    buffer.fill_(rank + 1)

            def look(model: nn.Module, _: object) -> None:
                assert {float(b.max()) for b in model.buffers()} == {1.0}, f"rank {rank}"

            make = learner.make_learner

            def made(*args: Any) -> ChipLearner:
                learn = make(*args)
                other_statistics(learn)
                seen = learn.model.register_forward_pre_hook(look)
                seen_once = learn.model.register_forward_hook(lambda *_: seen.remove())
                learn.model.register_forward_hook(lambda *_: seen_once.remove())
                return learn

            learner.make_learner = made

        assert ranked(several(settings), make_chips(8), make_chips(2), hook=hook) == ["ok", "ok"]

    @pytest.mark.slow
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
            schedule.LR_FIND_BATCHES = 30
            without_dropout(rank)

        assert ranked(chosen, make_chips(8), make_chips(1, seed=1), hook=hook) == ["ok", "ok"]
        said = capfd.readouterr().err
        assert said.count("2 ranks with gloo") == 1
        assert said.count("solver.sync_bn needs GPUs") == 1
        rows = ranked.rows()
        assert said.count("train loss") == len(rows)
        assert said.count("stopping early") == (len(rows) < 9)
        found = re.findall(r"lr_find chose \D*(\S+)", said)
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

    @pytest.mark.parametrize(
        "how", ["raises", "is killed", pytest.param("hangs", marks=pytest.mark.slow)]
    )
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
            assert says(first, "RanksLost: …waited 3 s…")
        else:
            assert says(first, "RanksLost: another rank…ended")
        assert {"raises": "broken", "is killed": "-9", "hangs": "RanksLost"}[how] in second

    def test_a_batch_that_cannot_be_shared(self) -> None:
        assert batch_of_rank(8, 100, 4) == 2
        assert batch_of_rank(8, 7, 2) == 3
        with pytest.raises(InputError, match=r"solver.batch_sz: 9 chips .* use 8 or 12"):
            batch_of_rank(9, 100, 4)
        with pytest.raises(InputError, match=r"^solver.batch_sz: .* 4 ranks; use 4\b"):
            batch_of_rank(3, 100, 4)
        with pytest.raises(InputError, match=r"1 training chips .* 2 ranks"):
            batch_of_rank(8, 1, 2)
        chosen = TrainSettings(solver={"batch_sz": 9})
        errors = checks.check(chosen, Classes(("a",), ("red",)), 0, ranks=2)
        assert "can't be shared" in str(errors[0])

    def test_an_engine_that_counts_otherwise(self) -> None:
        env = {**torchrun(0, 2, 1), Env.WORLD_SIZE: "4"}
        with pytest.raises(InputError, match=r"engine .*4, torchrun .*2"):
            Ranks.from_env(env)
        with pytest.raises(InputError, match=r"engine .*2, torchrun .*1"):
            Ranks.from_env({Env.WORLD_SIZE: "2"})

    def test_the_others_wait_longer_than_rank_0_waits_for_storage(self) -> None:
        assert distributed.timeout() > uploads.PATIENCE + 2 * uploads._LONGEST_PAUSE

    def test_memory_that_nccl_lacks_is_no_lost_rank(self) -> None:
        text = "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error\nCuda failure 2 '{}'"
        for own in ("unspecified launch failure", "out of memory"):
            assert distributed.lost(RuntimeError(text.format(own))) is None

    @pytest.mark.parametrize(
        ("said", "is_lost"),
        [
            (
                "ncclInvalidUsage: ...\nLast error:\nDuplicate GPU detected : rank 0 and rank 1",
                False,
            ),
            ("ncclSystemError: ...\nError while creating shared memory /dev/shm/nccl-x", False),
            ("ncclSystemError: ...\nsocketProgress: Connection closed by remote peer", True),
            ("ncclRemoteError: A call failed possibly due to a network error", True),
        ],
    )
    def test_what_nccl_says(
        self, caplog: pytest.LogCaptureFixture, said: str, is_lost: bool
    ) -> None:
        assert (distributed.lost(dist.DistBackendError(said)) is not None) == is_lost
        assert (said in caplog.text) == is_lost, "what is no RanksLost is logged with its traceback"

    def test_a_timeout_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for text in ("soon", "0"):
            monkeypatch.setenv(Env.RANKS_TIMEOUT, text)
            with pytest.raises(InputError, match=f"{Env.RANKS_TIMEOUT}: '{text}' is no time"):
                distributed.timeout()
