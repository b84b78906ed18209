"""The training core stands without Raster Vision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import importlib.abc, json, sys, warnings
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

torch.set_num_threads(1)
folder = Path(sys.argv[1])

def chips(n):
    return ArrayChips(np.full((n, 32, 32, 3), 9, "uint8"), np.zeros((n, 32, 32), "uint8"), 2)

weights = {"pretrained_uri": sys.argv[2]} if sys.argv[2:] else {"pretrained": False}
settings = TrainSettings(
    model={"arch": "deeplabv3", "backbone": "mobilenet_v3_small"} | weights,
    solver={"batch_sz": 2, "num_epochs": 1, "log_tensorboard": False})
path = learner.train(settings, chips(2), chips(2), Classes(("a", "b"), ("red", "blue")), folder)
model, spec = bundle.load_model(path)
print(json.dumps({
    "classes": model(torch.zeros(1, 3, 32, 32)).shape[1],
    "modules": sorted(m for m in sys.modules if m.startswith("rastervision.")),
}))
"""


def train(*arguments: Path) -> None:
    """In a process of its own, where Raster Vision can't be found."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = json.loads(done.stdout.splitlines()[-1])
    assert alone["classes"] == 2
    assert all(m.startswith("rastervision.fastai_backend") for m in alone["modules"])


def test_it_trains_without_raster_vision(tmp_path: Path) -> None:
    """From nothing, and from the weights of that."""
    train(tmp_path / "first")
    train(tmp_path / "second", tmp_path / "first" / "model-bundle.zip")
