"""Does stages in forked children of a process that has imported Raster Vision.

Importing it takes 14 CPU-seconds, so the tests that start and kill stages dozens of times pay for
that once. Everything after the imports is what `rvk8s-stage` does. Requests and answers are lines
of JSON: {"stage", "env", "log", "dieAfterPublishes"} -> {"pid"}; {"pid"} -> {"code"}, null while
it runs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from typing import Any


def main() -> None:
    import boto3
    import rastervision.core.data
    import rastervision.core.rv_pipeline
    import rastervision.fastai_backend.config
    import rastervision.fastai_backend.learner
    import rastervision.fastai_backend.models

    # Named, so that nobody takes the imports for unused ones.
    ready = [boto3.__name__, rastervision.__name__]
    print(json.dumps({"ready": ready}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"pid": start(request)} if "stage" in request else {"code": code(request["pid"])}
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        status = _stage(request)
    finally:
        logging.shutdown()
        sys.stderr.flush()
    os._exit(status)


def code(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        return None
    value = os.waitstatus_to_exitcode(status)
    return value if value >= 0 else 128 - value


def _stage(request: dict[str, Any]) -> int:
    os.setsid()
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(request["env"])
    tempfile.tempdir = None  # of the parent's TMPDIR
    from rastervision.kubernetes import stage

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    if request.get("dieAfterPublishes") is not None:
        _die_after_publishes(request["dieAfterPublishes"])
    return int(stage.run(request["stage"]))


def _die_after_publishes(count: int) -> None:
    """SIGKILL this process when it has moved some of its outputs to where they belong."""
    from rvk8s import storage

    publish, left = storage.publish, [count]

    def publish_and_die(*args: Any) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        publish(*args)

    storage.publish = publish_and_die


if __name__ == "__main__":
    main()
