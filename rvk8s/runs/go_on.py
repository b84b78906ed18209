"""The command that goes on with a run that has failed."""

from __future__ import annotations

import re

from rvk8s.contract import STAGES, State
from rvk8s.runs.record import RunRecord

_AGAIN = re.compile(rf"--rerun ({'|'.join(STAGES)})\b")


def command(record: RunRecord) -> str:
    """The run's own command, with the stage to do again where what failed asks for that."""
    messages = [stage.message or "" for stage in record.stages if stage.state == State.FAILED]
    found = _AGAIN.search("\n".join([*messages, record.message or ""]))
    own = record.plan.go_on
    return f"{own} {found[0]}" if found and own and "--rerun" not in own else own
