"""Fixtures and helpers: runs of the tiny experiment."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import pytest
import scenes
from once import made_once, session_folder

from rvk8s import storage
from rvk8s.contract import STAGES, State
from rvk8s.drive import Driver
from rvk8s.plan import Plan, Stage
from rvk8s.runs.record import RunRecord

FOLDER = Path(__file__).parent
#: Raster Vision's commands, in order.
COMMANDS = STAGES[1:]
#: A small network: the tests look at stages, not at models.
SMALL = {"arch": "deeplabv3", "backbone": "squeezenet1_1"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forks.StageServer]:
    with forks.StageServer(session_folder(tmp_path_factory)) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiny-data", scenes.draw)


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed.

    Attributes:
        seconds: by stage.
        outputs: by command and file: their hashes; of configure the config itself.
    """

    plan: Plan
    launcher: forks.ForkLauncher
    seconds: dict[str, float]
    outputs: dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def reference(
    server: forks.StageServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    root = tmp_path_factory.mktemp("reference")
    plan = make_plan(root, tiny_data)
    record = drive(plan, server, root / "logs")
    assert record.state == State.SUCCEEDED, record.message
    seconds = {stage.name: stage.seconds or 0.0 for stage in record.stages}
    found = {name: outputs(plan.layout.at(name)) for name in COMMANDS}
    found["configure"] = {"config": storage.read_bytes(plan.layout.config_uri).decode()}
    assert all(found.values()), "every stage writes something"
    return Reference(plan, forks.ForkLauncher(plan, server, root / "logs"), seconds, found)


def make_plan(root: Path | str, data: Path | str, run_id: str = "tiny-1", **changes: Any) -> Plan:
    """A plan of the tiny experiment; splits={stage: n} and args={...} are merged in."""
    splits = changes.pop("splits", {})
    args = {"raw_uri": str(data), **SMALL, **changes.pop("args", {})}
    values: dict[str, Any] = {
        "run_id": run_id,
        "experiment": "tiny",
        "module": "experiment.py",
        "project_dir": str(FOLDER),
        "args": args,
        "root_uri": str(root),
        "stages": tuple(Stage(name, splits=splits.get(name, 1)) for name in STAGES),
    }
    return Plan(**{**values, **changes})


def drive(
    plan: Plan, server: forks.StageServer, logs: Path, launcher: forks.ForkLauncher | None = None
) -> RunRecord:
    launcher = launcher or forks.ForkLauncher(plan, server, logs)
    return Driver(plan, launcher, engine="test", tick=0.02).drive()


def write_run_json(plan: Plan) -> None:
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())


def outputs(uri: str) -> dict[str, str]:
    """Name -> hash of what a stage wrote, without what tells the time."""
    found = {}
    for name in storage.list_files(uri):
        data = storage.read_bytes(f"{uri}/{name}")
        if "tensorboard" in name or name.endswith("last.pt"):
            continue
        if name == "metrics.json":
            data = json.dumps(json.loads(data, object_hook=_without_times)).encode()
        elif name == "log.csv":
            rows = [line.rsplit(",", 2) for line in data.decode().splitlines()]
            assert rows[0][1:] == ["seconds", "images_per_second"]
            data = "\n".join(row[0] for row in rows).encode()
        found[name] = _digest(data)
    return found


def _without_times(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in ("seconds", "images_per_second")}


def _digest(data: bytes) -> str:
    """The hash of a file; of a zip file that of its members, which have no times."""
    if data[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            # torch's own zip files name their folder after the file they were written to.
            members = {name.partition("/")[2] or name: name for name in file.namelist()}
            parts = [f"{name} {_digest(file.read(full))}" for name, full in members.items()]
        data = "\n".join(sorted(parts)).encode()
    return hashlib.sha256(data).hexdigest()[:16]
