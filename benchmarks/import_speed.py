"""CPU-seconds of a stage's imports, with and without Python's garbage collector, in pairs.

It is `rvk8s-stage configure` of the tests' smallest project, which does little else.

    python benchmarks/import_speed.py [RUNS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/pipeline/tiny"))

import scenes  # noqa: E402 - from tests/
from tinyrun import make_plan, write_run_json  # noqa: E402

from rvk8s.contract import Env  # noqa: E402

CONFIGURE = "from rastervision.kubernetes.stage import main; main(['configure'])"
#: As a stage was before: collections go on.
COLLECTING = f"import gc; gc.disable = lambda: None; {CONFIGURE}"


def configure(code: str, folder: Path, run_id: str) -> tuple[float, float]:
    """CPU-seconds (user and system) and peak memory (MiB) of the stage of a new run."""
    plan = make_plan(folder, folder / "data", run_id)
    write_run_json(plan)
    environ = {**os.environ, Env.RUN_URI: plan.run_uri, "PYTHONHASHSEED": "0"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ratios = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        scenes.draw(folder / "data")
        configure(CONFIGURE, folder, "warm-up")
        for run in range(1, runs + 1):
            before, memory = configure(COLLECTING, folder, f"before-{run}")
            after, peak = configure(CONFIGURE, folder, f"after-{run}")
            ratios.append(after / before)
            print(
                f"run {run}: collecting {before:.2f} CPU-s ({memory:.0f} MiB), "
                f"without {after:.2f} CPU-s ({peak:.0f} MiB), ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
