"""Start-up of the client beside bare Python's: least of many starts, five times.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

RVK8S = str(Path(sys.executable).parent / "rvk8s")


def milliseconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    milliseconds(RVK8S, "--help")
    for run in range(5):
        pairs = [
            (milliseconds(RVK8S, "--help"), milliseconds(sys.executable, "-I", "-c", "pass"))
            for _ in range(15)
        ]
        client, bare = min(a for a, _ in pairs), min(b for _, b in pairs)
        print(
            f"run {run}: rvk8s --help {client:.0f} ms, python {bare:.0f} ms, {client / bare:.1f}x"
        )


if __name__ == "__main__":
    main()
