"""Raster Vision's S3 file system through rvk8s.storage.

Raster Vision's own copies folders with the `aws` program, which it does not bring, and ignores its
exit code, so without it folders are silently not copied. It also makes a new client for each file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from rastervision.aws_s3.s3_file_system import S3FileSystem
from rastervision.pipeline.file_system import NotReadableError, NotWritableError

from rvk8s import storage
from rvk8s.contract import Env
from rvk8s.errors import InputError
from rvk8s.storage import s3_objects


class StorageFileSystem(S3FileSystem):
    """S3 with one client, retries, several transfers at once; every failure is an error.

    What is missing or denied raises Raster Vision's NotReadableError and NotWritableError; storage
    that does not answer raises StorageUnavailable, so that the stage is tried again.
    """

    @staticmethod
    def file_exists(uri: str, include_dir: bool = True) -> bool:
        """Whether there is such an object or, with include_dir, something below it."""
        return s3_objects.exists(uri) if include_dir else s3_objects.is_object(uri)

    @staticmethod
    def read_bytes(uri: str) -> bytes:
        with _reading(uri):
            return s3_objects.read(uri)

    @staticmethod
    def read_str(uri: str) -> str:
        return StorageFileSystem.read_bytes(uri).decode()

    @staticmethod
    def write_bytes(uri: str, data: bytes) -> None:
        with _writing(uri):
            s3_objects.write(uri, data)

    @staticmethod
    def write_str(uri: str, data: str) -> None:
        StorageFileSystem.write_bytes(uri, data.encode())

    @staticmethod
    def copy_from(src_uri: str, dst_path: str) -> None:
        with _reading(src_uri):
            s3_objects.download(src_uri, Path(dst_path))

    @staticmethod
    def copy_to(src_path: str, dst_uri: str) -> None:
        """Upload a file, or a folder, which then replaces the one that was there."""
        if os.path.isfile(src_path):
            with _writing(dst_uri):
                s3_objects.upload(Path(src_path), dst_uri)
        else:
            StorageFileSystem.sync_to_dir(src_path, dst_uri, delete=True)

    @staticmethod
    def sync_from_dir(src_dir_uri: str, dst_dir: str, delete: bool = False) -> None:
        """Download a folder."""
        with _reading(src_dir_uri):
            storage.download_dir(src_dir_uri, dst_dir, delete=delete)

    @staticmethod
    def sync_to_dir(src_dir: str, dst_dir_uri: str, delete: bool = False) -> None:
        """Upload a folder."""
        with _writing(dst_dir_uri):
            storage.upload_dir(src_dir, dst_dir_uri, delete=delete)

    @staticmethod
    def list_paths(  # type: ignore[override]  # Raster Vision's has a delimiter that is "/"
        uri: str, ext: str = ""
    ) -> list[str]:
        """URIs of the files and folders directly below a folder whose names end with ext."""
        with _reading(uri):
            names = [f"{name}/" for name in s3_objects.list_dirs(uri)]
            names += [name for name in s3_objects.list_objects(uri) if "/" not in name]
        return [os.path.join(uri, name) for name in names if name.endswith(ext)]

    @staticmethod
    def last_modified(uri: str) -> datetime:
        with _reading(uri):
            seconds = s3_objects.head(uri).modified_ns / 1e9
        return datetime.fromtimestamp(seconds, timezone.utc)

    @staticmethod
    def local_path(  # type: ignore[override]  # Raster Vision hints None and returns str
        uri: str, download_dir: str
    ) -> str:
        """Where a download is kept.

        Raster Vision takes a file that is there for a copy of the object of that name. That is
        right for imagery and wrong for what this run writes again, so the stage's own folder has
        those.
        """
        run_uri = os.environ.get(Env.RUN_URI)
        if run_uri and uri.startswith(f"{run_uri}/"):
            download_dir = os.path.join(tempfile.gettempdir(), "of-this-run")
        bucket, key = S3FileSystem.parse_uri(uri)
        return os.path.join(download_dir, "s3", bucket, key)


def correct_request_payer() -> None:
    """Make Raster Vision ask a bucket's readers to pay only where AWS_REQUEST_PAYER says so.

    Where it is not set, Raster Vision's own answer is the text "None". Imagery that is streamed
    takes any text for yes.
    """

    def payer() -> str:
        return os.environ.get("AWS_REQUEST_PAYER", "")

    S3FileSystem.get_request_payer = staticmethod(payer)  # type: ignore[method-assign]


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except (InputError, FileNotFoundError) as error:
        raise NotReadableError(f"Could not read {uri}: {error}") from error


@contextmanager
def _writing(uri: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise NotWritableError(f"Could not write {uri}: {error}") from error
