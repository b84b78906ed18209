"""What the tests of the training core share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from ranked import ranked
from small import classes, make_chips, settings, train

__all__ = ["classes", "make_chips", "ranked", "settings", "train"]


@pytest.fixture(autouse=True)
def one_thread_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also where there is a GPU: the tests fork, and compare bit by bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
