"""GDAL's settings for S3, from the environment variables that boto3 and rvk8s read.

Credentials are none of them: rasterio asks boto3 for those whenever a file is opened or read, so a
role's (AWS_WEB_IDENTITY_TOKEN_FILE), a Secret's and a profile's work alike, and are renewed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from rvk8s.storage import s3_settings

#: How patient GDAL is. Its own default is to give up at the first fault, and to wait for ever for
#: a server that hangs. Times in seconds, the speed in bytes per second.
_PATIENCE = {
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
#: Tiles of a scene are read in pieces of this many bytes; GDAL's default is 16 KiB.
_CHUNK = 128 << 10


def settings() -> dict[str, str]:
    """GDAL's configuration options, by name, for the present environment.

    See https://gdal.org/en/stable/user/virtual_file_systems.html. AWS_REQUEST_PAYER and
    AWS_PROFILE have the same names there.
    """
    found = {
        **_PATIENCE,
        "CPL_VSIL_CURL_CHUNK_SIZE": str(_CHUNK),
        "AWS_VIRTUAL_HOSTING": "FALSE" if s3_settings.is_path_style() else "TRUE",
    }
    if url := s3_settings.endpoint():
        server = urlsplit(url)
        found["AWS_S3_ENDPOINT"] = server.netloc + server.path.rstrip("/")
        found["AWS_HTTPS"] = "NO" if server.scheme == "http" else "YES"
    if region := s3_settings.region():
        found["AWS_REGION"] = region
    if s3_settings.is_unsigned():
        found["AWS_NO_SIGN_REQUEST"] = "YES"
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        found["CURL_CA_BUNDLE"] = bundle
    return found


def prepare() -> None:
    """Set them for this process and its children; what the user has set stays."""
    for name, value in settings().items():
        os.environ.setdefault(name, value)


@contextmanager
def prepared() -> Iterator[None]:
    """The same for a while, and for whoever's process it is: it may ask another server later."""
    added = {name: value for name, value in settings().items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
