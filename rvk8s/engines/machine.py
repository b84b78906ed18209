"""What this machine has, found without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path


def gpu_count(dev: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs a process of ours may use."""
    return len(gpu_names(dev))


def gpu_names(dev: Path = Path("/dev")) -> list[str]:
    """The NVIDIA GPUs that a process of ours may use, as CUDA_VISIBLE_DEVICES names them.

    One device file stands for each GPU, in containers too; CUDA_VISIBLE_DEVICES narrows them as it
    does for CUDA: the names before the first that is not one.
    """
    found = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in dev.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(found)]
    names = []
    for name in visible.split(","):
        if name.strip() in ("", "-1"):
            break
        names.append(name.strip())
    return names[:found]
