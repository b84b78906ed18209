"""Says that a stage is alive, and carries its progress and log to where others can read them."""

from __future__ import annotations

import logging
import os
import platform
import threading
from pathlib import Path

from rastervision.kubernetes.context import Context

from rvk8s import storage
from rvk8s.contract import Env, now, to_json
from rvk8s.errors import Rvk8sError

log = logging.getLogger(__name__)

#: Seconds between two heartbeats; status takes a stage for lost after six that are missing.
INTERVAL = 10.0


class Heartbeat:
    """A thread that writes heartbeat.json while a stage works.

    Where the run lies on S3 it also uploads the progress file and the log, which are local.

    Args:
        context: the stage.
        work: a local folder of this process.
    """

    def __init__(self, context: Context, work: Path):
        layout, stage, split = context.layout, context.stage, context.split
        self._uri = layout.heartbeat(stage, split)
        progress = layout.progress(stage, split)
        self.progress_file = work / "progress.json" if context.remote else Path(progress)
        self._uploads: dict[Path, str] = {}
        if context.remote:
            self._uploads[self.progress_file] = progress
            if log_file := os.environ.get(Env.LOG_FILE):
                self._uploads[Path(log_file)] = layout.log(stage, split)
        self._sent: dict[Path, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        # What the last attempt reported is not this one's progress.
        self.progress_file.unlink(missing_ok=True)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=INTERVAL)
        self._upload()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._beat()
            self._upload()

    def _beat(self) -> None:
        value = {"at": now(), "pid": os.getpid(), "host": platform.node()}
        try:
            storage.write_bytes(self._uri, to_json(value))
        except (Rvk8sError, OSError) as error:
            # The stage's own work may not need the storage now; the next beat may arrive.
            log.warning("No heartbeat: %s", error)

    def _upload(self) -> None:
        for path, uri in self._uploads.items():
            try:
                changed = path.stat().st_mtime_ns
                if self._sent.get(path) != changed:
                    storage.copy(str(path), uri)
                    self._sent[path] = changed
            except FileNotFoundError:
                continue  # nothing was reported yet
            except (Rvk8sError, OSError) as error:
                log.warning("%s is not uploaded: %s", path.name, error)
