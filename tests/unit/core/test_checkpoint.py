"""Checkpoints that can't be used or written; ranks; the progress file."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rastervision.fastai_backend import bundle, checkpoint, models
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.progress import Progress
from rastervision.fastai_backend.ranks import Ranks
from said import says
from torch import nn

from rvk8s.contract import Env
from rvk8s.errors import DiskFull, InputError, OutOfMemory

Train = Callable[..., Path]
Settings = Callable[..., TrainSettings]


class StopError(Exception):
    """What ends the first training."""


@pytest.fixture
def stopped(train: Train, settings: Settings) -> Path:
    """The folder of a training that was stopped after its first epoch."""

    def sync() -> None:
        raise StopError("now")

    with pytest.raises(StopError):
        train(settings(solver={"num_epochs": 2}), sync=sync)
    return Path("train")


class TestResuming:
    @pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
    def test_damaged(
        self, stopped: Path, train: Train, settings: Settings, tmp_path: Path, damage: str
    ) -> None:
        path = tmp_path / "train" / "last.pt"
        if damage == "other":
            torch.save([1, 2], path)
        else:
            data = path.read_bytes()
            kept = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"hello"}
            path.write_bytes(kept[damage])
        with pytest.raises(InputError) as e:
            train(settings(solver={"num_epochs": 2}))
        assert says(str(e.value), f"checkpoint {path}…damaged: …; …remove last.pt…")
        assert "\n" not in str(e.value)

    def test_other_network_classes_bands_or_options(
        self,
        stopped: Path,
        train: Train,
        settings: Settings,
        make_chips: Callable[..., ArrayChips],
    ) -> None:
        two: dict[str, Any] = {"num_epochs": 2}
        cases: list[tuple[dict[str, Any], ArrayChips | None, str]] = [
            ({"model": {"arch": "unet"}}, None, "arch deeplabv3, .* unet"),
            ({"model": {"backbone": "resnet18"}}, None, "backbone .* resnet18"),
            ({}, make_chips(6, channels=4), "channels 3, .* 4"),
            ({}, make_chips(6, dtype="uint16"), "dtype uint8, .* uint16"),
            ({"data": {"img_sz": 64}}, None, "data.img_sz None .* 64"),
            ({"solver": {"lr": 0.5}}, None, "solver.lr 0.001 .* 0.5"),
            ({}, make_chips(8), "training chips 6 .* 8"),
        ]
        for groups, chips, message in cases:
            options = settings(**{**groups, "solver": {**two, **groups.get("solver", {})}})
            with pytest.raises(InputError, match=message):
                train(options, chips=chips)

    def test_another_version(self, tmp_path: Path) -> None:
        torch.save({"format": 99}, tmp_path / "last.pt")
        with pytest.raises(InputError, match="another version"):
            checkpoint.Checkpoint.load(tmp_path / "last.pt")

    def test_a_finished_training_of_other_options(self, train: Train, settings: Settings) -> None:
        folder = train(settings())
        with pytest.raises(InputError, match=r"other options: solver\.seed 0 .* 1; remove"):
            train(settings(solver={"seed": 1}))
        (folder / "metrics.json").write_text("{")
        with pytest.raises(InputError, match=r"metrics\.json is damaged: .*; remove it"):
            train(settings())

    def test_no_best_weights(
        self, stopped: Path, train: Train, settings: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "train" / "last.pt"
        last = torch.load(path, weights_only=True)
        last["epoch"] = 2
        torch.save(last, path)
        (tmp_path / "train" / "best.pt").unlink()
        with pytest.raises(InputError, match=r"best\.pt is missing; remove "):
            train(settings(solver={"num_epochs": 2}))


def test_out_of_memory_names_the_batch_that_fits(
    train: Train, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that asks the allocator for 4 petabytes as soon as a batch is larger than two."""
    build = models.build

    def hungry(*args: Any, **kwargs: Any) -> nn.Module:
        def demand(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if len(inputs[0]) > 2:
                torch.empty(2**50)

        model = build(*args, **kwargs)
        model.register_forward_pre_hook(demand)
        return model

    monkeypatch.setattr(models, "build", hungry)
    with pytest.raises(OutOfMemory) as e:
        train(settings(solver={"batch_sz": 6, "precision": "bf16"}))
    assert says(
        str(e.value), "…6 chips of 32…memory; …solver.batch_sz to 2 …solver.grad_accum to 3…"
    )
    assert not torch.is_autocast_enabled("cpu")


class TestWriting:
    @pytest.fixture
    def small_files(self) -> Iterator[None]:
        """The system refuses files above 1 MB, as a quota does."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, small_files: None) -> None:
        path = tmp_path / "last.pt"
        checkpoint.save_tensors(path, {"a": torch.zeros(3)})
        before = path.read_bytes()
        with pytest.raises(DiskFull, match=r"no space left .*last\.pt"):
            checkpoint.save_tensors(path, {"a": torch.zeros(1_000_000)})
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]

    def test_a_full_disk_leaves_no_half_bundle(self, tmp_path: Path, small_files: None) -> None:
        spec = ModelSpec("unet", "resnet18", 3, ("a",), ("red",), None, (0.0,) * 3, (1.0,) * 3, 64)
        with pytest.raises(DiskFull, match=r"no space left .*model-bundle\.zip"):
            bundle.save(tmp_path / bundle.NAME, {"a": torch.zeros(1_000_000)}, spec)
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_ends_the_training(
        self, train: Train, settings: Settings, tmp_path: Path, small_files: None
    ) -> None:
        with pytest.raises(DiskFull, match=r"^no space left .*best\.pt"):
            train(settings())
        assert "best.pt" not in {p.name for p in (tmp_path / "train").iterdir()}


class TestRanks:
    def test_alone_and_among_others(self) -> None:
        assert Ranks.from_env({}) == Ranks(0, 0, 1)
        ranks = Ranks.from_env({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"})
        assert ranks == Ranks(3, 1, 4)
        assert not ranks.writes
        assert Ranks().writes

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            ({"RANK": "0"}, "RANK=0 .*not LOCAL_RANK, WORLD_SIZE"),
            ({"RANK": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, "don't fit each other"),
            ({"RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, "don't fit each other"),
            ({"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "not numbers"),
        ],
    )
    def test_disagreement(self, env: dict[str, str], message: str) -> None:
        with pytest.raises(InputError, match=message):
            Ranks.from_env(env)


def test_progress_merges_and_is_written_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress()
    progress.report(epoch=1)
    path = tmp_path / "progress.json"
    monkeypatch.setenv(Env.PROGRESS_FILE, str(path))
    progress.report(batch=2, message="hello")
    shown = json.loads(path.read_text())
    assert (shown["epoch"], shown["batch"], shown["message"]) == (1, 2, "hello")
    assert shown["updated"].endswith("Z")
    progress.report(batch=3, message=None)
    assert json.loads(path.read_text())["batch"] == 2
    progress.report(flush=True)
    assert json.loads(path.read_text()) | {"updated": ""} == {"updated": "", "epoch": 1, "batch": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]
