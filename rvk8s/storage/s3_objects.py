"""The S3 half of storage.py. boto3 is imported when a function is called for the first time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rvk8s.certificates import fix_of
from rvk8s.errors import (
    DiskFull,
    InputError,
    Rvk8sError,
    StorageRefused,
    StorageUnavailable,
)
from rvk8s.parallel import THREADS, in_threads
from rvk8s.storage import local_files, s3_retries, s3_settings, s3_transfer
from rvk8s.storage.s3_transfer import Place

_MISSING = {"NoSuchKey", "404", "NotFound"}
_DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AccountProblem",
    "AllAccessDisabled",
}
_FULL = {
    "QuotaExceeded",
    "507",
    "InsufficientStorage",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "EntityTooLarge",
}
_LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the pod's role"

#: Settings of boto3: seconds, and tries of a request.
_LIMITS: dict[str, Any] = {
    "retries": {"max_attempts": 5, "mode": "standard"},
    "connect_timeout": 5,
    "read_timeout": 60,
}

_clients: dict[tuple[object, ...], Any] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        size: in bytes.
        modified_ns: when it was last modified, in ns since 1970.
        tag: its ETag, which is another one after each change.
        metadata: what was uploaded with it; only head() knows it.
    """

    size: int
    modified_ns: int
    tag: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def client() -> Any:
    """The boto3 client of this process, which threads share.

    Raises:
        InputError: boto3 is not installed, or the settings of AWS cannot be understood.
    """
    key = (os.getpid(), s3_settings.endpoint(), s3_settings.path_style())
    with _lock:
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        fix = "in rvk8s's checkout: pip install '.[s3]'"
        raise InputError("an s3:// URI needs boto3, which is not installed", fix=fix) from None
    checksums = "when_required" if s3_settings.endpoint() else "when_supported"
    style = {"1": "path", "0": "virtual"}.get(s3_settings.path_style(), "auto")
    config = Config(
        signature_version=UNSIGNED if s3_settings.is_unsigned() else None,
        s3={"addressing_style": style},
        max_pool_connections=2 * THREADS,
        # Other servers than Amazon's do not all know the newer checksums: s3_transfer sends the old
        # one, and who is asked for those of an answer may refuse or give the wrong one.
        request_checksum_calculation="when_required",
        response_checksum_validation=checksums,
        **_LIMITS,
    )
    try:
        return boto3.Session().client("s3", config=config, region_name=s3_settings.region())
    except (BotoCoreError, ValueError) as error:
        fix = "look at AWS_PROFILE and AWS_ENDPOINT_URL"
        raise InputError(f"AWS settings: {error}", fix=fix) from error


