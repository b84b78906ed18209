"""Uploads a folder again and again while work goes on in it, such as checkpoints of a training."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from rvk8s import storage
from rvk8s.errors import Rvk8sError, StorageUnavailable
from rvk8s.storage import local_files
from rvk8s.times import duration

log = logging.getLogger(__name__)

#: Seconds for which storage may be away before the work ends with it.
PATIENCE = 1800.0
#: Seconds before the first new try, doubled before each further one up to the second number.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class Uploads:
    """Uploads of one folder.

    A call uploads the folder as it is at that moment, in the background: the work waits neither for
    the network nor for storage that hangs. While one upload runs, or storage has just been away, a
    call does nothing: the next one takes what is newer. finish() waits for everything.

    Files of the folder must be replaced and not changed, or only grow: an upload reads hard links.

    Args:
        folder, uri: from where to where.
        known, last: as storage.upload_dir takes them.
        patience: seconds.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        *,
        known: storage.Known | None = None,
        last: tuple[str, ...] = (".json",),
        patience: float = PATIENCE,
    ):
        self._folder, self._uri, self._patience = folder, uri, patience
        self._known: storage.Known = {} if known is None else known
        self._last = last
        self._thread: threading.Thread | None = None
        self._error: Rvk8sError | None = None
        self._away_since: float | None = None
        self._pause, self._not_before = _FIRST_PAUSE, 0.0

    def __call__(self) -> None:
        """Upload the folder as it is now, unless an upload runs or storage is away.

        Raises:
            StorageUnavailable: it has been away for longer than patience.
            InputError, DiskFull: storage refuses it.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        self._raise()
        if time.monotonic() < self._not_before:
            return
        snapshot = self._snapshot()

        def work() -> None:
            try:
                self._upload(snapshot)
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

        self._thread = threading.Thread(target=work, name="uploads", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Upload all that is not there yet; storage that is away is waited for.

        Raises:
            As a call does.
        """
        if self._thread is not None:
            self._thread.join()
        while True:
            self._raise()
            self._upload(self._folder)
            self._raise()
            if self._away_since is None:
                return
            time.sleep(max(0.0, self._not_before - time.monotonic()))

    def _upload(self, folder: Path) -> None:
        try:
            storage.upload_dir(folder, self._uri, known=self._known, last=self._last)
        except StorageUnavailable as error:
            self._be_patient(error)
        except Rvk8sError as error:
            self._error = error
        else:
            self._away_since, self._pause = None, _FIRST_PAUSE

    def _be_patient(self, error: StorageUnavailable) -> None:
        clock = time.monotonic()
        self._away_since = clock if self._away_since is None else self._away_since
        away = clock - self._away_since
        if away > self._patience:
            self._error = StorageUnavailable(f"{error} (away for {duration(away)})")
            return
        self._not_before = clock + self._pause
        log.warning("not uploaded: %s; trying again in %.0f s or later", error, self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _snapshot(self) -> Path:
        """A folder beside this one with its files as they are now."""
        snapshot = Path(tempfile.mkdtemp(prefix=f"{self._folder.name}-", dir=self._folder.parent))
        for name in local_files.list_files(str(self._folder)):
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(self._folder / name, link)
        return snapshot
