"""What the tests that need a GPU share: `make test-gpu`. Elsewhere they are skipped, loudly."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Whether there is a GPU is asked without CUDA: a process that has used it can't fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "core"))
sys.path.insert(0, str(Path(__file__).parent))

from small import classes, make_chips, train
from unet import settings

__all__ = ["classes", "make_chips", "settings", "train"]