def translate(error: BaseException, uri: str) -> Rvk8sError | FileNotFoundError | None:
    """Our error for one of boto3's; None for any other."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        return _of_answer(error, uri)
    if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
        return InputError("no credentials for S3", where=uri, fix=_LOGIN)
    if isinstance(error, aws.SSOError | aws.TokenRetrievalError):
        return InputError(f"no credentials for S3: {error}", where=uri, fix="aws sso login")
    if isinstance(error, aws.ParamValidationError):
        return InputError("is not an S3 URI", where=uri, fix="give s3://bucket/prefix")
    if isinstance(error, Boto3Error):
        inner = error.__cause__ or error.__context__
        found = translate(inner, uri) if inner else None
        return found or StorageUnavailable(f"{uri}: {error}")
    if isinstance(error, aws.ConnectionError | aws.HTTPClientError):
        server = urlsplit(str(error.kwargs.get("endpoint_url", "")))
        name = f"{server.scheme}://{server.netloc}" if server.netloc else "S3"
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            fix = fix_of(str(error), "set AWS_CA_BUNDLE to the certificates of its authority")
            return StorageUnavailable(f"{uri}: the certificate of {name} is not trusted; {fix}")
        fix = "is AWS_ENDPOINT_URL right, and the network up? try again"
        return StorageUnavailable(f"{uri}: {name} did not answer; {fix}")
    if isinstance(error, aws.BotoCoreError):
        return StorageUnavailable(f"{uri}: storage did not answer: {error}")
    return None


def _of_answer(error: Any, uri: str) -> Rvk8sError | FileNotFoundError:
    answer = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), answer.get("Message") or ""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    bucket = f"s3://{_split(uri)[0]}"
    # Asked by boto3 itself, of another server, before it asks S3.
    if error.operation_name.startswith("AssumeRole") and not s3_retries.is_overloaded(error):
        fix = "look at AWS_ROLE_ARN and at whom the role trusts"
        return InputError(f"the role was refused ({code}): {message}", where=uri, fix=fix)
    if code == "NoSuchBucket":
        return InputError(f"there is no bucket {bucket}", where=uri, fix="make it, or name another")
    # A quota is a 403 of Ceph's: before what is denied.
    if code in _FULL or status == 507:
        return DiskFull(f"{uri}: no space or quota left ({code})")
    if code == "NoSuchUpload":
        return StorageUnavailable(f"{uri}: something else has ended its upload; try again")
    if code in _DENIED or status in (401, 403):
        fix = f"give these credentials access to {bucket}, or {_LOGIN}"
        if code == "RequestTimeTooSkewed":
            fix = "set the clock of this machine"
        return StorageRefused(f"access denied ({code})", where=uri, fix=fix)
    if code in _MISSING or status == 404:
        return FileNotFoundError(f"{uri} does not exist")
    if code in s3_retries.ARRIVED_DAMAGED:
        return StorageUnavailable(f"{uri} arrived damaged several times ({code}); try again")
    if s3_retries.is_overloaded(error):
        return StorageUnavailable(f"{uri}: storage answered {code or status}: {message}")
    fix = "look at the bucket's settings and AWS_REGION"
    return InputError(f"S3 answered {code or status}: {message}", where=uri, fix=fix)


@contextmanager
def errors(uri: str) -> Iterator[Any]:
    """Gives the client; turns its errors into ours.

    Raises:
        InputError, StorageUnavailable, DiskFull, FileNotFoundError: as storage.py says.
    """
    s3 = client()
    try:
        yield s3
    except Rvk8sError:
        raise
    except Exception as error:
        # OSErrors too: some of boto3's, such as of time-outs, are both.
        found = translate(error, uri)
        if found is None:
            raise
        raise found from error


def read(uri: str) -> bytes:
    with errors(uri) as s3:
        return s3_transfer.get(_place(s3, uri))


def write(uri: str, data: bytes) -> None:
    with errors(uri) as s3:
        s3_transfer.put(_place(s3, uri), data)


def upload(path: Path, uri: str) -> None:
    """Large files go in parts, which S3 shows as one object when all have arrived."""
    with errors(uri) as s3:
        s3_transfer.upload(path, _place(s3, uri))


def is_same(path: Path, uri: str) -> bool:
    """Whether an object holds what a file holds, as far as its metadata tells."""
    try:
        entry = head(uri)
    except FileNotFoundError:
        return False
    return s3_transfer.is_same(path, entry.size, entry.metadata)


def download(uri: str, path: Path) -> None:
    entry = head(uri)
    local_files.make_dir(path.parent)
    with errors(uri) as s3, local_files.errors(path), local_files.temporary(path) as part:
        s3_transfer.download(_place(s3, uri), Path(part), entry.size, entry.tag, entry.metadata)


def copy(source: str, target: str) -> None:
    bucket, key = _split(target)
    from_bucket, from_key = _split(source)
    with errors(source) as s3:
        s3.copy({"Bucket": from_bucket, "Key": from_key}, bucket, key, ExtraArgs=_payer())


def exists(uri: str) -> bool:
    """Whether there is such an object, or one below it."""
    bucket, prefix = _folder(uri)
    with errors(uri) as s3:
        if s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1, **_payer()).get("Contents"):
            return True
    return is_object(uri)


def is_object(uri: str) -> bool:
    _, key = _split(uri)
    if not key or key.endswith("/"):
        return False
    try:
        head(uri)
    except FileNotFoundError:
        return False
    return True


def head(uri: str) -> Entry:
    """The size and time of an object."""
    bucket, key = _split(uri)
    with errors(uri) as s3:
        answer = s3.head_object(Bucket=bucket, Key=key, **_payer())
    modified = _nanoseconds(answer["LastModified"])
    return Entry(answer["ContentLength"], modified, answer.get("ETag", ""), answer["Metadata"])


def age(uri: str) -> float:
    """Seconds since an object was written, by the server's clock; 0 where that says no time."""
    bucket, key = _split(uri)
    with errors(uri) as s3:
        answer = s3.head_object(Bucket=bucket, Key=key, **_payer())
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not date:
        return 0.0
    passed = parsedate_to_datetime(date) - answer["LastModified"]
    return max(float(passed.total_seconds()), 0.0)


def list_dirs(uri: str) -> list[str]:
    bucket, prefix = _folder(uri)
    names = []
    with errors(uri) as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, Delimiter="/", **_payer()
        )
        for page in pages:
            names += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
    return sorted(name[len(prefix) :].rstrip("/") for name in names)


def list_objects(uri: str) -> dict[str, Entry]:
    """Relative key -> Entry of all objects below a folder; its own marker object is left out."""
    bucket, prefix = _folder(uri)
    found = {}
    with errors(uri) as s3:
        lister = s3.get_paginator("list_objects_v2")
        for page in lister.paginate(Bucket=bucket, Prefix=prefix, **_payer()):
            for entry in page.get("Contents", ()):
                name = entry["Key"][len(prefix) :]
                if name and not name.endswith("/"):
                    found[name] = Entry(entry["Size"], _nanoseconds(entry["LastModified"]))
    return found


def delete(uri: str, suffixes: Sequence[str]) -> None:
    """Delete the objects uri + suffix; nothing happens where one is not there.

    One by one, several at once: Google's server and others know no request for many, or want a
    header with it that boto3 does not send any more.
    """
    start = uri.rstrip("/")

    def one(suffix: str) -> None:
        bucket, key = _split(start + suffix)
        # Google's server says so of an object that is not there.
        with suppress(FileNotFoundError), errors(start + suffix) as s3:
            s3.delete_object(Bucket=bucket, Key=key, **_payer())

    in_threads(one, suffixes)


def abort_unfinished(uri: str) -> None:
    """Abort the uploads below a folder that were broken off: they are kept and paid for."""
    bucket, prefix = _folder(uri)
    with errors(uri) as s3:
        s3_transfer.abort_unfinished(s3, bucket, prefix, _payer())


def _place(s3: Any, uri: str) -> Place:
    return Place(s3, *_split(uri), _payer())


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _folder(uri: str) -> tuple[str, str]:
    bucket, key = _split(uri.rstrip("/"))
    return bucket, f"{key}/" if key else ""


def _nanoseconds(time: datetime) -> int:
    """Whole seconds, which is what S3 says."""
    return int(time.timestamp()) * 1_000_000_000


def _payer() -> dict[str, str]:
    """For buckets whose reader pays; Raster Vision reads the same variable."""
    payer = os.environ.get("AWS_REQUEST_PAYER", "")
    return {"RequestPayer": payer} if payer else {}
