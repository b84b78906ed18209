"""Which S3 server, and how to speak to it: from AWS's variables and files, and from ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from rvk8s.contract import Env


def endpoint() -> str | None:
    """The URL of the server; None for Amazon's."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return given or _of_profile(*_files()).endpoint


def region() -> str | None:
    """The region; None where boto3 has to look for it in its files.

    Requests have to name some region; most other servers than Amazon's ignore it.
    """
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if named or endpoint() is None:
        return named or None
    return _of_profile(*_files()).region or "us-east-1"


@dataclass(frozen=True)
class _Profile:
    endpoint: str | None = None
    region: str | None = None


def _files() -> tuple[str, str, str | None]:
    """AWS's two files and the profile."""
    config = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    credentials = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return config, credentials, os.environ.get("AWS_PROFILE")


@lru_cache
def _of_profile(config: str, credentials: str, profile: str | None) -> _Profile:
    """What AWS's files say of a server that is not Amazon's; nothing where they name none.

    boto3 finds it by itself; what depends on the kind of server, and GDAL, must know it, too. To
    have boto3 look costs as much as a client, so files without the key are not looked at.
    """
    if not (_names_endpoint(config) or _names_endpoint(credentials)):
        return _Profile()
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return _Profile()  # s3_objects.client() says it
    try:
        session = boto3.Session(profile_name=profile)
        url: str = session.client("s3", region_name="us-east-1").meta.endpoint_url
    except (BotoCoreError, ValueError):
        return _Profile()  # as here
    amazons = f"{urlsplit(url).hostname}".endswith(".amazonaws.com")
    return _Profile(None if amazons else url, session.region_name)


def _names_endpoint(file: str) -> bool:
    try:
        return "endpoint_url" in Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def is_path_style() -> bool:
    """Whether a bucket's name goes into the path of a URL and not into the name of the host.

    Unless Env.S3_PATH_STYLE says it, that is so for all servers but Amazon's, as boto3 does it.
    """
    return path_style() == "1" if path_style() else endpoint() is not None


def path_style() -> str:
    """What Env.S3_PATH_STYLE says: "1", "0" or nothing."""
    return os.environ.get(Env.S3_PATH_STYLE, "")


def is_unsigned() -> bool:
    """Whether requests go without credentials, as for public data."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "1")
