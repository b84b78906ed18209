"""Shows how a run goes: a live table on a terminal, else plain lines; both on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rvk8s import storage
from rvk8s.contract import State, split_of
from rvk8s.errors import Rvk8sError
from rvk8s.plan import Plan
from rvk8s.progress import Progress
from rvk8s.runs import report
from rvk8s.runs.record import RunRecord, StageRecord
from rvk8s.runs.tables import STYLES
from rvk8s.times import duration

#: Seconds after which a plain line says how far a stage is, if nothing else was said of it.
LINE_EVERY = 60.0


class Display(Protocol):
    """Is told the run's record several times a second."""

    def update(self, record: RunRecord) -> None: ...


@contextmanager
def show(
    plan: Plan, output: Literal["auto", "json"], *, progress: bool = True
) -> Iterator[Display]:
    """The display that fits stderr: a live table where it can be drawn again; with json, lines.

    Args:
        progress: read the stages' progress files; not where the storage cannot be reached.
    """
    # rich takes a pipe for a terminal where FORCE_COLOR is set, and a dumb terminal for one.
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    console = Console(file=cast(TextIO, _LetGo(sys.stderr))) if is_terminal else None
    if output == "json" or console is None or not console.is_interactive:
        yield Lines(plan, progress)
        return
    live = LiveTable(plan, progress)
    with Live(get_renderable=live.render, console=console, refresh_per_second=4):
        yield live


def say(text: str) -> None:
    """Plain text on stderr; a run goes on where nobody reads it any more, or its disk is full."""
    if sys.stderr is not None:  # closed: print would take stdout for it
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


class _LetGo:
    """A stream that lets go what it cannot write, as to a terminal that is gone."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


class ProgressReader:
    """Reads the progress files of a stage's splits, not more often than they change.

    Args:
        plan: the run; on S3 the files are uploaded every ten seconds.
        enabled: whether to read anything.
    """

    def __init__(self, plan: Plan, enabled: bool = True):
        self._layout, self._enabled = plan.layout, enabled
        self._interval = 10.0 if storage.is_s3(plan.root_uri) else 0.5
        self._read_at = float("-inf")
        self._found: tuple[str, Progress] | None = None
        self._reading: threading.Thread | None = None

    def read(self, stage: StageRecord) -> Progress:
        """The progress of a running stage over its splits; empty where there is none yet."""
        if not self._enabled:
            return Progress.of_splits([], stage.started)
        clock, found = time.monotonic(), self._found
        due = clock - self._read_at >= self._interval or found is None or found[0] != stage.name
        if due and not (self._reading and self._reading.is_alive()):
            self._read_at = clock
            # In a thread: storage that hangs must hold up neither the run nor its end.
            reading = threading.Thread(target=self._read, args=(stage,), daemon=True)
            self._reading = reading
            reading.start()
            # Local files and servers that are near answer at once.
            reading.join(0.1)
        found = self._found
        if found is None or found[0] != stage.name:
            return Progress.of_splits([], stage.started)
        return found[1]

    def _read(self, stage: StageRecord) -> None:
        uris = (
            self._layout.progress(stage.name, split_of(stage.splits, index))
            for index in range(stage.splits)
        )
        try:
            files = [storage.read_json(uri) for uri in uris]
        except (Rvk8sError, OSError):
            # Nothing depends on what is shown: the run goes on, and the next look may succeed.
            files = []
        if files or self._found is None or self._found[0] != stage.name:
            self._found = (stage.name, Progress.of_splits(files, stage.started))


class Lines:
    """A line when a stage starts and ends, each epoch, each tenth of the pixels, each minute."""

    def __init__(self, plan: Plan, progress: bool = True):
        self._reader = ProgressReader(plan, progress)
        self._states: dict[str, State] = {}
        self._said: dict[str, Any] = {}
        self._last = time.monotonic()
        say(f"run {plan.run_id} in {plan.run_uri}")

    def update(self, record: RunRecord) -> None:
        for stage in record.stages:
            if self._states.get(stage.name, State.PENDING) != stage.state:
                self._states[stage.name] = stage.state
                self._transition(stage)
            if stage.state == State.RUNNING:
                self._progress(stage, self._reader.read(stage))

    def _transition(self, stage: StageRecord) -> None:
        self._last = time.monotonic()
        if stage.state == State.RUNNING:
            splits = f" in {stage.splits} splits" if stage.splits > 1 else ""
            say(f"{stage.name}: started{splits}")
        elif stage.state == State.SUCCEEDED:
            say(f"{stage.name}: done in {duration(stage.seconds)}")
            if stage.message:
                say(stage.message)
        elif stage.state == State.SKIPPED:
            say(f"{stage.name}: skipped, {stage.message}")
        else:
            say(f"{stage.name}: {str(stage.state).lower()}")

    def _progress(self, stage: StageRecord, progress: Progress) -> None:
        milestone, text = progress.milestone(), progress.text()
        is_new = milestone is not None and self._said.get(stage.name) != milestone
        if is_new or (text and time.monotonic() - self._last > LINE_EVERY):
            self._said[stage.name] = milestone
            self._last = time.monotonic()
            say(f"{stage.name}: {text}")


class LiveTable:
    """A table of the stages that is drawn again several times a second."""

    def __init__(self, plan: Plan, progress: bool = True):
        self._plan = plan
        self._reader = ProgressReader(plan, progress)
        self._record: RunRecord | None = None

    def update(self, record: RunRecord) -> None:
        self._record = record

    def render(self) -> Group:
        # The id on a line of its own, which 80 columns always have room for.
        head = Text(f"{self._plan.run_id}\n{self._plan.run_uri}", style="bold", overflow="fold")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for stage in self._record.stages if self._record else ():
            table.add_row(*self._row(stage))
        return Group(head, table)

    def _row(self, stage: StageRecord) -> list[Text]:
        style = STYLES[str(stage.state)]
        detail = stage.message or ""
        seconds = stage.seconds
        if stage.state == State.RUNNING:
            progress = self._reader.read(stage)
            detail, seconds = progress.text(), progress.elapsed
        name = stage.name if stage.splits == 1 else f"{stage.name} x{stage.splits}"
        cells = [name, str(stage.state), duration(seconds)]
        return [*(Text(cell, style=style) for cell in cells), Text(detail)]


def print_summary(
    record: RunRecord, scores: Mapping[str, Any] | None, pictures: Sequence[str]
) -> None:
    """What a run gave: scores, where everything lies, how long it took; on stdout.

    Other runs may follow: what cannot be written is said at the program's end.
    """
    if sys.stdout is None:  # closed
        return
    width = None if sys.stdout.isatty() else 100
    console = Console(file=cast(TextIO, _LetGo(sys.stdout)), width=width)
    layout = record.plan.layout
    if scores:
        report.print_scores(dict(scores), console)
    times = "  ".join(
        f"{stage.name} {duration(stage.seconds)}"
        for stage in record.stages
        if stage.state == State.SUCCEEDED
    )
    lines = [("run", record.plan.run_uri)]
    if times:
        lines.append(("times", times))
    if "bundle" in {s.name for s in record.stages if s.message != "not part of this pipeline"}:
        lines.append(("model", layout.at("bundle", "model-bundle.zip")))
    if pictures:
        lines.append(("pictures", layout.pictures))
    for name, value in lines:
        console.print(Text(f"{name:9} {value}"), soft_wrap=True)
