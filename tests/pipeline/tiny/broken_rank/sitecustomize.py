"""Breaks a rank in the middle of its training: Python imports this in every rank at its start.

BREAK_RANK names the rank, BREAK_BATCH its last batch, BREAK_HOW what it does then.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from typing import Any

_MODULE = "rastervision.fastai_backend.callbacks"


def _break() -> None:
    how = os.environ["BREAK_HOW"]
    if how == "raise":
        raise ValueError("broken on purpose")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


def _patch(module: Any) -> None:
    after_batch, left = module.EpochLog.after_batch, [int(os.environ["BREAK_BATCH"])]

    def broken(self: Any) -> None:
        after_batch(self)
        left[0] -= self.learn.training
        if left[0] == 0:
            _break()

    module.EpochLog.after_batch = broken


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            _patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") == os.environ.get("BREAK_RANK"):
    if _MODULE in sys.modules:  # a fork has it from the beginning
        _patch(sys.modules[_MODULE])
    else:
        sys.meta_path.insert(0, _Finder())
