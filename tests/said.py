"""Compares what people are told by where it points and by its keywords, not by its wording."""

from __future__ import annotations

import re
from collections.abc import Sequence


def says(line: str, wanted: str) -> bool:
    """Whether a line is what is wanted, in which each … stands for any words."""
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), line, re.DOTALL) is not None


def check_lines(lines: Sequence[str], wanted: Sequence[str]) -> None:
    """Assert that the lines are those that are wanted, in their order."""
    assert len(lines) == len(wanted), lines
    for line, one in zip(lines, wanted, strict=True):
        assert says(line, one)
