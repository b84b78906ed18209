"""The local half of storage.py: files that appear whole or not at all, and errors with a fix."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rvk8s.errors import DiskFull, InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


@contextmanager
def errors(path: str | Path, verb: str = "write") -> Iterator[None]:
    """Turn the operating system's errors about a path into ours; FileNotFoundError stays.

    Args:
        verb: what is done with it: read or write.

    Raises:
        DiskFull, InputError: as storage.py says.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no space left to write {path}; free some and run it again") from error
        if error.errno in _DENIED:
            fix = f"give a folder that you may {verb}, or change its permissions"
            raise InputError(f"{error.strerror}", where=str(path), fix=fix) from error
        if error.errno in _NO_FOLDER:
            fix = "a file stands where a folder should be, or the other way round"
            raise InputError(f"{error.strerror}", where=str(path), fix=fix) from error
        if error.errno in _NO_PATH:
            fix = "give another path"
            raise InputError(f"{error.strerror}", where=str(path), fix=fix) from error
        raise


def read(path: str) -> bytes:
    with errors(path, "read"):
        return Path(path).read_bytes()


def write(path: str, data: bytes) -> None:
    with errors(path), temporary(path) as name:
        Path(name).write_bytes(data)


def age(path: str) -> float:
    """Seconds since a file was written, by the clock of its file system: a server's on a network.

    Raises:
        FileNotFoundError: there is none.
    """
    with errors(path, "read"):
        written = os.stat(path).st_mtime
    try:  # a file without a name: nothing is left of it
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:  # one that may only be read
        now = time.time()
    return max(now - written, 0.0)


def copy(source: str, target: str) -> None:
    """Copy a file with its modification time."""
    with errors(target), temporary(target) as name:
        shutil.copy2(source, name)


def move(source: Path, target: str) -> None:
    """Rename a file; copied first where the target is on another file system."""
    with errors(target):
        make_dir(Path(target).parent)
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(str(source), target)
            source.unlink()


def make_dir(path: Path) -> None:
    with errors(path):
        path.mkdir(parents=True, exist_ok=True)


def list_dirs(path: str) -> list[str]:
    try:
        with errors(path, "read"), os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


def list_files(path: str) -> dict[str, int]:
    """Relative path -> size of all files below a folder; temporary ones of ours are left out."""
    found = {}
    for folder, _, names in os.walk(path):
        for name in names:
            if not name.endswith(_SUFFIX):
                full = os.path.join(folder, name)
                found[os.path.relpath(full, path)] = os.stat(full).st_size
    return dict(sorted(found.items()))


#: Ends the names of files that are being written.
_SUFFIX = ".rvk8s-tmp"


@contextmanager
def temporary(target: str | Path) -> Iterator[str]:
    """A name beside the target that is renamed to it at the end, or deleted after an error."""
    folder, name = os.path.split(os.path.abspath(target))
    try:
        os.makedirs(folder, exist_ok=True)
    except FileNotFoundError as error:
        # Of what does not exist no file can be: /proc says so.
        raise InputError("cannot be made", where=folder, fix="give another folder") from error
    written = os.path.join(folder, f".{name}.{secrets.token_hex(4)}{_SUFFIX}")
    try:
        yield written
        os.replace(written, target)
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise
