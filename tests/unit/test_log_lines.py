"""Lines of a container's log as they come over a connection."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rvk8s.cluster.log_lines import LONGEST, cut
from rvk8s.cluster.responses import lines


class Pieces:
    """A response that comes in pieces."""

    def __init__(self, pieces: Sequence[bytes]):
        self._pieces = pieces

    def stream(self, size: int) -> Iterator[bytes]:
        yield from self._pieces


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
@pytest.mark.parametrize("ended", [True, False])
def test_a_line_is_cut_wherever_a_piece_of_it_ends(size: int, ended: bool) -> None:
    wanted = [b"one", b"x" * 500, b"", b"two", b"y" * 99, b"z" * 101]
    data = b"\n".join(wanted) + (b"\n" if ended else b"")
    pieces: Any = Pieces([data[at : at + size] for at in range(0, len(data), size)])
    found = list(lines(pieces, 100))
    assert [found[n] for n in (0, 2, 3, 4)] == [b"one", b"", b"two", b"y" * 99]
    assert found[1] == b"x" * 36 + b" ... 464 bytes are left out"
    assert found[5] == b"z" * 36 + b" ... 65 bytes are left out"
    assert [cut(line, 100) for line in found] == found, "what is cut is not cut again"


def test_a_line_without_an_end_is_not_held() -> None:
    pieces: Any = Pieces([b"x" * 2**16] * 1000)
    tracemalloc.start()
    (line,) = lines(pieces, LONGEST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(line) <= LONGEST
    assert line.endswith(b"bytes are left out")
    assert peak < 1 << 20
