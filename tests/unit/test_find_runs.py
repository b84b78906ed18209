"""Which run a name means: an id or its beginning, of the root URI that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launching import make_plan

from rvk8s import storage
from rvk8s.errors import InputError
from rvk8s.runs import cluster_runs, status
from rvk8s.runs.places import Places
from rvk8s.runs.record import RunRecord
from rvk8s.runs.status import NoSuchRun


class Namespace:
    """A namespace with drivers: a run's id -> its root URI."""

    namespace = "shared"

    def __init__(self, **drivers: str):
        self.drivers = {name.replace("_", "-"): root for name, root in drivers.items()}

    def list_all(self, kind: str, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "name": name,
                    "creationTimestamp": "2026-11-30T00:00:00Z",
                    "labels": {"rvk8s.io/run": name, "app.kubernetes.io/component": "driver"},
                    "annotations": {"rvk8s.io/root-uri": root},
                }
            }
            for name, root in self.drivers.items()
            if kind == "Job" and ("rvk8s.io/run=" not in labels or f"run={name}," in labels)
        ]


def test_no_name_is_no_beginning(tmp_path: Path) -> None:
    """`rvk8s delete "$RUN" --results --yes` where RUN is not set."""
    plan = make_plan(tmp_path)
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())
    with pytest.raises(InputError, match="RUN: is empty; give a run's id"):
        status.find_run(str(tmp_path), "")
    with pytest.raises(InputError, match="RUN: is empty; give a run's id"):
        cluster_runs.find(Namespace(run_1=str(tmp_path)), "")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["run-1", "run"])
def test_a_cluster_that_nobody_named_shows_no_runs_of_others(name: str, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    storage.write_json(plan.layout.run_json, RunRecord.of_plan(plan, "test").to_dict())
    drivers = Namespace(run_1="s3://other/runs", run_2="s3://other/runs", run_3=str(tmp_path))

    def places(**drivers: str) -> Places:
        return Places(str(tmp_path), Namespace(**drivers), guess=True)  # type: ignore[arg-type]

    found, there = places(run_1="s3://other/runs", run_2="s3://other/runs").find(name)
    assert (found.run_id, found.uri, there) == ("run-1", plan.run_uri, None)
    there = cluster_runs.find(drivers, "run", str(tmp_path))  # type: ignore[arg-type]
    assert there is not None
    assert there.run_id == "run-3"
    assert cluster_runs.find(drivers, "run-2"), "-n names a namespace with all its runs"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no run run-2"):
        places(run_2="s3://other/runs").find("run-2")


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(NoSuchRun):
        status.find_run(str(tmp_path), "x")
