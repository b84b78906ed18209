"""A GPU's memory that is used up: the advice is a batch that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rastervision.fastai_backend.chips import ArrayChips
from rastervision.fastai_backend.options import TrainSettings
from unet import DEVICE, needs_gpu, rows

from rvk8s.contract import ExitCode
from rvk8s.errors import OutOfMemory

pytestmark = needs_gpu("out of memory on a GPU")

#: Bytes that torch may take: less than 64 chips of 256 pixels need (some 10 GB), more than 4 do.
LIMIT = 3 * 2**30
MEMORY = "GPU memory" if DEVICE == "cuda" else "memory"


@pytest.fixture
def small_gpu() -> Iterator[None]:
    if DEVICE == "cpu":  # run by hand, with something else that runs out
        yield
        return
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT / whole))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_batch_that_is_named_fits(
    train: Callable[..., Path],
    settings: Callable[..., TrainSettings],
    make_chips: Callable[..., ArrayChips],
    small_gpu: None,
    precision: str,
) -> None:
    chips, valid = make_chips(64, 256), make_chips(2, 256, seed=1)
    solver = {"batch_sz": 64, "num_epochs": 1, "precision": precision}
    with pytest.raises(OutOfMemory) as e:
        train(settings(solver=solver), "large", chips=chips, valid=valid)
    assert e.value.exit_code == ExitCode.OUT_OF_MEMORY
    found = re.search(
        rf"^a batch of 64 chips of 256 pixels needs too much {MEMORY}; set solver.batch_sz to "
        r"(\d+) \(and solver.grad_accum to (\d+) to train alike\)$",
        str(e.value),
    )
    assert found, str(e.value)
    batch, accum = map(int, found.groups())
    assert batch * accum == 64
    solver |= {"batch_sz": batch, "grad_accum": accum}
    assert len(rows(train(settings(solver=solver), "fits", chips=chips, valid=valid))) == 1
