"""A Launcher for tests: stages as forked children of stage_server.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from rvk8s.contract import CONTRACT_VERSION, Env, split_of
from rvk8s.plan import Plan, Stage


class StageServer:
    """The process that forks stages, which test processes share; a context manager.

    Args:
        folder: of its socket: who comes first starts it.
    """

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / "stages.socket"
        self._lock = threading.Lock()

    def __enter__(self) -> StageServer:
        with FileLock(self._folder / "stages.lock"):
            self._connection = self._connected() or self._started()
        self._file = self._connection.makefile("rw")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._connection.close()

    def _connected(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            return None
        return connection

    def _started(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        environ = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        program = Path(__file__).parents[2] / "stage_server.py"
        with (self._folder / "stages.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(program), str(self._path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ, "TQDM_DISABLE": "1"},
            )
        while not (connection := self._connected()):
            assert process.poll() is None, (self._folder / "stages.log").read_text()
            time.sleep(0.1)
        process.returncode = 0  # it outlives this process, if another one needs it
        return connection

    def start(self, request: Mapping[str, Any]) -> int:
        Path(request["log"]).parent.mkdir(parents=True, exist_ok=True)
        Path(request["log"]).touch()
        return int(self._ask(request)["pid"])

    def code(self, pid: int) -> int | None:
        code: int | None = self._ask({"pid": pid})["code"]
        return code

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._file.write(json.dumps(request) + "\n")
            self._file.flush()
            line = self._file.readline()
        assert line, "the stage server has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class ForkLauncher:
    """Starts stages through a StageServer."""

    def __init__(
        self,
        plan: Plan,
        server: StageServer,
        logs: Path,
        environ: Mapping[str, str] | None = None,
    ):
        self.plan, self.server, self.logs, self.environ = plan, server, logs, environ or {}

    def start(self, stage: Stage, splits: Sequence[int], attempt: int = 1) -> ForkedSplits:
        pids = {split: self.start_one(stage.name, split, stage.splits) for split in splits}
        return ForkedSplits(self.server, pids)

    def start_one(self, stage: str, split: int = 0, splits: int = 1, **more: Any) -> int:
        """Start one split; env adds to its environment, dieAfterPublishes kills it."""
        env = {
            Env.CONTRACT: str(CONTRACT_VERSION),
            Env.RUN_ID: self.plan.run_id,
            Env.RUN_URI: self.plan.run_uri,
            Env.SPLITS: str(splits),
            Env.SPLIT_INDEX: str(split),
            Env.GPUS: "0",
            Env.THREADS: "1",
            # A killed stage leaves its temporary files.
            "TMPDIR": str(self.logs),
            **self.environ,
            **more.pop("env", {}),
        }
        log = self.logs / f"{stage}-{split_of(splits, split) or 0}.txt"
        return self.server.start({"stage": stage, "env": env, "log": str(log), **more})

    def run_one(self, stage: str, kill: tuple[float, int] | None = None, **more: Any) -> int:
        """Do a stage and return its exit code.

        Args:
            kill: after this many seconds, this signal.
        """
        pid = self.start_one(stage, **more)
        began = time.monotonic()
        while True:
            code = self.server.code(pid)
            if code is not None:
                return code
            if kill and time.monotonic() - began >= kill[0]:
                os.kill(pid, kill[1])
                kill = None
            assert time.monotonic() - began < 300, f"{stage} hangs"
            time.sleep(0.01)


class ForkedSplits:
    """Forked children that do splits of a stage."""

    def __init__(self, server: StageServer, pids: dict[int, int]):
        self._server, self._pids = server, pids
        self._codes: dict[int, int] = {}

    def poll(self) -> Mapping[int, int]:
        for split, pid in self._pids.items():
            if split not in self._codes:
                code = self._server.code(pid)
                if code is not None:
                    self._codes[split] = code
        return self._codes

    def stop(self) -> None:
        for split, pid in self._pids.items():
            if split not in self._codes:
                os.kill(pid, signal.SIGKILL)
        while len(self._codes) < len(self._pids):
            self.poll()
            time.sleep(0.02)
