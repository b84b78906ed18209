"""Any exception -> the error of ours that says what happened and which exit code it has.

What is not known here stays as it is: exit code 1, and its traceback in the stage's log.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rastervision.fastai_backend.out_of_memory import is_out_of_memory, of_gpu
from rastervision.kubernetes.data_workers import explain_worker

from rvk8s import storage
from rvk8s.contract import Env, RunLayout, writer_of
from rvk8s.errors import DiskFull, GpuFault, InputError, OutOfMemory, Rvk8sError, StorageUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: What GDAL says of a server that does not answer, or with a passing fault.
_PASSING = re.compile(r"CURL error|HTTP (response|error) code\s*:\s*(5\d\d|429)", re.IGNORECASE)
#: What it says of a file that it cannot open.
_OPENED = re.compile(r"/vsis3/([^'\s]+)")
#: What it says of a part that cannot be read, with the file's name.
_BLOCK = re.compile(r"([^\s,]+), band \d+: IReadBlock failed")
#: What CUDA says where a GPU, or the way to it, is at fault, and seldom the program.
_GPU_FAULT = re.compile(
    r"uncorrectable|unspecified launch failure|hardware stack error|busy or unavailable"
)
#: What GDAL's C++ says, which has no number for it.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")


def explain(error: BaseException, batch_size: tuple[str, int] | None = None) -> Rvk8sError | None:
    """The error of ours that an exception, or what it was raised from, stands for.

    Args:
        batch_size: the option that decides how much memory is needed, and its value.
    """
    links = list(chain(error))
    for one in links:
        if isinstance(one, Rvk8sError):
            return one
    # Before the others: of its reasons "exited unexpectedly" has none, and shm is no disk.
    if worker := explain_worker(links):
        return worker
    raised_from = list(chain(error, handled=False))
    for kind in (_memory, _gpu, _full, _storage, _unreadable):
        for one in links:
            found = kind(one)
            if isinstance(found, OutOfMemory):
                return _with_advice(found, batch_size)
            # A file that was looked for in vain is no reason for what came later.
            if found and (one in raised_from or not isinstance(found, InputError)):
                return found
    return None


def one_line(error: BaseException) -> str:
    """The class and message of an exception without line breaks."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def chain(error: BaseException | None, handled: bool = True) -> Iterator[BaseException]:
    """An exception and those that it was raised from.

    Args:
        handled: also those while which it was raised, as far as a traceback shows them.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        shown = error.__context__ if handled and not error.__suppress_context__ else None
        error = error.__cause__ or shown


def _memory(error: BaseException) -> Rvk8sError | None:
    if is_out_of_memory(error):
        return OutOfMemory(f"out of {'GPU ' if of_gpu(error) else ''}memory")
    return None


def _gpu(error: BaseException) -> Rvk8sError | None:
    text = one_line(error)
    if isinstance(error, RuntimeError) and "CUDA error" in text and _GPU_FAULT.search(text):
        fault = text.partition("CUDA error: ")[2].partition(" CUDA kernel errors")[0]
        what = f"the GPU has failed ({fault})"
        return GpuFault(f"{what}; if it happens again on that node, have it seen to")
    return None


def _with_advice(error: OutOfMemory, batch_size: tuple[str, int] | None) -> OutOfMemory:
    if batch_size is None:
        return error
    option, value = batch_size
    if value > 1:
        return OutOfMemory(f"{error} with {option} {value}; {value // 2} should fit")
    return OutOfMemory(f"{error} with {option} 1; use smaller chips or a smaller backbone")


def _full(error: BaseException) -> Rvk8sError | None:
    if (isinstance(error, OSError) and error.errno in _FULL) or any(
        text in str(error) for text in _FULL_TEXTS
    ):
        name = getattr(error, "filename", None)
        where = f" to write {name}" if name else ""
        return DiskFull(f"no space left on the disk{where}; free some and run it again")
    return None


def _storage(error: BaseException) -> Rvk8sError | None:
    if not type(error).__module__.startswith(("botocore", "boto3")):
        return None
    from rvk8s.storage import s3_objects

    found = s3_objects.translate(error, "s3")
    if isinstance(found, FileNotFoundError):
        return InputError(str(found))
    return found


def _unreadable(error: BaseException) -> Rvk8sError | None:
    file_system = sys.modules.get("rastervision.pipeline.file_system.file_system")
    if file_system and isinstance(
        error, file_system.NotReadableError | file_system.NotWritableError
    ):
        fix = "look at the path and at who may read and write it"
        return InputError(" ".join(str(error).split()), fix=fix)
    if isinstance(error, FileNotFoundError) and error.filename:
        name = os.fsdecode(error.filename)
        stage = writer_of(name)
        fix = f"do that stage again: --rerun {stage}" if stage else "look at the path"
        return InputError(f"{name} does not exist", fix=fix)
    rasterio = sys.modules.get("rasterio.errors")
    if rasterio and isinstance(error, rasterio.RasterioIOError):
        return _unreadable_image(" ".join(str(error).split()).rstrip("."))
    return None


def _unreadable_image(text: str) -> Rvk8sError:
    """For what GDAL says: of a file, or of an image on S3, which configure has read before."""
    if _PASSING.search(text):
        return StorageUnavailable(f"imagery on S3 could not be read: {text}; try again")
    opened, block = _OPENED.search(text), _BLOCK.search(text)
    try:
        uri = f"s3://{opened[1]}" if opened else _streamed(block[1]) if block else None
        if uri is None:
            return InputError(text, fix="the file is missing, damaged or not an image")
        if not storage.exists(uri):
            return InputError(f"{uri} does not exist", fix="copy it there again")
    except Rvk8sError as error:
        return error
    fix = "try again; if it stays so, copy the file again"
    return StorageUnavailable(f"{uri}: a part of it could not be read; {fix}")


def _streamed(name: str) -> str | None:
    """The URI of an image of this name that the run reads from S3, where there is one.

    Of a block that could not be read GDAL does not say the file's folder, nor why.
    """
    run_uri = os.environ.get(Env.RUN_URI)
    if not run_uri:
        return None
    config = storage.read_json(RunLayout(run_uri).config_uri)
    return next((uri for uri in _streamed_uris(config) if uri.endswith(f"/{name}")), None)


def _streamed_uris(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if config.get("allow_streaming") and isinstance(uris := config.get("uris"), str | list):
            yield from [uris] if isinstance(uris, str) else uris
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _streamed_uris(value)
