"""Tables that the client prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rvk8s.contract import RUN_ID_TOKEN

if TYPE_CHECKING:
    from rvk8s.plan import Plan, Stage
    from rvk8s.project import Experiment


def console() -> Console:
    """stdout: as wide as the terminal, and never folded where it is not one (`| grep`)."""
    return Console() if sys.stdout.isatty() else Console(width=1000)


def experiments_table(experiments: Iterable[Experiment]) -> Table:
    """A row for each experiment; the rows of its variants show only what they change."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NAME", "MODULE", "ARGS"):
        table.add_column(column, overflow="fold")
    base: Mapping[str, Any] = {}
    for experiment in experiments:
        args = experiment.args
        if experiment.variant_of is None:
            base = args
            row = (experiment.name, experiment.module, arguments(args))
        else:
            changed = {key: args[key] for key in args if args[key] != base.get(key)}
            row = (f"  {experiment.name}", "", arguments(changed))
        table.add_row(*(Text(cell) for cell in row))
    return table


def plan_table(plan: Plan) -> RenderableType:
    """A plan's head and a row for each stage."""
    head = Table(box=None, pad_edge=False, show_header=False)
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    for name, value in _head(plan):
        head.add_row(name, Text(value))
    stages = Table(box=None, pad_edge=False, header_style="bold")
    # What one process on one machine has one of is not worth a column.
    shown = [name for name in ("nodes", "ranks") if any(getattr(s, name) > 1 for s in plan.stages)]
    shape = (name.upper() for name in shown)
    for column in ("STAGE", "SPLITS", *shape, "GPUS", "RETRIES", "DEADLINE", ""):
        stages.add_column(column, justify="left" if column in ("STAGE", "") else "right")
    names = [stage.name for stage in plan.stages]
    start = names.index(plan.from_stage) if plan.from_stage else 0
    for index, stage in enumerate(plan.stages):
        deadline = "-" if stage.deadline_seconds is None else f"{stage.deadline_seconds} s"
        note = "has to be done" if index < start else "again" if stage.name in plan.rerun else ""
        counts = (getattr(stage, name) for name in shown)
        numbers = (stage.splits, *counts, _gpus(stage), stage.retries or 0)
        stages.add_row(stage.name, *(str(number) for number in numbers), deadline, note)
    return Group(head, Text(), stages, Text())


def _gpus(stage: Stage) -> str:
    """In total; over several nodes `4 (2 x 2)`: nodes x GPUs of each."""
    if stage.nodes == 1 or not stage.gpus:
        return str(stage.gpus)
    return f"{stage.gpus} ({stage.nodes} x {stage.gpus // stage.nodes})"


def arguments(args: Mapping[str, Any]) -> str:
    """`backbone=resnet18 num_epochs=20 ids=["2_10"]`: strings bare, other values as JSON."""
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in args.items()
    )


def _head(plan: Plan) -> list[tuple[str, str]]:
    scheduled = plan.run_id == RUN_ID_TOKEN
    rows = [
        ("Run", "a new one each time that the schedule is due" if scheduled else plan.run_id),
        ("Folder", plan.run_uri.replace(RUN_ID_TOKEN, "RUN") if scheduled else plan.run_uri),
        ("Experiment", plan.experiment),
        ("Module", plan.module),
        ("Arguments", arguments(plan.args) or "-"),
    ]
    return [*rows, ("Image", plan.image)] if plan.image else rows
