"""Does stages in forked children of a process that has imported Raster Vision.

Importing it takes 14 CPU-seconds, so the tests that start and kill stages dozens of times pay for
that once. Everything after the imports is what `rvk8s-stage` does. Requests and answers are lines
of JSON: {"stage", "env", "log", "dieAfterPublishes"} -> {"pid"}; {"pid"} -> {"code"}, null while
it runs. {"module", "arguments", "folder", "env", "log"} does what `python -m MODULE ARGUMENTS` does
in a folder.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import sys
import tempfile
import traceback
from typing import Any

from forked_ranks import fork_ranks


def main() -> None:
    import boto3.s3.transfer
    import fastai.vision.learner
    import fastai.vision.models.unet
    import rastervision.core.data
    import rastervision.core.rv_pipeline
    import rastervision.fastai_backend.backend.evaluation
    import rastervision.fastai_backend.backend.semantic_segmentation
    import rastervision.fastai_backend.config
    import rastervision.fastai_backend.learner
    import rastervision.fastai_backend.models
    import rastervision.kubernetes.configure
    import rastervision.kubernetes.outputs

    # Named, so that nobody takes the imports for unused ones.
    ready = [boto3.__name__, fastai.__name__, rastervision.__name__]
    print(json.dumps({"ready": ready}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"code": code(request["pid"])} if "pid" in request else {"pid": start(request)}
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        status = _stage(request) if "stage" in request else _module(request)
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
    _begin(request)
    os.environ.update(request["env"])
    from rastervision.kubernetes import stage

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    if request["stage"] == "train":
        fork_ranks()
    if request.get("dieAfterPublishes") is not None:
        _die_after_publishes(request["dieAfterPublishes"])
    return int(stage.run(request["stage"]))


def _module(request: dict[str, Any]) -> int:
    _begin(request)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    from rastervision.pipeline import rv_config_

    rv_config_.set_tmp_dir_root(os.environ["TMPDIR"])
    sys.argv = [request["module"], *request["arguments"]]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself does
        traceback.print_exc()
        return 1
    return 0


def _begin(request: dict[str, Any]) -> None:
    os.setsid()
    null, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tempfile.tempdir = None  # of the parent's TMPDIR


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
