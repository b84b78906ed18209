"""The device of a process: GPUs that were asked for and are not there, or of no use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranked import Ranked
from rastervision.fastai_backend import distributed, models
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.devices import CPU, device_of
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import PredictSettings, TrainSettings
from rastervision.fastai_backend.predict import ScenePredictor
from rastervision.fastai_backend.ranks import Ranks
from said import says

from rvk8s.contract import Env
from rvk8s.errors import InputError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many GPUs torch can use."""

    def usable(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))

    usable(0)
    for name in (Env.GPUS, "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return usable


@pytest.mark.parametrize("named", [None, "", "none", "void", "all"])
def test_a_gpu_that_is_only_a_word(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    monkeypatch.setenv(Env.GPUS, "1")
    if named is not None:
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", named)
    (tmp_path / "nvidiactl").touch()  # of the driver, not of a GPU
    assert device_of(dev=tmp_path) == CPU


def test_a_gpu_of_no_use(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    assert device_of(dev=tmp_path) == CPU, "nobody has asked for it"
    monkeypatch.setenv(Env.GPUS, "0")
    assert device_of(dev=tmp_path) == CPU
    monkeypatch.setenv(Env.GPUS, "2")
    with pytest.raises(InputError, match=r"^2 GPUs .* torch .*none .*: \w.*;"):
        device_of(dev=tmp_path)
    gpus(1)
    with pytest.raises(InputError, match=r"torch .*1 of this node's: .* --gpus 0\b"):
        device_of(dev=tmp_path)
    monkeypatch.delenv(Env.GPUS)
    with pytest.raises(InputError, match=r"^2 processes .*1 GPUs"):
        device_of(Ranks(0, 0, 2), tmp_path)
    assert device_of(dev=tmp_path) == torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((6, 1), ["sm_70", "sm_80", "sm_120"], False),
        ((8, 9), ["sm_70", "sm_80", "sm_120"], True),
        ((10, 3), ["sm_70", "sm_90a", "sm_100a"], True),
        ((12, 0), ["sm_70", "sm_80"], False),
        ((12, 0), ["sm_70", "sm_80", "compute_80"], True),
        ((6, 1), ["sm_70", "compute_70"], False),
        ((9, 4), ["gfx942"], True),
    ],
)
def test_a_gpu_that_torch_is_not_built_for(
    tmp_path: Path,
    gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    built: list[str],
    runs: bool,
) -> None:
    gpus(1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100")
    if runs:
        assert device_of(dev=tmp_path) == torch.device("cuda")
    else:
        with pytest.raises(InputError, match=r"not built for Tesla P100, .* 7\.0 "):
            device_of(dev=tmp_path)


def test_a_gpu_of_another_maker(
    tmp_path: Path, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of amd.com/gpu: torch as our image has it is built for NVIDIA's."""
    (tmp_path / "kfd").touch()
    assert device_of(dev=tmp_path) == CPU, "nobody has asked for it"
    monkeypatch.setenv(Env.GPUS, "1")
    with pytest.raises(InputError, match=r"^1 GPUs .*AMD's, .*torch .*not built for ROCm;"):
        device_of(dev=tmp_path)
    gpus(1)  # a torch that is built for ROCm
    assert device_of(dev=tmp_path) == torch.device("cuda")


def test_prediction_does_not_take_the_cpu_instead(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "b")
    spec = ModelSpec("unet", "resnet18", 3, names, names, None, (0.0,) * 3, (1.0,) * 3, 64)
    model = models.build(spec)
    monkeypatch.setenv(Env.GPUS, "1")
    assert ScenePredictor(model, spec, PredictSettings()).device == CPU
    assert not torch.backends.cudnn.allow_tf32, "fp32 is fp32"
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-1234")  # given without its device files
    with pytest.raises(InputError, match=r"^1 GPUs .*asked"):
        ScenePredictor(model, spec, PredictSettings())


@pytest.mark.parametrize("how", ["broken", "missing"])
def test_nodes_that_differ(
    ranked: Ranked,
    settings: Callable[..., TrainSettings],
    make_chips: Callable[..., ArrayChips],
    how: str,
) -> None:
    """All say why, at once: nobody waits for the others."""

    def device(ranks: Ranks) -> torch.device:
        if ranks.node == 0:
            return CPU
        if how == "broken":
            raise InputError("the driver is too old", fix="update it")
        return torch.device("cuda")

    def hook(rank: int) -> None:
        os.environ |= {"GROUP_RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        init = dist.init_process_group
        dist.init_process_group = lambda _, **kwargs: init("gloo", **kwargs)
        distributed.device_of = device

    said = ranked(settings(), make_chips(6), make_chips(2), hook=hook)
    if how == "broken":
        assert said == [
            "InputError: node 1: the driver is too old; update it",
            "InputError: the driver is too old; update it",
        ]
    else:
        assert len(set(said)) == 1
        assert says(said[0], "InputError: …nodes…GPUs…none: 0; …")
