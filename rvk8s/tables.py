"""Tables that the client prints."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rvk8s.contract import RUN_ID_TOKEN

if TYPE_CHECKING:
    from rvk8s.plan import Plan, Stage
    from rvk8s.project import Experiment

#: As wide as no line is: what does not go to a terminal is not folded (`| grep`).
_WIDE = 100_000
#: What a terminal would take for commands: names and messages come from files, too.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Unfolded:
    """A text that stays in one piece, such as a path or a command: people copy them."""

    def __init__(self, text: str):
        self._text = Text(text, no_wrap=True, overflow="ignore")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self._text.cell_len, self._text.cell_len)


class _Lines:
    """Lines as they are, without spaces at their ends."""

    def __init__(self, lines: Iterable[list[Segment]]):
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            kept = [Segment(_CONTROL.sub("?", text), style) for text, style, _ in line]
            while kept and not kept[-1].text.strip():
                kept.pop()
            if kept:
                kept.append(Segment(kept[-1].text.rstrip(), kept.pop().style))
            yield from kept
            yield Segment.line()


def show(*parts: RenderableType) -> None:
    """Print on stdout.

    On a terminal texts are folded between words. What is wider even so is folded by the terminal,
    from which it can be copied in one piece.
    """
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    for part in parts:
        wide = console.options.update_width(_WIDE)
        width = max(console.width, Measurement.get(console, wide, part).minimum)
        lines = console.render_lines(part, console.options.update_width(width), pad=False)
        console.print(_Lines(lines), soft_wrap=True, end="")


def columns(*names: str, texts: Collection[str] = (), right: Collection[str] = ()) -> Table:
    """An empty table.

    Args:
        names: of the columns.
        texts: those whose cells may be folded.
        right: those of numbers.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        side = "right" if name in right else "left"
        table.add_column(name, justify=side, no_wrap=name not in texts)  # type: ignore[arg-type]
    return table


def head(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Names, and what they stand for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def experiments_table(experiments: Iterable[Experiment]) -> Table:
    """A row for each experiment; the rows of its variants show only what they change."""
    table = columns("NAME", "MODULE", "ARGS", texts=["ARGS"])
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


def plan_tables(plan: Plan, files: Sequence[str] | None = None) -> list[RenderableType]:
    """A plan's head and a row for each stage.

    Args:
        files: of the project, that go to the cluster; None on one machine.
    """
    stages = plan.stages
    # What one process on one machine has one of is not worth a column.
    shown = [name for name in ("nodes", "ranks") if any(getattr(s, name) > 1 for s in stages)]
    pool = ["POOL"] if files is not None else []
    shape = [name.upper() for name in shown]
    numbers = ["SPLITS", *shape, "GPUS"]
    after = ["RETRIES", "DEADLINE"]
    table = columns("STAGE", *numbers, *pool, *after, "", texts=[""], right=[*numbers, *after])
    names = [stage.name for stage in stages]
    start = names.index(plan.from_stage) if plan.from_stage else 0
    for index, stage in enumerate(stages):
        deadline = "-" if stage.deadline_seconds is None else f"{stage.deadline_seconds} s"
        note = "has to be done" if index < start else "again" if stage.name in plan.rerun else ""
        counts = (getattr(stage, name) for name in shown)
        cells = [stage.splits, *counts, _gpus(stage, on_cluster=files is not None)]
        cells += [stage.pool or "-"] if pool else []
        cells += [stage.retries or 0, deadline]
        table.add_row(*(Text(str(cell)) for cell in (stage.name, *cells, note)))
    return [head(_head(plan, files)), Text(), table, Text()]


def _gpus(stage: Stage, on_cluster: bool) -> str:
    """In total; on a cluster `4 (2 x 2)`: nodes x GPUs of each."""
    if not stage.gpus or not on_cluster:
        return str(stage.gpus)
    if stage.name != "train":
        return f"{stage.gpus} each" if stage.splits > 1 else str(stage.gpus)
    return f"{stage.gpus} ({stage.nodes} x {stage.gpus // stage.nodes})"


def arguments(args: Mapping[str, Any]) -> str:
    """`backbone=resnet18 num_epochs=20 ids=["2_10"]`: strings bare, other values as JSON."""
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in args.items()
    )


def _head(plan: Plan, files: Sequence[str] | None) -> list[tuple[str, RenderableType]]:
    scheduled = plan.run_id == RUN_ID_TOKEN
    uri = plan.run_uri.replace(RUN_ID_TOKEN, "RUN") if scheduled else plan.run_uri
    run = "a new one each time that the schedule is due" if scheduled else plan.run_id
    rows: list[tuple[str, RenderableType]] = [
        ("Run", Text(run)),
        ("Folder", Unfolded(uri)),
        ("Experiment", Text(plan.experiment)),
        ("Module", Unfolded(plan.module)),
        ("Arguments", Text(arguments(plan.args) or "-")),
    ]
    if plan.image:
        rows.append(("Image", Text(plan.image)))
    if files is not None:
        none = "none: the module is in the image"
        rows.append(("Files", Text(f"{len(files)}: {', '.join(files)}" if files else none)))
    return rows
