"""Raster Vision's S3 file system without the `aws` program, which it calls and does not bring.

Raster Vision ignores that program's exit code, so without it folders are silently not copied.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from rastervision.aws_s3.s3_file_system import S3FileSystem
from rastervision.pipeline.file_system import NotReadableError, NotWritableError

from rvk8s import s3_objects, storage
from rvk8s.contract import Env
from rvk8s.errors import InputError


class StorageFileSystem(S3FileSystem):
    """S3 through rvk8s.storage: several transfers at once, every failure is an error."""

    @staticmethod
    def get_client() -> Any:
        """The client with our retries and time limits."""
        return s3_objects.client()

    @staticmethod
    def sync_from_dir(src_dir_uri: str, dst_dir: str, delete: bool = False) -> None:
        """Download a folder.

        Raises:
            NotReadableError: access is denied or the bucket is missing.
        """
        try:
            storage.download_dir(src_dir_uri, dst_dir, delete=delete)
        except InputError as error:
            raise NotReadableError(str(error)) from error

    @staticmethod
    def sync_to_dir(src_dir: str, dst_dir_uri: str, delete: bool = False) -> None:
        """Upload a folder.

        Raises:
            NotWritableError: access is denied or the bucket is missing.
        """
        try:
            storage.upload_dir(src_dir, dst_dir_uri, delete=delete)
        except InputError as error:
            raise NotWritableError(str(error)) from error

    @staticmethod
    def file_exists(uri: str, include_dir: bool = True) -> bool:
        """Whether there is such an object or, with include_dir, something below it."""
        return s3_objects.exists(uri) if include_dir else s3_objects.is_object(uri)

    @staticmethod
    def copy_to(src_path: str, dst_uri: str) -> None:
        """Upload a file, or a folder, which then replaces the one that was there."""
        if os.path.isfile(src_path):
            try:
                s3_objects.upload(Path(src_path), dst_uri)
            except InputError as error:
                raise NotWritableError(str(error)) from error
        else:
            StorageFileSystem.sync_to_dir(src_path, dst_uri, delete=True)

    @staticmethod
    def local_path(  # type: ignore[override]  # Raster Vision hints None and returns str
        uri: str, download_dir: str
    ) -> str:
        """Where a download is kept.

        Raster Vision takes a file that is there for a copy of the object of that name. That is
        right for imagery and wrong for what this run writes again, so those are kept by process.
        """
        run_uri = os.environ.get(Env.RUN_URI)
        if run_uri and uri.startswith(f"{run_uri}/"):
            download_dir = os.path.join(tempfile.gettempdir(), f"rvk8s-of-process-{os.getpid()}")
        bucket, key = S3FileSystem.parse_uri(uri)
        return os.path.join(download_dir, "s3", bucket, key)
