"""Which S3 server, and how to speak to it: from AWS's variables and files, and from ours."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from rvk8s.contract import Env


def endpoint() -> str | None:
    """The URL of the server; None for Amazon's."""
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if given:
        return given
    file = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    return _endpoint_of_profile(Path(file).expanduser(), os.environ.get("AWS_PROFILE"))


@lru_cache
def _endpoint_of_profile(file: Path, profile: str | None) -> str | None:
    """The endpoint_url that AWS's configuration file has for a profile; None without one.

    boto3 finds it by itself; what depends on the kind of server, and GDAL, must know it, too.
    """
    try:
        if "endpoint_url" not in file.read_text():
            return None
    except (OSError, UnicodeDecodeError):
        return None
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return None  # s3_objects.client() says it
    try:
        client = boto3.Session(profile_name=profile).client("s3", region_name="us-east-1")
    except (BotoCoreError, ValueError):
        return None  # as here
    url: str = client.meta.endpoint_url
    return None if f"{urlsplit(url).hostname}".endswith(".amazonaws.com") else url


def region() -> str | None:
    """The region; None where boto3 has to look for it in its files.

    Requests have to name some region; other servers than Amazon's ignore it.
    """
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or ("us-east-1" if endpoint() else None)


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
