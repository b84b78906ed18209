"""The demo: train, predict and score a fastai model through Raster Vision's whole pipeline.

    make demo

On real imagery where there is some (examples/dubai says where it looks), else on scenes that
examples/synthetic.py draws in the layout of the ISPRS Potsdam data set.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SYNTHETIC = ROOT / ".rvk8s-demo" / "potsdam"
SCENES = ("2_10", "3_10", "4_10", "5_10", "6_10", "7_10", "2_12", "6_12")


def real_imagery() -> Path | None:
    """The folder of Dubai's scenes: below $RVK8S_DATA if that is set, else beside this checkout."""
    given = os.environ.get("RVK8S_DATA")
    base = Path(given) if given else ROOT.parent / "shared" / "data"
    folders = (base / "dubai", base)
    return next((f for f in folders if (f / "tile1_image.tif").is_file()), None)


def run(*command: str | Path) -> None:
    """Show a command and run it; its failure is ours."""
    print(f"$ {shlex.join(map(str, command))}", file=sys.stderr, flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        sys.exit(status)


def main() -> None:
    began = time.monotonic()
    if folder := real_imagery():
        print(f"real imagery: {folder}", file=sys.stderr)
        run(BIN / "rvk8s", "run", "dubai-quick", "-a", "raw_uri", folder)
    else:
        print("no real imagery here (RVK8S_DATA): drawing SYNTHETIC scenes", file=sys.stderr)
        draw = (ROOT / "examples" / "synthetic.py", SYNTHETIC, "--scenes", *SCENES)
        run(sys.executable, *draw, "--size", "900", "--gsd", "0.1")
        run(BIN / "rvk8s", "run", "potsdam-synthetic", "-a", "raw_uri", SYNTHETIC)
    print(f"the demo took {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
