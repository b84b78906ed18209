"""A hundred runs at once in one namespace: a driver for each, and what they ask of the API server.

Drivers, API server, Job controller and S3 server are real; pods are played, as in
tests/cluster/driverrun.py. Each run stands in its second stage, whose pod runs on. Measured over
two minutes: requests of a run in a minute, beside the one that follows its stage's log; drivers'
memory and CPU time; then `rvk8s list` and `status`, which read the runs' records in S3, too.

    python benchmarks/many_runs.py [RUNS]

It takes some 10 GiB of memory.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster.apiproxy import api_proxy  # noqa: E402 - from tests/
from cluster.apiserver import make_namespace  # noqa: E402
from cluster.controlplane import ControlPlane, install_training_crds, light  # noqa: E402
from cluster.driverrun import Fate, Play  # noqa: E402
from s3server import start_server  # noqa: E402

NAMESPACE = "bench"
RVK8S = str(Path(sys.executable).parent / "rvk8s")
SECONDS = 120.0
ANSWERS = 5


def stay(stage: str, index: int, attempt: int) -> Fate:
    """A pod without a node has no log to follow: every request is the driver's own."""
    return None if stage == "analyze" else 0


def measure(plane: ControlPlane, folder: Path, root: str, runs: int) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(api_proxy(plane.kubeconfig, folder, NAMESPACE))
        drivers, plays = [], []
        began = time.monotonic()
        for number in range(runs):
            place = folder / f"run-{number}"
            place.mkdir()
            name = f"one-20261124-1011{number // 60:02}-{number:04x}"
            play = Play(plane, NAMESPACE, place, stay, root=root, run_id=name)
            plays.append(stack.enter_context(play))
            drivers.append(play.drive(f"driver-{number}", KUBECONFIG=str(proxy.kubeconfig)))
        for play in plays:
            play.until(lambda play=play: play.running("analyze"), 600)
        print(
            f"{runs} runs in their second stage after {time.monotonic() - began:.0f} s", flush=True
        )
        time.sleep(5)
        before, worked = len(proxy.requests), [cpu(one) for one in drivers]
        time.sleep(SECONDS)
        asked = [path for _, path in proxy.requests[before:] if "/log" not in path]
        each = statistics.median(cpu(a) - b for a, b in zip(drivers, worked, strict=True))
        print(f"requests of a run in a minute: {len(asked) / runs / SECONDS * 60:.1f}")
        print(f"a driver's CPU time in a minute: {each / SECONDS * 60:.2f} s")
        peaks = [memory(driver) for driver in drivers]
        print(f"a driver's memory: {min(peaks):.0f} to {max(peaks):.0f} MiB", flush=True)
        client(folder, root, runs, plays[runs // 2].run_id)
        ended = [driver for driver in drivers if driver.poll() is not None]
        assert not ended, f"{len(ended)} drivers have ended: {plays[0].said()}"


def client(folder: Path, root: str, runs: int, run: str) -> None:
    place = folder / "project"
    place.mkdir()
    (place / "rvk8s.yaml").write_text(
        f"apiVersion: rvk8s/v1\nrootUri: {root}\nimage: registry.example.com/rvk8s:1\n"
        f"namespace: {NAMESPACE}\nexperiments: {{}}\n"
    )
    for command in (["list"], ["status", run]):
        seconds = []
        for _ in range(ANSWERS):
            start = time.monotonic()
            done = subprocess.run(
                [RVK8S, *command], cwd=place, check=True, capture_output=True, text=True
            )
            seconds.append(time.monotonic() - start)
        assert command != ["list"] or len(done.stdout.splitlines()) == runs + 1, done.stdout
        print(f"rvk8s {command[0]}: {min(seconds):.2f} to {max(seconds):.2f} s", flush=True)


def cpu(process: subprocess.Popen[bytes]) -> float:
    """Seconds of a process."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: subprocess.Popen[bytes]) -> float:
    """MiB that a process had at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
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
                os.environ["KUBECONFIG"] = str(plane.kubeconfig)
                measure(plane, folder, s3.bucket("driver") + "/runs", runs)
        finally:
            plane.stop()


if __name__ == "__main__":
    main()
