"""The log of a split in the run's folder: what its pods wrote, one after the other.

S3 cannot append: a log grows in a local file and is uploaded whole, every few seconds while it is
small. A driver that takes over goes on with what its predecessor stored.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from typing import BinaryIO

from rvk8s import storage
from rvk8s.cluster.log_lines import cut
from rvk8s.contract import ATTEMPT, LEFT_OUT, LEFT_OUT_PATTERN, attempt_line
from rvk8s.errors import Rvk8sError

log = logging.getLogger(__name__)

#: Seconds between two uploads of a log, and how many more for each MiB that it has.
INTERVAL, _PER_MIB = 3.0, 2.0
#: Seconds before a log that storage has is asked for again.
_PAUSE = 15.0
#: Bytes: a log that gets longer keeps an eighth of them from its beginning, and half from its end.
#: The driver holds it in memory at times, and a node keeps not much more of a container's log
#: (10 MiB).
LIMIT = 8 << 20
_LEFT_OUT = re.compile(LEFT_OUT_PATTERN)


class LogFile:
    """The log of a split: the sections of its pods, one after the other.

    Only begin() and store() wait for storage, and neither holds up the other methods meanwhile.
    """

    def __init__(self, uri: str, path: Path):
        self.uri, self.path = uri, path
        self._lock = threading.Lock()  # of the local file; never held while storage is waited for
        self._loading, self._storing = threading.Lock(), threading.Lock()
        self._loaded = self._closed = False
        self._out: BinaryIO | None = None  # opened for each line, a fast stage would be too fast
        self._written = self._stored = 0
        self._due = 0.0

    @property
    def behind(self) -> bool:
        return self._stored != self._written

    @property
    def is_due(self) -> bool:
        return self.behind and time.monotonic() >= self._due

    def begin(self, title: str, stopped: threading.Event) -> Section:
        """The section of a pod; what an earlier driver stored of it is not written twice.

        Waits until storage says what it has, however long that takes: what is not known must not
        be overwritten.

        Args:
            stopped: ends that; then nothing is written.
        """
        self._load(stopped)
        with self._lock:
            if self._closed or not self._loaded:
                return Section(self, [])
            self._flush()
            known = _section(self.path, title.encode())
            if known is None:
                self._append(attempt_line(title).encode())
            return Section(self, known or [])

    def append(self, line: bytes) -> None:
        with self._lock:
            if self._loaded and not self._closed:
                self._append(line)

    def close(self) -> None:
        """Take no more: threads that read for minutes may still come with something."""
        self._closed = True
        with self._lock:  # an append that is under way
            self._flush()

    def store(self) -> None:
        """Upload what is there; it is tried again later where storage does not answer."""
        with self._storing:  # of two uploads at once, the older one might end last
            with self._lock:
                if self._closed or not self.behind:
                    return
                self._flush()
                written, data = self._written, self.path.read_bytes()
            try:
                storage.write_bytes(self.uri, data)
                self._stored = written
            except (Rvk8sError, OSError) as error:
                log.debug("%s is not stored: %s", self.uri, error)
            self._due = time.monotonic() + INTERVAL + _PER_MIB * len(data) / 2**20

    def _load(self, stopped: threading.Event) -> None:
        """Begin with what storage has."""
        with self._loading:
            while not (self._loaded or self._closed or stopped.is_set()):
                try:
                    data = storage.read_bytes(self.uri)
                except FileNotFoundError:
                    data = b""
                except (Rvk8sError, OSError) as error:
                    log.debug("%s: %s", self.uri, error)
                    stopped.wait(_PAUSE)
                    continue
                with self._lock:
                    if not self._closed:
                        self.path.write_bytes(data)
                        self._loaded = True

    def _append(self, line: bytes) -> None:
        if self._out is None:
            self._out = self.path.open("ab")
        self._out.write(line + b"\n")
        self._written += 1
        if self._out.tell() > LIMIT:
            self._flush()
            self.path.write_bytes(shortened(self.path.read_bytes(), LIMIT))

    def _flush(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None


class Section:
    """What one pod writes.

    Args:
        known: the lines that an earlier driver stored.
    """

    def __init__(self, file: LogFile, known: list[bytes]):
        self._file, self._known, self._seen = file, known, 0
        self._left_out = 0  # lines that were stored once, and were left out then

    def add(self, line: bytes) -> None:
        line = cut(line)
        if self._left_out:
            self._left_out -= 1
            return
        if self._seen < len(self._known):
            if found := _LEFT_OUT.fullmatch(self._known[self._seen]):
                self._seen, self._left_out = self._seen + 1, int(found[1])
                return self.add(line)
            if self._known[self._seen] == line:
                self._seen += 1
                return None
            # The node keeps only a log's end: what is known lies further up.
            self._known = []
        self._file.append(line)


def _section(path: Path, title: bytes) -> list[bytes] | None:
    """The lines after a pod's header up to the next header; None where there is no such header."""
    found: list[bytes] | None = None
    with path.open("rb") as file:
        for line in file:
            line = line.rstrip(b"\n")
            if ATTEMPT.match(line) and b", pod " in line:
                if found is not None:
                    break
                if line.endswith(title):
                    found = []
            elif found is not None:
                found.append(line)
    return found


def shortened(data: bytes, limit: int) -> bytes:
    """The head and the end of a log, and between them how many lines are left out.

    Each attempt keeps its own line, and says it for itself: by that its lines are found again.

    Args:
        limit: an eighth of it is kept from the log's beginning, half of it from its end.
    """
    first = _line_end(data, limit // 8)
    last = _line_end(data, max(len(data) - limit // 2, first))
    between, *attempts = ATTEMPT.split(data[first:last])
    gone = [_left_out(_lines(between))]
    for attempt in attempts:
        title, *lines = _lines(attempt)
        gone.append(title + b"\n" + _left_out(lines))
    return data[:first] + b"".join(gone) + data[last:]


def _left_out(lines: list[bytes]) -> bytes:
    """The line that stands for some, among which there may be one that stood for others."""
    before = [int(found[1]) for line in lines if (found := _LEFT_OUT.fullmatch(line))]
    count = len(lines) - len(before) + sum(before)
    return LEFT_OUT % count + b"\n" if count else b""


def _lines(data: bytes) -> list[bytes]:
    """As they were added: one may hold carriage returns."""
    return data.split(b"\n")[:-1]


def _line_end(data: bytes, at: int) -> int:
    """Where the line ends that a byte stands in: after its line end."""
    end = data.find(b"\n", max(at - 1, 0))
    return len(data) if end < 0 else end + 1
