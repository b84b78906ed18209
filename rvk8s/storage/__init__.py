"""Files and folders on this machine and on S3 behind one set of functions.

A URI is a local path or s3://bucket/key. Whatever is written appears whole or not at all: local
files get a temporary name beside the target and are renamed, S3 objects are put in one request.
boto3 is imported when the first s3:// URI is used; s3_settings.py reads the environment, AWS_* and
Env.S3_PATH_STYLE, and s3_transfer.py moves files in parts and checks them.

Every function raises:
    FileNotFoundError: the file or object is not there (where the docstring says nothing else).
    InputError: access is denied, the bucket is missing, a folder cannot be written.
    StorageUnavailable: the server did not answer, or said that it is overloaded.
    DiskFull: no space, or no quota, is left.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rvk8s.contract import to_json
from rvk8s.errors import DiskFull, InputError, Rvk8sError, StorageUnavailable
from rvk8s.parallel import in_threads
from rvk8s.storage import local_files, s3_objects

#: From this size in bytes on, asking whether a file is there costs less than sending it.
_LARGE = 1 << 20
#: Relative path -> (size, modification time in ns) of the files that were uploaded already.
Known = dict[str, tuple[int, int]]


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def read_bytes(uri: str) -> bytes:
    """The content of a file."""
    return s3_objects.read(uri) if is_s3(uri) else local_files.read(uri)


def read_json(uri: str) -> dict[str, Any] | None:
    """A JSON file of ours, which is an object; None where there is none.

    A file that is not JSON counts as none: only a killed program of somebody else writes such.
    """
    try:
        value = json.loads(read_bytes(uri))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file; folders above it are made."""
    if is_s3(uri):
        s3_objects.write(uri, data)
    else:
        local_files.write(uri, data)


def write_json(uri: str, value: Mapping[str, Any]) -> None:
    write_bytes(uri, to_json(value))


def exists(uri: str) -> bool:
    """Whether there is such a file, or a folder that holds something."""
    return s3_objects.exists(uri) if is_s3(uri) else os.path.exists(uri)


def age(uri: str) -> float | None:
    """Seconds since a file was written, by the clock of the server that keeps it; None without one.

    This machine's clock may be wrong, and the writer's, too.
    """
    try:
        return s3_objects.age(uri) if is_s3(uri) else local_files.age(uri)
    except FileNotFoundError:
        return None


