"""Two ranks on two cores against one rank pinned to one core: images per second of training.

Both train the same network in alternating runs, each rank on a core and a thread of its own, with
the same number of chips for each rank in a batch. The first steps are not counted. Beside the time
of the clock, which any other work on the two cores disturbs, stand images per CPU-second: what the
exchange of gradients costs, without the time in which a rank waits for the other.

    python benchmarks/ranks_speed.py --runs 5

With --nice -19 (as root) training goes before other work.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

#: Steps before the clock starts.
WARM_UP = 3


def rank_main(args: argparse.Namespace) -> None:
    """One rank: train, and print the images per second of all ranks together."""
    import numpy as np
    import torch
    from rastervision.fastai_backend import learner
    from rastervision.fastai_backend.callbacks import EpochLog
    from rastervision.fastai_backend.chips import ArrayChips, Classes
    from rastervision.fastai_backend.options import TrainSettings

    os.sched_setaffinity(0, {args.core})
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rng = np.random.default_rng(0)
    count = args.batch * world * args.steps
    shape = (count, args.size, args.size)
    chips = ArrayChips(
        rng.integers(1, 255, (*shape, 3), np.uint8), rng.integers(0, 3, shape, np.uint8), 3
    )
    times: list[tuple[float, float]] = []
    after_batch = EpochLog.after_batch

    def record(self: EpochLog) -> None:
        after_batch(self)
        if self.learn.training:
            times.append((time.monotonic(), time.process_time()))

    EpochLog.after_batch = record  # type: ignore[method-assign]
    settings = TrainSettings(
        model={"arch": args.arch, "backbone": args.backbone, "pretrained": False},
        solver={
            "batch_sz": args.batch * world,
            "num_epochs": 1,
            "lr": 1e-3,
            "precision": args.precision,
            "log_tensorboard": False,
        },
    )
    valid = ArrayChips(chips.images[:world], chips.labels[:world], 3)
    classes = Classes(("a", "b", "c"), ("red", "green", "blue"))
    os.nice(args.nice)  # before gloo starts threads: each has a priority of its own
    with tempfile.TemporaryDirectory() as folder:
        learner.train(settings, chips, valid, classes, Path(folder))
    images = args.batch * (len(times) - 1 - WARM_UP)
    seconds, cpu = (times[-1][i] - times[WARM_UP][i] for i in (0, 1))
    print(json.dumps({"images": images, "seconds": seconds, "cpu": cpu}), flush=True)


def run(ranks: int, cores: list[int], options: list[str]) -> tuple[float, float]:
    """Images per second, and per CPU-second, of some ranks, each on a core of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        if ranks > 1:
            env |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",
            }
        command = [sys.executable, __file__, "--core", str(cores[rank]), *options]
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=900)[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a rank failed")
    parts = [json.loads(text.splitlines()[-1]) for text in said]
    images = sum(part["images"] for part in parts)
    seconds, cpu = max(part["seconds"] for part in parts), sum(part["cpu"] for part in parts)
    return images / seconds, images / cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="unet")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--precision", default="auto")
    for name, value in (("size", 300), ("batch", 4), ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.core is not None:
        rank_main(args)
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    options = [
        f"--{name}={value}" for name, value in vars(args).items() if name not in ("runs", "core")
    ]
    ratios, costs = [], []
    for number in range(args.runs):
        # Either core may be the slower one while other work runs.
        one, one_cpu = run(1, [cores[number % 2]], options)
        two, two_cpu = run(2, cores, options)
        ratios.append(two / (2 * one))
        costs.append(two_cpu / one_cpu)
        print(
            f"run {number + 1}: images/s: one rank {one:.2f}, two ranks {two:.2f}, "
            f"two / twice one {ratios[-1]:.2f}; per CPU-second: {one_cpu:.2f}, {two_cpu:.2f}, "
            f"ratio {costs[-1]:.2f}",
            flush=True,
        )
    print(
        f"ratio: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}; "
        f"per CPU-second: median {statistics.median(costs):.2f}"
    )


if __name__ == "__main__":
    main()
