"""Files to and from S3: in parts, several at once, each checked, tried again, gone on with.

The server checks every part by its Content-MD5, which all servers know. The SHA-256 of the whole
file goes along as metadata and is checked when the file comes back. What others have uploaded has
no such metadata: boto3 checks the checksums that the server keeps of it, if any, and every part has
to be of one version of the object.

An upload that was broken off is found again by its key: parts whose MD5 is that of the file's are
not sent again, and an upload of another content is aborted, so that no orphan is kept and paid for.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rvk8s.contract import writer_of
from rvk8s.errors import StorageUnavailable
from rvk8s.parallel import THREADS, in_threads
from rvk8s.storage.s3_retries import CutOff, Damaged, again, is_away, read_body

log = logging.getLogger(__name__)

#: Bytes of a part; S3 wants 5 MiB at least and 10,000 parts at most.
PART = 16 << 20
_MOST_PARTS = 10_000
#: The metadata that holds the SHA-256 of the whole file.
_SHA256 = "rvk8s-sha256"
#: What is held in memory at once, over all threads.
_slots = threading.BoundedSemaphore(THREADS)


@dataclass(frozen=True)
class Place:
    """An object.

    Attributes:
        s3: the boto3 client.
        payer: further arguments of each request, for buckets whose reader pays.
    """

    s3: Any
    bucket: str
    key: str
    payer: Mapping[str, str]

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def names(self) -> dict[str, str]:
        """The arguments of a request that is about this object."""
        return {"Bucket": self.bucket, "Key": self.key, **self.payer}


def put(place: Place, data: bytes) -> None:
    """Put an object in one request."""
    digest = hashlib.sha256(data).hexdigest()
    again(lambda: _put(place, data, digest))


def get(place: Place) -> bytes:
    """The content of an object.

    Raises:
        InputError: it is damaged.
    """

    def read() -> bytes:
        answer = place.s3.get_object(**place.names)
        data = read_body(answer["Body"].read)
        _check(place, answer["Metadata"], hashlib.sha256(data).hexdigest())
        return data

    return again(read)


def upload(path: Path, place: Place) -> None:
    """Put a file; in parts where it is large. It appears when all of it has arrived."""
    # Of a file that grows meanwhile, such as a log, what was there now.
    size = path.stat().st_size
    if size <= PART:
        with path.open("rb") as file:
            put(place, file.read(size))
        return
    digest, part = _sha256(path, size), part_size(size)
    upload_id, there = _unfinished(place, path, size, part)
    if upload_id is not None:
        log.info("%s: going on with an upload of which %d parts are there", place.uri, len(there))
        _send_parts(path, place, upload_id, size, digest, there)
        if _holds(place, digest):
            return
        # It was begun for a file that only starts like this one.
    answer = place.s3.create_multipart_upload(**place.names, Metadata={_SHA256: digest})
    _send_parts(path, place, answer["UploadId"], size, digest, {})


def _send_parts(
    path: Path, place: Place, upload_id: str, size: int, digest: str, there: Mapping[int, str]
) -> None:
    """Send the parts that are not there (part number -> ETag) and make the object of all."""
    from botocore.exceptions import ClientError

    part, tags = part_size(size), dict(there)

    def send(index: int) -> None:
        with _slots:
            data = _read(path, (index - 1) * part, min(part, size - (index - 1) * part))
            tags[index] = again(lambda: _put_part(place, upload_id, index, data))

    numbers = range(1, (size + part - 1) // part + 1)
    try:
        in_threads(send, [index for index in numbers if index not in there])
        _complete(place, upload_id, {index: tags[index] for index in numbers}, digest)
    except (ClientError, OSError) as error:
        # Refused, full: nobody goes on. Where the server is away, the next upload does.
        if not is_away(error):
            _abort(place, upload_id)
        raise


def _complete(place: Place, upload_id: str, tags: Mapping[int, str], digest: str) -> None:
    """Make the object of its parts (part number -> ETag)."""
    from botocore.exceptions import ClientError

    parts = [{"PartNumber": index, "ETag": tag} for index, tag in tags.items()]
    try:
        place.s3.complete_multipart_upload(
            **place.names, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
    except ClientError:
        # Where the answer was lost, boto3 has asked again, and then there is no such upload.
        if not _holds(place, digest):
            raise


def _holds(place: Place, digest: str) -> bool:
    """Whether the object is there and was uploaded with this SHA-256."""
    from botocore.exceptions import ClientError

    try:
        metadata: Mapping[str, str] = place.s3.head_object(**place.names)["Metadata"]
    except ClientError:
        return False
    return metadata.get(_SHA256) == digest


def download(place: Place, path: Path, size: int, tag: str, metadata: Mapping[str, str]) -> None:
    """Write an object to a file.

    Args:
        size, tag, metadata: what the server says of it: bytes, ETag, the user's metadata.

    Raises:
        StorageUnavailable: it was changed meanwhile.
        InputError: it is damaged.
    """

    def whole() -> None:
        with _slots, path.open("wb") as file:
            answer = place.s3.get_object(**place.names)
            while piece := read_body(lambda: answer["Body"].read(1 << 20)):
                file.write(piece)
        if path.stat().st_size != answer["ContentLength"]:
            raise CutOff(f"{place.uri}: {path.stat().st_size} of {answer['ContentLength']} bytes")
        _check(place, answer["Metadata"], _sha256(path, path.stat().st_size))

    def parts() -> None:
        with path.open("wb") as file:
            file.truncate(size)
            in_threads(lambda offset: fetch(file.fileno(), offset), range(0, size, PART))
        if _SHA256 in metadata:
            _check(place, metadata, _sha256(path, size))

    def fetch(file: int, offset: int) -> None:
        length = min(PART, size - offset)
        with _slots:
            data = again(lambda: _get_range(place, tag, offset, length))
            os.pwrite(file, data, offset)

    again(whole if size <= PART else parts)


def is_same(path: Path, size: int, metadata: Mapping[str, str]) -> bool:
    """Whether an object of this size and metadata holds what a file holds."""
    digest = metadata.get(_SHA256)
    return digest is not None and path.stat().st_size == size and digest == _sha256(path, size)


def abort_unfinished(s3: Any, bucket: str, prefix: str, payer: Mapping[str, str]) -> None:
    """Abort the uploads below a prefix that were broken off; not where that is not allowed."""
    for key, upload_id in _uploads(s3, bucket, prefix, payer):
        _abort(Place(s3, bucket, key, payer), upload_id)


def part_size(size: int) -> int:
    """Bytes of each part of a file of this size, the last one excepted."""
    least = (size + _MOST_PARTS - 1) // _MOST_PARTS
    return max(PART, (least + (1 << 20) - 1) >> 20 << 20)


def _check(place: Place, metadata: Mapping[str, str], digest: str) -> None:
    if metadata.get(_SHA256, digest) != digest:
        stage = writer_of(place.uri)
        fix = f"do that stage again: --rerun {stage}" if stage else "copy it again"
        if place.uri.endswith("/run.json"):
            fix = "start a new run"
        what = "is damaged: its SHA-256 is not the one it was uploaded with"
        raise Damaged(what, where=place.uri, fix=fix)


def _put(place: Place, data: bytes, digest: str) -> None:
    place.s3.put_object(
        **place.names, Body=data, ContentMD5=_base64_md5(data), Metadata={_SHA256: digest}
    )


def _put_part(place: Place, upload_id: str, index: int, data: bytes) -> str:
    answer = place.s3.upload_part(
        **place.names,
        UploadId=upload_id,
        PartNumber=index,
        Body=data,
        ContentMD5=_base64_md5(data),
    )
    return str(answer["ETag"])


def _get_range(place: Place, tag: str, offset: int, length: int) -> bytes:
    from botocore.exceptions import ClientError

    wanted: dict[str, str] = {"Range": f"bytes={offset}-{offset + length - 1}"}
    if tag:
        wanted["IfMatch"] = tag
    try:
        data = read_body(place.s3.get_object(**place.names, **wanted)["Body"].read)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
            raise StorageUnavailable(f"{place.uri} changed while it was downloaded") from error
        raise
    if len(data) != length:
        raise CutOff(f"{place.uri}: {len(data)} of {length} bytes")
    return data


def _unfinished(
    place: Place, path: Path, size: int, part: int
) -> tuple[str | None, dict[int, str]]:
    """An upload of this file that was broken off; others of its key are aborted.

    Returns:
        Its id, and part number -> ETag of what is there; None and nothing where there is none.
    """
    for key, upload_id in _uploads(place.s3, place.bucket, place.key, place.payer):
        if key != place.key:
            continue
        there = _parts(place, upload_id)
        if there and all(_fits(found, path, size, part) for found in there):
            return upload_id, {found["PartNumber"]: found["ETag"] for found in there}
        _abort(place, upload_id)
    return None, {}


def _uploads(s3: Any, bucket: str, prefix: str, payer: Mapping[str, str]) -> list[tuple[str, str]]:
    """Key and id of unfinished uploads; none where the server or the policy does not allow it."""
    from botocore.exceptions import ClientError

    try:
        pages = s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=bucket, Prefix=prefix, **payer
        )
        return [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", ())]
    except ClientError as error:
        log.debug("unfinished uploads below s3://%s/%s are not known: %s", bucket, prefix, error)
        return []


def _parts(place: Place, upload_id: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        pages = place.s3.get_paginator("list_parts").paginate(**place.names, UploadId=upload_id)
        return [part for page in pages for part in page.get("Parts", ())]
    except ClientError:
        return []  # ended or aborted meanwhile


def _fits(found: Mapping[str, Any], path: Path, size: int, part: int) -> bool:
    """Whether a part that is there is the one that would be sent."""
    offset = (found["PartNumber"] - 1) * part
    length = min(part, size - offset)
    if length <= 0 or found["Size"] != length:
        return False
    return str(found["ETag"]).strip('"') == _md5(_read(path, offset, length)).hex()


def _abort(place: Place, upload_id: str) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        place.s3.abort_multipart_upload(**place.names, UploadId=upload_id)
    except (ClientError, BotoCoreError) as error:
        # The next upload to this key finds it, and deleting the folder does.
        log.info("an unfinished upload of %s stays for now: %s", place.uri, error)


def _read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _sha256(path: Path, size: int) -> str:
    value = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            value.update(piece)
            size -= len(piece)
    return value.hexdigest()


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _base64_md5(data: bytes) -> str:
    return base64.b64encode(_md5(data)).decode()
