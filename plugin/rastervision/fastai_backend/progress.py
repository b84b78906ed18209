"""Where a long computation stands, for whoever watches the run.

rvk8s-stage names a JSON file in the environment (Env.PROGRESS_FILE); without it nothing is written.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

from rvk8s.contract import Env, now, to_json

#: Seconds between two writes: often enough to look alive, seldom enough to cost nothing.
INTERVAL = 1.0


class Progress:
    """Fields of the progress file, gathered over calls and written at most once in INTERVAL."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._written = float("-inf")

    def report(self, *, flush: bool = False, **fields: Any) -> None:
        """Merge `fields` into the file: epoch, epochs, batch, batches, loss, imagesPerSecond,
        macroF1, scene, pixelsDone, pixelsTotal, message. None removes a field, and so does a
        number that isn't finite, which JSON has not.

        Args:
            flush: write now, also if the last write was less than INTERVAL ago.
        """
        self._fields.update(fields)
        self._fields = {k: v for k, v in self._fields.items() if _shown(v)}
        target = os.environ.get(Env.PROGRESS_FILE)
        clock = time.monotonic()
        if not target or (not flush and clock - self._written < INTERVAL):
            return
        self._written = clock
        path = Path(target)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(to_json({"updated": now(), **self._fields}))
        os.replace(temporary, path)


def _shown(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


_progress = Progress()
#: The process's one progress.
report = _progress.report
