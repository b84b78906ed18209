"""A run that has ended, with its scores and pictures: what `rvk8s run -o json` prints."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.runs.record import RunRecord
from rvk8s.runs.report import is_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """A run that has ended.

    Attributes:
        record: what run.json says.
        scores: what scores.json says; None where the run has not come to its scores, or has none.
        pictures: URIs of the pictures, sorted; likewise.
    """

    record: RunRecord
    scores: dict[str, Any] | None
    pictures: tuple[str, ...]

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        layout = record.plan.layout
        # What lies there while a run has not come so far is of other inputs.
        if record.stage("eval").state not in (State.SUCCEEDED, State.SKIPPED):
            return cls(record, None, ())
        names = storage.list_files(layout.pictures)
        pictures = tuple(f"{layout.pictures}/{name}" for name in names)
        scores = storage.read_json(layout.scores)
        if (scores is None and storage.exists(layout.scores)) or (scores and not is_whole(scores)):
            fix = f"do it again: {record.plan.go_on} --rerun eval"
            log.warning("%s is damaged, so that no scores are shown; %s", layout.scores, fix)
            scores = None
        return cls(record, scores, pictures)

    def to_dict(self) -> dict[str, Any]:
        """JSON types: run.json with runId, runUri, scores and pictures."""
        plan = self.record.plan
        return {
            "runId": plan.run_id,
            "runUri": plan.run_uri,
            **self.record.to_dict(),
            "scores": self.scores,
            "pictures": list(self.pictures),
        }
