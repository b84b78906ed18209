"""Seconds of `rvk8s submit` until the API server has accepted a run, beside Raster Vision's batch.

A real API server on loopback takes the run. `rastervision run batch` submits the same experiment to
an HTTP server that stands for AWS Batch and accepts everything at once. Also: `rvk8s list` and
`status` with a hundred runs in the namespace.

    python benchmarks/submit_speed.py [RUNS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster.controlplane import (  # noqa: E402 - from tests/
    ControlPlane,
    install_training_crds,
    kubectl,
    light,
)

BIN = Path(sys.executable).parent
NAMESPACE = "bench"
RUNS_LISTED = 100


class Batch(BaseHTTPRequestHandler):
    """Accepts every job."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"jobName": "job", "jobId": "1"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def seconds(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
    return time.monotonic() - start


def project(folder: Path) -> None:
    (folder / "rvk8s.yaml").write_text(
        "apiVersion: rvk8s/v1\nrootUri: s3://bucket/runs\nimage: registry.example.com/rvk8s:1\n"
        f"namespace: {NAMESPACE}\n"
        "experiments: {tiny: {module: experiment.py, args: {raw_uri: s3://bucket/raw}}}\n"
    )
    text = (ROOT / "tests" / "pipeline" / "tiny" / "experiment.py").read_text()
    (folder / "experiment.py").write_text(text)


def compare(plane: ControlPlane, folder: Path, runs: int) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Batch)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    aws = {
        "AWS_ENDPOINT_URL_BATCH": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        **{f"BATCH_{d}_JOB_{w}": "x" for d in ("CPU", "GPU") for w in ("QUEUE", "DEF")},
        "BATCH_ATTEMPTS": "1",
    }
    batch = [str(BIN / "rastervision"), "run", "batch", "experiment.py"]
    batch += ["-a", "raw_uri", "s3://bucket/raw", "-a", "root_uri", str(folder / "batch")]
    submit = [str(BIN / "rvk8s"), "submit", "tiny", "--gpus", "4"]
    print("| run | `rvk8s submit` s | `rastervision run batch` s | ratio |")
    print("|---|---|---|---|")
    for number in range(1, runs + 1):
        ours = seconds(submit, folder, environ)
        theirs = seconds(batch, folder, {**environ, **aws})
        print(f"| {number} | {ours:.2f} | {theirs:.1f} | {theirs / ours:.0f} |", flush=True)
    server.shutdown()


def hundred(plane: ControlPlane, folder: Path, runs: int) -> None:
    environ = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
    rvk8s = str(BIN / "rvk8s")
    there = int(kubectl(plane.kubeconfig, "get", "jobs", "-n", NAMESPACE, "-o", "name").count("\n"))
    for _ in range(RUNS_LISTED - there):
        seconds([rvk8s, "submit", "tiny"], folder, environ)
    names = kubectl(plane.kubeconfig, "get", "jobs", "-n", NAMESPACE, "-o", "name").split()
    run = names[-1].rpartition("/")[2]
    # Outside of the project, whose storage is nowhere.
    where = ["-n", NAMESPACE]
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    listed = [seconds([rvk8s, "list", *where], elsewhere, environ) for _ in range(runs)]
    shown = [seconds([rvk8s, "status", run, *where], elsewhere, environ) for _ in range(runs)]
    print(f"{len(names)} runs: list {_range(listed)}, status {_range(shown)}")


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f}–{max(values):.2f} s (median {statistics.median(values):.2f})"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="rvk8s-bench-") as name:
        folder = Path(name) / "project"
        folder.mkdir()
        project(folder)
        plane = light(Path(name) / "plane")
        try:
            plane.start()
            install_training_crds(plane.kubeconfig)
            kubectl(plane.kubeconfig, "create", "namespace", NAMESPACE)
            for account in ("rvk8s-driver", "rvk8s-stage"):
                kubectl(plane.kubeconfig, "create", "serviceaccount", account, "-n", NAMESPACE)
            compare(plane, folder, runs)
            hundred(plane, folder, runs)
        finally:
            plane.stop()


if __name__ == "__main__":
    main()
