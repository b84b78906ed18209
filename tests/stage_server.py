"""Does stages in forked children of a process that has imported Raster Vision.

Importing it takes 14 CPU-seconds, so the tests that start and kill stages dozens of times pay for
that once, for all test processes. Everything after the imports is what `rvk8s-stage` does. It
listens on the socket that it is given, and ends when nobody has been connected for some seconds.
Requests and answers are lines of JSON: {"stage", "env", "log", "dieAfterPublishes"} -> {"pid"};
{"pid"} -> {"code"}, null while it runs. {"module", "arguments", "folder", "env", "log"} does what
`python -m MODULE ARGUMENTS` does in a folder.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from importlib import import_module
from typing import Any

from forked_ranks import fork_ranks

#: Seconds without a connection after which it ends.
_IDLE = 10.0
#: What stages import, so that their forks need not.
_IMPORTED = (
    "boto3.s3.transfer",
    "fastai.vision.learner",
    "fastai.vision.models.unet",
    "rastervision.core.data",
    "rastervision.core.rv_pipeline",
    "rastervision.fastai_backend.backend.chip_classification",
    "rastervision.fastai_backend.backend.evaluation",
    "rastervision.fastai_backend.backend.object_detection",
    "rastervision.fastai_backend.backend.semantic_segmentation",
    "rastervision.fastai_backend.config",
    "rastervision.fastai_backend.learner",
    "rastervision.fastai_backend.models",
    "rastervision.kubernetes.configure",
    "rastervision.kubernetes.outputs",
)


def main(path: str) -> None:
    import_what_stages_import()
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(path)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        serve(listener, selector)
    os.unlink(path)


def import_what_stages_import() -> None:
    for name in _IMPORTED:
        import_module(name)


def serve(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    """Answer requests until nobody is connected any more."""
    while True:
        connected = len(selector.get_map()) > 1
        ready = selector.select(None if connected else _IDLE)
        if not ready:
            return
        for key, _ in ready:
            if key.fileobj is listener:
                connection, _ = listener.accept()
                selector.register(connection, selectors.EVENT_READ, connection.makefile("rw"))
            elif line := key.data.readline():
                json.dump(answer(json.loads(line), selector), key.data)
                key.data.write("\n")
                key.data.flush()
            else:
                selector.unregister(key.fileobj)


def answer(request: dict[str, Any], selector: selectors.BaseSelector) -> dict[str, Any]:
    if "pid" in request:
        return {"code": code(request["pid"])}
    pid = os.fork()
    if not pid:
        for key in selector.get_map().values():
            os.close(key.fd)
        work(request)
    return {"pid": pid}


def work(request: dict[str, Any]) -> None:
    """Do what is asked for, in a process that ends with it."""
    status = 1
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
    main(sys.argv[1])
