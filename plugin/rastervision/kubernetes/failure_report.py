"""Says why a stage failed: in failed.json, and to Kubernetes, for where storage refuses that."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from rastervision.kubernetes.context import Context

from rvk8s import storage
from rvk8s.contract import now
from rvk8s.errors import Rvk8sError

log = logging.getLogger(__name__)

#: Kubernetes' own file for it, which a container may write to whatever else it may.
TERMINATION_LOG = Path("/dev/termination-log")
#: Bytes of it that Kubernetes keeps.
_LIMIT = 4096


def write_termination_message(message: str) -> None:
    """Say why this container ends; nothing happens outside of Kubernetes."""
    try:
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_bytes(message.encode(errors="replace")[:_LIMIT])
    except OSError as error:
        log.warning("%s is not written: %s", TERMINATION_LOG, error)


def write_failed(context: Context, message: str, code: int, began: str, tries: int) -> None:
    """Write failed.json.

    Args:
        began: when this stage did.
        tries: how often to look whether another node says it better, a second apart; 0: it does
            not matter.
    """
    uri = context.layout.failed(context.stage, context.split)
    try:
        if not _said_by_another(uri, began, tries):
            storage.write_json(uri, {"exitCode": code, "message": message, "at": now()})
    except (Rvk8sError, OSError) as error:
        log.error("%s is not written: %s", uri, error)


def _said_by_another(uri: str, began: str, tries: int) -> bool:
    """Whether the node whose rank has failed says why; this one has only missed it."""
    for number in range(tries):
        if number:
            time.sleep(1)
        said = storage.read_json(uri)
        if said and said["at"] >= began:
            return True
    return False
