"""The lines of a container's log as the API server sends them."""

from __future__ import annotations

import re

#: RFC 3339, in the zone of the node.
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?")


#: Bytes of a line that are kept of a log that is stored.
LONGEST = 16 << 10
_MARK = b" ... %d bytes are left out"
#: Bytes that the mark of a line that was cut takes.
_ROOM = 64


def cut(line: bytes, longest: int = LONGEST, gone: int = 0) -> bytes:
    """A line with its beginning alone where it is too long, and how much of it is left out.

    Args:
        gone: bytes of its end that are left out already.
    """
    if len(line) <= longest and not gone:
        return line
    kept = line[: longest - _ROOM]
    return kept + _MARK % (len(line) - len(kept) + gone)


def stamped(line: bytes) -> tuple[str, bytes]:
    """The time of a line and its text.

    The time is empty where the node says something itself ("failed to create fsnotify watcher").
    """
    found = _STAMP.match(line)
    return (found[1].decode(), line[found.end() :]) if found else ("", line)
