"""What names and paths may be that become those of files and objects."""

from __future__ import annotations

import os
import re

from rvk8s.errors import InputError

#: Bytes of a scene's id, a group's or a class's name: a file name has 255, with what we append.
LONGEST_NAME = 200
#: Bytes of a part of a path, of a path and of a prefix on S3; a key there has at most 1,024.
_LONGEST_PART, _LONGEST_PATH, _LONGEST_PREFIX = 255, 3000, 600
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


def fault_of_name(name: str) -> tuple[str, str] | None:
    """Why a name cannot be that of a file in a run's folder, and the fix; None where it can."""
    size = len(name.encode(errors="surrogatepass"))
    if not name.strip():
        return "is empty", "give it a name: files are called so"
    if name in (".", ".."):
        return "means a folder", "give it a name: files are called so"
    if "/" in name or "\\" in name:
        return "has a path's separator, and files are called so", "write _ or - for / and \\"
    if not _is_utf8(name):
        return "is not UTF-8, and files are called so", "write it in UTF-8"
    if not name.isprintable():
        return "has a control character, and files are called so", "leave it out"
    if size > LONGEST_NAME:
        return f"has {size} bytes, and files are called so", f"give at most {LONGEST_NAME}"
    return None


def _is_utf8(text: str) -> bool:
    """Whether a text came from bytes of UTF-8: names of files may be others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_root(root_uri: str, where: str) -> None:
    """Check that runs can be written below a root.

    Args:
        root_uri: an absolute path or s3://bucket/prefix, without a slash at its end.

    Raises:
        InputError: it is too long, or has parts that no file or object can have.
    """
    is_s3 = root_uri.startswith("s3://")
    path = root_uri.removeprefix("s3://")
    if not _is_utf8(path):
        raise InputError(f"{path!r} is not UTF-8", where=where, fix="rename the folder")
    if not path.isprintable():
        raise InputError(f"{path!r} has a control character", where=where, fix="leave it out")
    if "\\" in path:
        raise InputError(f"{root_uri} has a backslash", where=where, fix="write / instead")
    parts = path.split("/")
    if is_s3:
        bucket, *parts = parts
        if not _BUCKET.fullmatch(bucket):
            fix = "a bucket's name has 3 to 63 lower case letters, digits, dots and -"
            raise InputError(f"{bucket} cannot be a bucket", where=where, fix=fix)
        odd = next((part for part in parts if part in ("", ".", "..")), None)
        if odd is not None:
            what = f"{root_uri} has an empty part" if odd == "" else f"{root_uri} has a part {odd}"
            raise InputError(what, where=where, fix="leave it out: keys on S3 are no paths")
        path = "/".join(parts)
    longest = max((len(os.fsencode(part)) for part in parts), default=0)
    if longest > _LONGEST_PART and not is_s3:
        fix = f"a file system takes at most {_LONGEST_PART}"
        raise InputError(f"a part of it has {longest} bytes", where=where, fix=fix)
    most, size = _LONGEST_PREFIX if is_s3 else _LONGEST_PATH, len(os.fsencode(path))
    if size > most:
        fix = f"give at most {most}: names of a run's files follow"
        raise InputError(f"it has {size} bytes", where=where, fix=fix)
