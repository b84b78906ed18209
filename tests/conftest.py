import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Tests run side by side, with networks too small for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What several test files share lies beside this one.
sys.path.insert(0, str(Path(__file__).parent))

from s3server import s3, s3_process

__all__ = ["s3", "s3_process"]

#: What takes longest, first: a long file that comes last leaves the other processes with nothing.
_FIRST = (
    "test_ranks.py",
    "test_resume.py",
    "test_distributed.py",
    "test_bad_runs.py",
    "test_predictor.py",
    "test_stage_kill.py",
    "test_run_potsdam.py",
    "test_options.py",
    "test_stage.py",
)


def pytest_configure() -> None:
    # A shell's background job ignores it, and so would the programs that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.name
        return _FIRST.index(name) if name in _FIRST else len(_FIRST)

    items.sort(key=place)
