"""Responses that are read piece by piece, and why one has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rvk8s.cluster.log_lines import cut
from rvk8s.errors import ClusterUnavailable

if TYPE_CHECKING:
    import urllib3


class Stream:
    """A response that is closed whether or not it was read to its end."""

    def __init__(self, response: urllib3.BaseHTTPResponse):
        self._response = response

    def __enter__(self) -> urllib3.BaseHTTPResponse:
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


def lines(response: urllib3.BaseHTTPResponse, longest: int | None = None) -> Iterator[bytes]:
    """The lines of a response as they come.

    Args:
        longest: of a longer line only the beginning is held and given.

    Raises:
        ClusterUnavailable: the connection broke, or was silent for too long.
    """
    import urllib3

    rest, gone = b"", 0
    try:
        for chunk in response.stream(2**16):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line if longest is None else cut(line, longest, gone)
                gone = 0
            if longest is not None and len(rest) > longest:
                rest, gone = rest[:longest], gone + len(rest) - longest
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ClusterUnavailable(f"the connection ended ({reason(error)})") from error
    if rest:
        yield rest if longest is None else cut(rest, longest, gone)


def reason(error: BaseException) -> str:
    """The innermost cause in a few words: "Connection refused"."""
    inner: Any = error
    for _ in range(5):
        inner = getattr(inner, "reason", None) or inner.__cause__ or inner
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner).rpartition("object at ")[2].partition(": ")[2] or str(inner)
