"""Ranks as forks of their agent, which torch's elastic agent else starts as programs.

A rank imports what its agent has imported already, for 8 CPU-seconds. All else is as in a program:
a process of its own in a session of its own, and a child of the agent.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Mapping, Sequence
from logging import root
from pathlib import Path
from typing import Any

from rvk8s.contract import Env


def name_of(run_uri: str) -> str:
    """A forked rank of a run in /proc/PID/comm; its environ there is that of the server."""
    return f"rank-{zlib.crc32(run_uri.encode()):08x}"


def fork_ranks() -> None:
    """From here on an agent in this process forks its ranks."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    def popen(self: SubprocessHandler, args: Sequence[str], env: Mapping[str, str]) -> _Forked:
        return _Forked(args, env=env)

    SubprocessHandler._popen = popen  # type: ignore[assignment,method-assign]


class _Forked(subprocess.Popen):  # type: ignore[type-arg]
    """A fork instead of a program; polled, waited for and killed like one."""

    def _execute_child(self, args: Any, *others: Any) -> None:
        env = others[5]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _be_rank(args, env)
            except BaseException:  # noqa: BLE001 - nothing of the agent's may go on here
                traceback.print_exc()
            finally:
                os._exit(1)
        self._child_created = True


def _be_rank(args: Sequence[str], env: Mapping[str, str]) -> None:
    """What `python -P -m rastervision.kubernetes.stage STAGE` does in the environment `env`."""
    os.setsid()
    os.closerange(3, 1024)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    Path("/proc/self/comm").write_text(name_of(env[Env.RUN_URI]))
    tempfile.tempdir = None
    root.handlers.clear()
    for folder in filter(None, env.get("PYTHONPATH", "").split(os.pathsep)):
        _customize(Path(folder) / "sitecustomize.py")
    from rastervision.kubernetes import stage

    stage.main(args[args.index("rastervision.kubernetes.stage") + 1 :])


def _customize(path: Path) -> None:
    spec = importlib.util.spec_from_file_location("sitecustomize", path)
    assert spec
    assert spec.loader
    sys.modules["sitecustomize"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
