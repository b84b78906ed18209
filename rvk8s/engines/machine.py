"""What this machine has, found without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

#: Where WSL has its tools, outside of many a PATH.
_WSL_TOOL = "/usr/lib/wsl/lib/nvidia-smi"
#: Seconds that it may take: a driver that hangs must not hold up `rvk8s plan`.
_PATIENCE = 10.0


def gpu_count(dev: Path = Path("/dev")) -> int:
    """How many NVIDIA GPUs a process of ours may use."""
    return len(gpu_names(dev))


def gpu_names(dev: Path = Path("/dev")) -> list[str]:
    """The NVIDIA GPUs that a process of ours may use, as CUDA_VISIBLE_DEVICES names them.

    One device file stands for each GPU, in containers too; WSL has one file for all, and its
    nvidia-smi counts them. CUDA_VISIBLE_DEVICES narrows them as it does for CUDA: the names before
    the first that is not one.
    """
    found = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in dev.glob("nvidia*"))
    if not found and (dev / "dxg").exists():
        found = _listed()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(found)]
    names = []
    for name in visible.split(","):
        if name.strip() in ("", "-1"):
            break
        names.append(name.strip())
    return names[:found]


def _listed() -> int:
    """How many GPUs nvidia-smi lists; 0 where there is none, or no answer."""
    program = shutil.which("nvidia-smi") or _WSL_TOOL
    try:
        done = subprocess.run(
            [program, "-L"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith(b"GPU ") for line in done.stdout.splitlines())
