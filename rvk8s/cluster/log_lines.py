"""The lines of a container's log as the API server sends them."""

from __future__ import annotations

import re

#: RFC 3339, in the zone of the node.
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) ?")


def stamped(line: bytes) -> tuple[str, bytes]:
    """The time of a line and its text.

    The time is empty where the node says something itself ("failed to create fsnotify watcher").
    """
    found = _STAMP.match(line)
    return (found[1].decode(), line[found.end() :]) if found else ("", line)
