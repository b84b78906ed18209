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

from rvk8s import storage
from rvk8s.contract import ATTEMPT, attempt_line
from rvk8s.errors import Rvk8sError

log = logging.getLogger(__name__)

#: Seconds between two uploads of a log, and how many more for each MiB that it has.
INTERVAL, _PER_MIB = 3.0, 2.0
#: Seconds before a log that storage has is asked for again.
_PAUSE = 15.0
#: Bytes: a log that gets longer loses its first half. The driver holds it in memory at times, and a
#: node keeps not much more of a container's log (10 MiB).
LIMIT = 8 << 20
_LEFT_OUT = re.compile(rb"\.\.\. (\d+) lines are left out$")


class LogFile:
    """The log of a split: the sections of its pods, one after the other.

    Only begin() and store() wait for storage, and neither holds up the other methods meanwhile.
    """

    def __init__(self, uri: str, path: Path):
        self.uri, self.path = uri, path
        self._lock = threading.Lock()  # of the local file; never held while storage is waited for
        self._loading, self._storing = threading.Lock(), threading.Lock()
        self._loaded = self._closed = False
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
            pass

    def store(self) -> None:
        """Upload what is there; it is tried again later where storage does not answer."""
        with self._storing:  # of two uploads at once, the older one might end last
            with self._lock:
                if self._closed or not self.behind:
                    return
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
        with self.path.open("ab") as file:
            file.write(line + b"\n")
            size = file.tell()
        self._written += 1
        if size > LIMIT:
            _shorten(self.path)


class Section:
    """What one pod writes.

    Args:
        known: the lines that an earlier driver stored.
    """

    def __init__(self, file: LogFile, known: list[bytes]):
        self._file, self._known, self._seen = file, known, 0

    def add(self, line: bytes) -> None:
        if self._seen < len(self._known):
            if self._known[self._seen] == line:
                self._seen += 1
                return
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


def _shorten(path: Path) -> None:
    """Keep the end of a log, and say below its attempt's line how much is left out."""
    data = path.read_bytes()
    cut = data.index(b"\n", len(data) - LIMIT // 2) + 1
    head, *gone = ATTEMPT.split(data[:cut])[-1].splitlines(keepends=True)
    before = _LEFT_OUT.match(gone[0]) if gone else None
    count = len(gone) + (int(before[1]) - 1 if before else 0)
    if ATTEMPT.match(data[cut:]):
        path.write_bytes(data[cut:])
    else:
        path.write_bytes(head + b"... %d lines are left out\n" % count + data[cut:])
