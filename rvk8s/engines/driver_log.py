"""The driver's own log, which is also stored in the run's folder: pods go, the folder stays."""

from __future__ import annotations

import logging
import threading

from rvk8s import storage
from rvk8s.engines.log_file import shortened
from rvk8s.errors import Rvk8sError

#: Seconds between two uploads of a log that has grown.
INTERVAL = 10.0
#: Bytes from which on its middle is left out: a driver may warn for days that storage is away.
_LIMIT = 1 << 20


class DriverLog(logging.Handler):
    """Collects what the driver logs; from start() on it is stored every few seconds.

    A driver that takes over appends to what its predecessor stored. Storage that is away loses
    nothing and holds nothing up: it is stored the next time.
    """

    def __init__(self, form: str):
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(form))
        self._uri: str | None = None
        self._before: bytes | None = None  # what earlier drivers wrote; None until it is read
        self._own = bytearray()
        self._written = self._stored = 0
        self._storing, self._stopped = threading.Lock(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._own += self.format(record).encode() + b"\n"
        if len(self._own) > _LIMIT:
            self._own = bytearray(shortened(bytes(self._own), _LIMIT))
        self._written += 1

    def start(self, uri: str) -> None:
        """Store it from now on; only a driver that has the run's lease may."""
        self._uri = uri
        threading.Thread(target=self._run, name="driver-log", daemon=True).start()

    def finish(self, seconds: float) -> None:
        """Store what is left, unless that takes longer."""
        self._stopped.set()
        if self._uri is not None:
            last = threading.Thread(target=self._store, name="driver-log", daemon=True)
            last.start()
            last.join(seconds)

    def abandon(self) -> None:
        """Store nothing more: another driver does."""
        self._stopped.set()
        self._uri = None

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._store()

    def _store(self) -> None:
        with self._storing:
            uri, written = self._uri, self._written
            if uri is None or written == self._stored:
                return
            try:
                if self._before is None:
                    self._before = _read(uri)
                data = self._before + bytes(self._own)
                data = shortened(data, _LIMIT) if len(data) > _LIMIT else data
                storage.write_bytes(uri, data)
                self._stored = written
            except (Rvk8sError, OSError) as error:
                logging.getLogger(__name__).debug("%s is not stored: %s", uri, error)


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return b""
