"""What of S3's faults passes: which transfers are tried again, and which are given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rvk8s.errors import InputError, StorageUnavailable

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Times a transfer is tried, beside boto3's own retries of requests that were not answered, and
#: seconds before the second time, doubled before each other.
_TRIES, _BACKOFF = 4, 0.5
#: What servers answer when a request's body is not what its checksums say.
ARRIVED_DAMAGED = {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
#: What servers answer that have too much to do, or with this object, whatever the status.
_BUSY = {"SlowDown", "Throttling", "RequestTimeout", "TooManyRequests", "OperationAborted"}


class CutOff(Exception):
    """Fewer bytes came than were said."""


class Damaged(InputError):
    pass


def again(work: Callable[[], _T]) -> _T:
    """The result of a transfer, which is tried again where _passing() says so."""
    for number in range(1, _TRIES):
        try:
            return work()
        except Exception as error:
            if not _passing(error):
                raise
            log.info("trying again: %s", " ".join(str(error).split()))
            time.sleep(_BACKOFF * 2 ** (number - 1))
    try:
        return work()
    except CutOff as error:
        raise StorageUnavailable(f"{error}: the answer was cut off; try again") from error


def _passing(error: Exception) -> bool:
    """Whether the same transfer may go well the next time; boto3 does not try these again."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _code(error) in ARRIVED_DAMAGED or _status(error) in (409, 429)
    return isinstance(error, CutOff | Damaged)


def read_body(read: Callable[[], bytes]) -> bytes:
    """What read() gives of an answer's body.

    Raises:
        CutOff: it came in part or damaged; boto3 tries only requests again, not their bodies.
    """
    from botocore import exceptions as aws

    cut_off = aws.IncompleteReadError, aws.ResponseStreamingError, aws.ReadTimeoutError
    try:
        return read()
    except (*cut_off, aws.FlexibleChecksumError) as error:
        raise CutOff(" ".join(str(error).split())) from error


def is_overloaded(error: Any) -> bool:
    """Whether a ClientError says that the server is ill or has too much to do."""
    status = _status(error)
    # 501: it does not know what was asked for; 507: it is full.
    ill = status >= 500 and status not in (501, 507)
    return ill or status in (408, 429) or _code(error) in _BUSY


def is_away(error: Exception) -> bool:
    """Whether the server did not answer, or not now: the same upload may be gone on with."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        return is_overloaded(error)
    # Some of boto3's errors, such as of time-outs, are OSErrors too.
    return isinstance(error, BotoCoreError)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
