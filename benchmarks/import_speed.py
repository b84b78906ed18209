"""CPU-seconds and peak memory of stages of the tests' smallest project, which do little else than
import, in pairs: with and without Python's garbage collector (configure), and with all of Raster
Vision or what the stage needs of it (analyze, chip and train).

    python benchmarks/import_speed.py [RUNS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/pipeline/tiny"))

import scenes  # noqa: E402 - from tests/
from tinyrun import make_plan, write_run_json  # noqa: E402

from rvk8s.contract import Env  # noqa: E402
from rvk8s.plan import Plan  # noqa: E402

#: What a stage sets before its imports, since some of these come before the stage here.
QUIET = {
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONHASHSEED": "0",
}
STAGE = "import sys; from rastervision.kubernetes.stage import main; main(sys.argv[1:])"
#: As a stage was before: collections go on.
COLLECTING = f"import gc; gc.disable = lambda: None; {STAGE}"
#: As a stage was before: Raster Vision imports all that there is.
WHOLE = f"import gc; gc.disable(); import rastervision.pipeline; {STAGE}"


def new_run(folder: Path, run_id: str) -> Plan:
    plan = make_plan(folder, folder / "data", run_id)
    write_run_json(plan)
    return plan


def cost(plan: Plan, stage: str, code: str = STAGE) -> tuple[float, float]:
    """CPU-seconds (user and system) and peak memory (MiB) of a stage."""
    environ = {**os.environ, **QUIET, Env.RUN_URI: plan.run_uri, Env.GPUS: "0"}
    command = [sys.executable, "-c", code, stage]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(said)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    ratios: dict[str, list[float]] = defaultdict(list)

    def compare(run: int, what: str, old: tuple[float, float], new: tuple[float, float]) -> None:
        ratios[what].append(new[0] / old[0])
        print(
            f"run {run}: {what}: {old[0]:.2f} CPU-s ({old[1]:.0f} MiB) before, "
            f"{new[0]:.2f} CPU-s ({new[1]:.0f} MiB) now, ratio {ratios[what][-1]:.2f}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        scenes.draw(folder / "data")
        cost(new_run(folder, "warm-up"), "configure")
        for run in range(1, runs + 1):
            before, now = new_run(folder, f"before-{run}"), new_run(folder, f"now-{run}")
            old, new = cost(before, "configure", COLLECTING), cost(now, "configure")
            compare(run, "configure, collecting", old, new)
            for stage in ("analyze", "chip", "train"):
                old, new = cost(before, stage, WHOLE), cost(now, stage)
                compare(run, f"{stage}, all imported", old, new)
    for what, found in ratios.items():
        print(f"{what}: median ratio {statistics.median(found):.2f}")


if __name__ == "__main__":
    main()
