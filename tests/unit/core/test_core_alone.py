"""The training core stands without Raster Vision; and what it says when memory runs out.

Both in one process of their own, since importing torch and fastai takes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.abc, json, logging, resource, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
HIDDEN = ("rastervision.pipeline", "rastervision.core", "rastervision.pytorch_learner",
          "rastervision.pytorch_backend")

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(HIDDEN):
            raise ModuleNotFoundError(f"{name} is hidden", name=name)
        return None

sys.meta_path.insert(0, Hide())

import numpy as np
import torch
from rastervision.fastai_backend import bundle, learner
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import TrainSettings
from rvk8s.errors import OutOfMemory

torch.set_num_threads(1)
folder = Path(sys.argv[1])

def chips(n, size):
    return ArrayChips(np.full((n, size, size, 3), 9, "uint8"),
                      np.zeros((n, size, size), "uint8"), 2)

def train(name, batch, size, **model):
    settings = TrainSettings(
        model={"backbone": "mobilenet_v3_small", "pretrained": False, **model},
        solver={"batch_sz": batch, "num_epochs": 1, "log_tensorboard": False})
    return learner.train(settings, chips(batch, size), chips(2, size),
                         Classes(("a", "b"), ("red", "blue")), folder / name)

path = train("plain", 2, 32, arch="deeplabv3")
model, spec = bundle.load_model(path)
result = {"classes": model(torch.zeros(1, 3, 32, 32)).shape[1],
          "modules": sorted(m for m in sys.modules if m.startswith("rastervision."))}

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000,) * 2)
try:
    train("large", 256, 512, arch="deeplabv3")
except OutOfMemory as e:
    result["memory"] = str(e)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder: Path = tmp_path_factory.mktemp("alone")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_trains_without_raster_vision(alone: dict) -> None:
    assert alone["classes"] == 2
    assert all(m.startswith("rastervision.fastai_backend") for m in alone["modules"])


def test_out_of_memory_names_a_batch_that_fits(alone: dict) -> None:
    assert "a batch of 256 chips of 512 pixels needs too much memory" in alone["memory"]
    assert "set solver.batch_sz to " in alone["memory"]
