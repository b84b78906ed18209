"""What a run that begins anew deletes of an earlier one of its id."""

from __future__ import annotations

from rvk8s import storage
from rvk8s.contract import CONFIGURE
from rvk8s.plan import Plan
from rvk8s.runs.record import RunRecord


def forget(plan: Plan, previous: RunRecord | None) -> None:
    """Delete markers and outputs of the stages to do again, and of those split otherwise."""
    layout, stages = plan.layout, set(plan.rerun)
    if previous:
        stages |= {
            stage.name
            for stage in plan.stages
            if stage.splits != previous.plan.stage(stage.name).splits
        }
    folders = storage.list_dirs(layout.at(".rvk8s")) if stages else []
    for name in stages:
        for folder in folders:
            if folder == name or folder.rpartition("-")[0] == name:
                storage.delete_tree(layout.at(".rvk8s", folder))
        if name != CONFIGURE:
            storage.delete_tree(layout.at(name))