def list_dirs(uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted; none where it does not exist."""
    return s3_objects.list_dirs(uri) if is_s3(uri) else local_files.list_dirs(uri)


def list_files(uri: str) -> dict[str, int]:
    """Relative path -> size in bytes of all files below a folder; none where it does not exist."""
    if is_s3(uri):
        return {name: entry.size for name, entry in s3_objects.list_objects(uri).items()}
    return local_files.list_files(uri)


def delete_file(uri: str) -> None:
    """Delete a file; nothing happens where there is none."""
    if is_s3(uri):
        s3_objects.delete(uri, [""])
    else:
        with local_files.errors(uri):
            Path(uri).unlink(missing_ok=True)


def delete_tree(uri: str) -> None:
    """Delete a folder and all below it; nothing happens where there is none."""
    if is_s3(uri):
        s3_objects.delete(uri, [f"/{name}" for name in s3_objects.list_objects(uri)])
        s3_objects.abort_unfinished(uri)
    elif os.path.isdir(uri):
        with local_files.errors(uri):
            shutil.rmtree(uri)


def copy(source: str, target: str) -> None:
    """Copy a file from any URI to any other."""
    if is_s3(source) and is_s3(target):
        s3_objects.copy(source, target)
    elif is_s3(source):
        s3_objects.download(source, Path(target))
    elif is_s3(target):
        s3_objects.upload(Path(source), target)
    else:
        local_files.copy(source, target)


def publish(path: Path, uri: str) -> None:
    """Move a complete local file to its URI, replacing what is there."""
    if is_s3(uri):
        s3_objects.upload(path, uri)
        path.unlink()
    else:
        local_files.move(path, uri)


def upload_dir(
    path: Path | str,
    uri: str,
    *,
    delete: bool = False,
    known: Known | None = None,
    last: tuple[str, ...] = (".json",),
) -> None:
    """Copy all files of a local folder below a URI, several at once.

    Args:
        delete: also delete files below the URI that the folder does not have.
        last: files with these ends of their names wait until all others are there, so that an
            index never names a file that is not there yet.
        known: give the same dict at each call to skip the files that did not change since the last
            one; it is filled here. On S3 a large file that is there already is not sent again
            either, whoever sent it.
    """
    folder = Path(path)
    known = {} if known is None else known
    stamps = {name: _stamp(folder / name) for name in local_files.list_files(str(folder))}
    changed = [name for name, stamp in stamps.items() if known.get(name) != stamp]

    large = is_s3(uri) and any(stamps[name][0] >= _LARGE for name in changed)
    there = s3_objects.list_objects(uri) if large else {}

    def upload(name: str) -> None:
        source, target = folder / name, _join(uri, name)
        candidate = name in there and there[name].size == stamps[name][0] >= _LARGE
        if not (candidate and s3_objects.is_same(source, target)):
            copy(str(source), target)
        known[name] = stamps[name]

    in_threads(upload, [name for name in changed if not name.endswith(last)])
    in_threads(upload, [name for name in changed if name.endswith(last)])
    if delete:
        _delete(uri, set(list_files(uri)) - set(stamps))


def download_dir(uri: str, path: Path | str, *, delete: bool = False) -> None:
    """Copy all files below a URI into a local folder, several at once.

    A file that was downloaded before and did not change since is skipped. The folder is made even
    where there is nothing to download.

    Args:
        delete: also delete files of the folder that are not below the URI.

    Raises:
        StorageUnavailable: a file has another size than its server said.
    """
    folder = Path(path)
    local_files.make_dir(folder)
    if not is_s3(uri):
        names = list_files(uri)
        in_threads(lambda name: local_files.copy(_join(uri, name), str(folder / name)), names)
    else:
        entries = s3_objects.list_objects(uri)
        names = {name: entry.size for name, entry in entries.items()}

        def download(name: str) -> None:
            target, entry = folder / name, entries[name]
            if target.is_file() and _stamp(target) == (entry.size, entry.modified_ns):
                return
            s3_objects.download(_join(uri, name), target)
            os.utime(target, ns=(entry.modified_ns, entry.modified_ns))
            if target.stat().st_size != entry.size:
                raise StorageUnavailable(f"{_join(uri, name)} changed while it was downloaded")

        in_threads(download, names)
    if delete:
        _delete(str(folder), set(local_files.list_files(str(folder))) - set(names))


def check_writable(uri: str) -> None:
    """Write and delete a file below a folder, which is made where it does not exist.

    Raises:
        InputError: it cannot be written; says why and what to do.
    """
    probe = _join(uri, f".rvk8s-write-test-{os.getpid()}")
    made = not is_s3(uri) and not os.path.lexists(uri)
    try:
        write_bytes(probe, b"rvk8s\n")
        delete_file(probe)
    except Rvk8sError as error:
        if made and os.path.isdir(uri):
            os.rmdir(uri)
        # The user knows the folder, not the file that was tried.
        if isinstance(error, InputError):
            fix = error.fix if is_s3(uri) else "give another folder with --root-uri or rootUri"
            what = f"cannot be written: {error.what}"
            raise InputError(what, where=uri, fix=fix) from error
        if isinstance(error, DiskFull):
            raise DiskFull(f"no space left in {uri}; free some or use another root URI") from error
        if isinstance(error, StorageUnavailable):
            raise StorageUnavailable(str(error).replace(probe, uri)) from error
        raise


def _delete(uri: str, names: Iterable[str]) -> None:
    if is_s3(uri):
        s3_objects.delete(uri, [f"/{name}" for name in names])
    else:
        for name in names:
            delete_file(_join(uri, name))


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _join(uri: str, name: str) -> str:
    return f"{uri.rstrip('/')}/{name}"
