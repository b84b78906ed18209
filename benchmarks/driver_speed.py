"""From the end of a stage's pod to the creation of the next one's, over a hundred transitions.

The driver, the API server, the Job controller and the S3 server are real; pods are played, as in
tests/cluster/driverrun.py. Also: the driver's memory, and its requests in a quiet minute.

    python benchmarks/driver_speed.py [RUNS]

RUNS runs have six transitions each: 17 by default.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster.apiproxy import api_proxy  # noqa: E402 - from tests/
from cluster.apiserver import make_namespace  # noqa: E402
from cluster.controlplane import ControlPlane, install_training_crds, light  # noqa: E402
from cluster.driverrun import Fate, Play, stop  # noqa: E402
from s3server import start_server  # noqa: E402

from rvk8s.contract import STAGES  # noqa: E402

NAMESPACE = "bench"
QUIET = 120.0


def transitions(plane: ControlPlane, folder: Path, root: str, runs: int) -> None:
    gaps: list[float] = []
    starts: list[float] = []
    memory: list[int] = []
    for number in range(runs):
        place = folder / str(number)
        place.mkdir()
        with Play(plane, NAMESPACE, place, root=root, run_id=f"run-{number}") as play:
            began = time.monotonic()
            code = play.finish(play.drive())
            if code:
                sys.exit(f"run {number} ended with {code}: {play.said()}")
            gaps += [play.times[b, "pod"] - play.times[a, "ended"] for a, b in pairwise(STAGES)]
            starts.append(play.times["configure", "pod"] - began)
            memory += [int(found) for found in re.findall(r"(\d+) MiB of memory", play.said())]
    print(f"{len(gaps)} transitions: {_spread(gaps)}")
    print(f"process to first pod: {_spread(starts)}")
    print(f"memory: {min(memory)} to {max(memory)} MiB")


def quiet(plane: ControlPlane, folder: Path, root: str) -> None:
    """The requests of a driver while a stage runs; a pod without a node has no log to follow."""

    def act(stage: str, index: int, attempt: int) -> Fate:
        return None if stage == "analyze" else 0

    place = folder / "quiet"
    place.mkdir()
    with (
        api_proxy(plane.kubeconfig, place, NAMESPACE) as proxy,
        Play(plane, NAMESPACE, place, act, root=root, run_id="quiet") as play,
    ):
        driver = play.drive(KUBECONFIG=str(proxy.kubeconfig))
        play.until(lambda: play.running("analyze"))
        time.sleep(5)
        before = len(proxy.requests)
        time.sleep(QUIET)
        asked = [path for _, path in proxy.requests[before:] if "/log" not in path]
        print(f"a quiet minute: {len(asked) / QUIET * 60:.1f} requests")
        stop(driver)


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    late = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return f"median {statistics.median(ordered):.2f} s, 99 % {late:.2f}, most {ordered[-1]:.2f}"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 17
    print("load:", " ".join(f"{one:.1f}" for one in os.getloadavg()))
    with tempfile.TemporaryDirectory(prefix="rvk8s-bench-") as name:
        folder = Path(name)
        plane = light(folder / "plane")
        try:
            plane.start()
            install_training_crds(plane.kubeconfig)
            make_namespace(plane.kubeconfig, NAMESPACE)
            (folder / "s3").mkdir()
            with start_server(folder / "s3") as s3:
                os.environ.update(s3.environ)
                root = s3.bucket("driver") + "/runs"
                transitions(plane, folder, root, runs)
                quiet(plane, folder, root)
        finally:
            plane.stop()


if __name__ == "__main__":
    main()
