"""Times as Kubernetes and contract.now() write them (RFC 3339, UTC), and how long things take."""

from __future__ import annotations

from datetime import datetime, timezone


def parse(text: str) -> datetime:
    """The time that "2026-11-23T13:15:01Z" says, with or without parts of a second.

    Raises:
        ValueError: it is none.
    """
    return datetime.fromisoformat(text)


def seconds_since(text: str | None) -> float:
    """Seconds since a time, not less than 0; 0 for None."""
    if text is None:
        return 0.0
    return max((datetime.now(timezone.utc) - parse(text)).total_seconds(), 0.0)


def duration(seconds: float | None) -> str:
    """12.3 s, 4:05, 1:02:03; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
