"""Tables on a terminal of 80 columns and in a pipe: what people copy stays in one piece."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import RenderableType

from rvk8s.contract import STAGES, State
from rvk8s.plan import Plan, Stage
from rvk8s.progress import Progress
from rvk8s.project import Experiment
from rvk8s.project.signature import Signature
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import RunStatus, StageStatus
from rvk8s.runs.tables import runs_table, status_tables
from rvk8s.tables import experiments_table, plan_tables, show

Printed = Callable[..., str]
RUN = "potsdam-resnet18-at-twenty-epochs-long-20261123-131501-7f3a"
ROOT = "/data/projects/of the team/" + "/".join(["runs-of-a-long-name"] * 6)
GO_ON = f"rvk8s run potsdam -f '/a b/rvk8s.yaml' --root-uri '{ROOT}' --run-id {RUN}"
NOTE = "the namespace's quota is used up by others, who have what its pods ask for " * 4


@pytest.fixture
def plan() -> Plan:
    stages = tuple(Stage(name) for name in STAGES)
    args = {"path": "/a/" + "very/" * 20 + "long", "n": 3}
    return Plan(
        RUN,
        "potsdam",
        "exp.py",
        "/p",
        args,
        ROOT,
        stages,
        created="2026-11-23T13:15:01Z",
        go_on=GO_ON,
    )


@pytest.fixture
def run(plan: Plan) -> RunStatus:
    record = RunRecord.of_plan(plan, "local")
    record.state = State.FAILED
    record.stages[3].state = State.FAILED
    record.stages[3].message = NOTE
    stages = tuple(StageStatus(one, str(one.state), Progress()) for one in record.stages)
    return RunStatus(plan.run_uri, record, "Failed", stages, notes=(NOTE,))


class _Stdout(io.StringIO):
    def __init__(self, is_terminal: bool):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def is_terminal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def printed(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> Printed:
    """What show() prints, on a terminal of 80 columns or into a pipe."""

    def call(*parts: RenderableType) -> str:
        out = _Stdout(is_terminal)
        with monkeypatch.context() as patch:
            for name in ("NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            patch.setenv("COLUMNS", "80")
            patch.setenv("TERM", "xterm-256color")
            patch.setattr(sys, "stdout", out)
            show(*parts)
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
        assert not [line for line in text.splitlines() if line.endswith(" ")], "padded"
        return text

    return call


def test_ids_of_runs_never_fold(run: RunStatus, printed: Printed) -> None:
    rows = printed(runs_table([run, run], with_namespace=True)).splitlines()
    assert len(rows) == 3
    assert all(RUN in row for row in rows[1:])


def test_paths_and_commands_of_a_status_never_fold(run: RunStatus, printed: Printed) -> None:
    text = printed(*status_tables(run))
    assert f"{ROOT}/{RUN}\n" in text
    assert f"Go on with: {GO_ON}\n" in text


def test_long_notes_fold_on_a_terminal_only(
    run: RunStatus, printed: Printed, is_terminal: bool
) -> None:
    short = replace(
        run, uri="/r", record=replace(run.record, plan=replace(run.record.plan, go_on=""))
    )
    lines = printed(*status_tables(short)).splitlines()
    if is_terminal:
        assert max(map(len, lines)) <= 80
        assert " ".join(NOTE.split()) in " ".join(" ".join(lines).split()).replace("Note ", "")
    else:
        assert len([line for line in lines if NOTE.strip() in line]) == 2
        pending = next(line for line in lines if line.startswith("chip"))
        assert len(pending) < 40, "as long as it is, not as the longest note"


def test_names_and_paths_of_experiments_never_fold(printed: Printed) -> None:
    path = "/data/" + "a-folder/" * 9 + "image.tif"
    one = Experiment(
        name="x" * 40,
        module="experiments/" + "y" * 30 + ".py",
        signature=Signature("get_config"),
        where="",
        project_dir="/p",
        args={"a": path, "b": "short words " * 9},
    )
    text = printed(experiments_table([one]))
    for word in (one.name, one.module, path):
        assert word in text


def test_a_plan_of_a_cluster_shows_files_pools_and_shape(plan: Plan, printed: Printed) -> None:
    train = Stage("train", gpus=4, nodes=2, ranks=4, pool="gpu")
    stages = [train if s.name == "train" else replace(s, pool="cpu") for s in plan.stages]
    stages[4] = Stage("predict", splits=3, gpus=1, pool="gpu")
    files = ["exp.py", "lib/a.py"]
    text = printed(*plan_tables(replace(plan, stages=tuple(stages)), files))
    assert f"{ROOT}/{RUN}\n" in text
    assert re.search(r"^Files +2: exp\.py, lib/a\.py$", text, re.MULTILINE)
    assert re.search(r"^train +1 +2 +4 +4 \(2 x 2\) +gpu ", text, re.MULTILINE)
    assert re.search(r"^predict +3 +1 +1 +1 each +gpu ", text, re.MULTILINE)
    assert re.search(r"^chip +1 +1 +1 +0 +cpu ", text, re.MULTILINE)


def test_control_codes_of_a_file_are_not_sent_to_the_terminal(
    run: RunStatus, printed: Printed
) -> None:
    run.record.stages[3].message = "red \x1b[31m and \x07 more"
    assert "red ?[31m and " in printed(*status_tables(run))
