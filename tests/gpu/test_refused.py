"""GPUs that are asked for and cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from rastervision.fastai_backend.devices import device_of
from unet import needs_gpu

from rvk8s.contract import Env
from rvk8s.errors import InputError

pytestmark = needs_gpu("GPUs that are refused")

SCRIPT = "from rastervision.fastai_backend.devices import device_of; print(device_of())"


def test_more_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    count = torch.cuda.device_count()
    monkeypatch.setenv(Env.GPUS, str(count))
    device_of()
    monkeypatch.setenv(Env.GPUS, str(count + 1))
    with pytest.raises(InputError, match=rf"{count + 1} GPUs .* torch can use ({count}|none) of"):
        device_of()


@pytest.mark.parametrize("asked", ["0", "1"])
def test_one_that_torch_can_not_see(asked: str) -> None:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", Env.GPUS: asked}
    one = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    if asked == "0":
        assert one.stdout == "cpu\n"
    else:
        assert "InputError: 1 GPUs were asked for, and torch can use none of this" in one.stderr
