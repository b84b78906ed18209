"""What this machine has, found without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path


def gpu_count(dev: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs a process of ours may use.

    One device file stands for each GPU, in containers too; CUDA_VISIBLE_DEVICES narrows them as it
    does for CUDA: the names before the first that is not one.
    """
    found = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in dev.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    named = 0
    for name in visible.split(","):
        if name.strip() in ("", "-1"):
            break
        named += 1
    return min(found, named)
