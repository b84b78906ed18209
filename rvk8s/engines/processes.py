"""Stages as processes of this machine: each in a process group of its own, its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rvk8s import storage
from rvk8s.contract import CONTRACT_VERSION, Env, attempt_line, split_of
from rvk8s.engines.machine import gpu_names
from rvk8s.errors import Rvk8sError
from rvk8s.parallel import Abandoned, in_threads, within
from rvk8s.plan import Plan, Stage
from rvk8s.storage import local_files

#: Seconds from SIGTERM to SIGKILL; everything is gone within ten.
GRACE = 7.0
#: Seconds that storage gets to take the logs of splits that failed; of those that were stopped.
_KEEP_LOGS, _KEEP_LOGS_STOPPED = 5.0, 1.0


def cores() -> int:
    """CPU cores that a run may use: those that this process may, or RVK8S_THREADS."""
    given = os.environ.get(Env.THREADS, "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))


class ProcessLauncher:
    """Starts stages as processes `rvk8s-stage NAME`.

    Args:
        plan: the run.
        scratch: a local folder for the processes' temporary files and, where the run is on S3, for
            their logs.
    """

    def __init__(self, plan: Plan, scratch: Path):
        self.plan, self.scratch = plan, scratch

    def start(self, stage: Stage, splits: Sequence[int], attempt: int = 1) -> ProcessSplits:
        return ProcessSplits(self, stage, splits)

    def environment(
        self, stage: Stage, split: int, splits: int, threads: int, slot: int = 0
    ) -> dict[str, str]:
        """The environment of a split: this process's and what contract.Env says.

        Args:
            threads: CPU threads that it may use.
            slot: which of the processes that run at once this is: it has GPUs of its own.
        """
        gpus = gpus_of(stage.gpus, slot, gpu_names())
        ranks = {str(Env.RANKS_PER_NODE): str(stage.ranks)} if stage.ranks > 1 else {}
        return {
            **os.environ,
            **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
            **ranks,
            Env.CONTRACT: str(CONTRACT_VERSION),
            Env.RUN_ID: self.plan.run_id,
            Env.RUN_URI: self.plan.run_uri,
            Env.SPLITS: str(splits),
            Env.SPLIT_INDEX: str(split),
            Env.GPUS: str(stage.gpus),
            Env.THREADS: str(threads),
            Env.WATCH_PARENT: "1",
            Env.LOG_FILE: str(self.log_file(stage.name, split, splits)),
            "PYTHONHASHSEED": "0",
            # Logs are read as UTF-8, and a character must not end a stage: the terminal's encoding
            # is not theirs.
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.scratch),
        }

    def log_file(self, stage: str, split: int, splits: int) -> Path:
        """The local file that collects a split's output."""
        uri = self.plan.layout.log(stage, split_of(splits, split))
        if not storage.is_s3(uri):
            return Path(uri)
        return self.scratch / f"log-{stage}-{split}.txt"


def gpus_of(count: int, slot: int, names: Sequence[str]) -> str:
    """The GPUs of one of the processes that run at once, as CUDA_VISIBLE_DEVICES takes them.

    Where there are fewer than all of them want, they share.

    Args:
        count: how many it uses.
        slot: its number among those that run at once.
        names: the GPUs of this machine.
    """
    chosen = [names[(slot * count + i) % len(names)] for i in range(min(count, len(names)))]
    return ",".join(chosen)


class ProcessSplits:
    """Splits of one stage: as many processes at once as there are cores, the others wait.

    The first ones start with the first poll(): whoever calls it stops them whatever happens.

    Args:
        launcher: what is common to all stages of the run.
        stage: the stage; its `splits` is how many there are in all.
        splits: those that are started.
    """

    gave_back = False
    held = 0.0

    def __init__(self, launcher: ProcessLauncher, stage: Stage, splits: Sequence[int]):
        self._launcher, self._stage = launcher, stage
        self._waiting = list(splits)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._codes: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        self._at_once = min(len(splits), cores())

    def poll(self) -> Mapping[int, int]:
        self._keep_logs(self._reap(), _KEEP_LOGS)
        self._start_more()
        return self._codes

    def stop(self) -> None:
        """SIGTERM to every process group, SIGKILL to what is left of them after GRACE seconds."""
        self._waiting.clear()
        for process in self._processes.values():
            _signal_group(process, signal.SIGTERM)
        ended, end = self._reap(), time.monotonic() + GRACE
        while self._processes and time.monotonic() < end:
            time.sleep(0.05)
            ended += self._reap()
        for process in self._processes.values():
            _signal_group(process, signal.SIGKILL)
        while self._processes:
            time.sleep(0.02)
            ended += self._reap()
        # When all are gone: storage that does not answer must keep none of them alive.
        self._keep_logs(ended, _KEEP_LOGS_STOPPED)

    def _reap(self) -> list[int]:
        """The splits that have ended since the last look."""
        codes = {split: _ended(process) for split, process in self._processes.items()}
        new = {split: code for split, code in codes.items() if code is not None}
        self._codes |= new
        for split in new:
            del self._processes[split], self._slots[split]
        return list(new)

    def _start_more(self) -> None:
        while self._waiting and len(self._processes) < self._at_once:
            split = self._waiting.pop(0)
            taken = set(self._slots.values())
            self._slots[split] = next(i for i in range(self._at_once) if i not in taken)
            self._processes[split] = self._start(split)

    def _start(self, split: int) -> subprocess.Popen[bytes]:
        launcher, stage = self._launcher, self._stage
        log_file = launcher.log_file(stage.name, split, stage.splits)
        local_files.make_dir(log_file.parent)
        threads = max(1, cores() // self._at_once)
        folder = launcher.plan.project_dir
        with local_files.errors(log_file), log_file.open("ab") as log:
            title = f"{stage.name}, split {split + 1} of {stage.splits}"
            log.write(attempt_line(title).encode() + b"\n")
            log.flush()
            return subprocess.Popen(
                # -P: the user's folder must not hide modules that the stage imports.
                [sys.executable, "-P", "-m", "rastervision.kubernetes.stage", stage.name],
                env=launcher.environment(stage, split, stage.splits, threads, self._slots[split]),
                cwd=folder if os.path.isdir(folder) else None,
                # The stage ends itself when this pipe closes: when we die, however we die.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _keep_logs(self, splits: Sequence[int], seconds: float) -> None:
        """Upload the logs of processes that were killed before they could do so."""
        launcher, stage = self._launcher, self._stage
        logs = {
            launcher.plan.layout.log(stage.name, split_of(stage.splits, split)): split
            for split in splits
            if self._codes[split] and storage.is_s3(launcher.plan.run_uri)
        }

        def keep(uri: str) -> None:
            storage.copy(str(launcher.log_file(stage.name, logs[uri], stage.splits)), uri)

        if not logs:
            return
        # The stage's own failure is what has to be reported.
        with suppress(Rvk8sError, Abandoned):
            within(seconds, lambda: in_threads(keep, logs))


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that has ended, 128 + the signal's number after a signal.

    What is left of its group (workers of a data loader) is killed before the process is reaped, as
    long as nothing else can have its id.
    """
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if os.waitid(os.P_PID, process.pid, flags) is None:
        return None
    _signal_group(process, signal.SIGKILL)
    code = process.wait()
    if process.stdin:
        process.stdin.close()
    return code if code >= 0 else 128 - code


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
