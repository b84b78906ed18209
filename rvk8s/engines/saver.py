"""Stores JSON files in the background: a driver does not wait for storage, nor die of it."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from rvk8s import storage
from rvk8s.errors import Rvk8sError, StorageUnavailable

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.5, 15.0


class BackgroundSaver:
    """The driver's launcher.Saver. A context manager: its thread ends with the block.

    Args:
        patience: seconds for which a file is tried again while storage does not answer, from the
            first try that failed.
    """

    def __init__(self, patience: float):
        self._patience = patience
        self._todo: dict[str, Mapping[str, Any]] = {}
        self._writing = False
        self._failing: dict[str, float] = {}  # since when files could not be stored
        self._errors: dict[str, Rvk8sError] = {}
        self._stopped = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def __enter__(self) -> BackgroundSaver:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._news:
            self._stopped = True
            self._news.notify()

    def save(self, uri: str, value: Mapping[str, Any]) -> None:
        # The record goes on changing.
        with self._news:
            self._todo[uri] = copy.deepcopy(dict(value))
            self._errors.pop(uri, None)
            self._news.notify()

    def pending(self) -> bool:
        """Whether something is not stored yet.

        Raises:
            StorageUnavailable: for `patience` seconds storage did not answer.
            InputError, DiskFull: storage refuses it.
        """
        with self._news:
            for error in self._errors.values():
                raise error
            return bool(self._todo) or self._writing

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._news:
                self._news.wait_for(lambda: self._todo or self._stopped)
                if self._stopped:
                    return
                uri = next(iter(self._todo))
                value, self._writing = self._todo.pop(uri), True
            began = time.monotonic()
            error = _write(uri, value)
            with self._news:
                self._writing = False
                if error is None:
                    self._failing.pop(uri, None)
                    self._errors.pop(uri, None)
                    pause = _FIRST_PAUSE
                    continue
                self._todo.setdefault(uri, value)
                late = time.monotonic() - self._failing.setdefault(uri, began) > self._patience
                if late or not isinstance(error, StorageUnavailable):
                    self._errors[uri] = error
                log.warning("%s", error)
                self._news.wait(pause)
                pause = min(pause * 2, _LAST_PAUSE)


def _write(uri: str, value: Mapping[str, Any]) -> Rvk8sError | None:
    try:
        storage.write_json(uri, value)
    except Rvk8sError as error:
        return error
    except OSError as error:
        return StorageUnavailable(f"{uri}: {error}")
    return None
