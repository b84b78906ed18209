"""Waiting for runs: for a stage, for several runs, until Ctrl-C."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rvk8s.commands import submit
from rvk8s.commands.where import status_command_line
from rvk8s.errors import ClusterUnavailable, Interrupted, Rvk8sError
from rvk8s.runs import follow
from rvk8s.runs.cluster_runs import ClusterRun
from rvk8s.runs.places import merged


@pytest.mark.parametrize(("condition", "reached"), [("Complete", True), ("Failed", False)])
def test_a_stage_that_a_run_skipped_is_done_when_the_run_is(condition: str, reached: bool) -> None:
    """The cluster has nothing of such a stage, and its storage is out of reach."""
    driver = {
        "kind": "Job",
        "metadata": {"name": "run-1", "labels": {}, "creationTimestamp": "2026-11-30T00:00:00Z"},
        "status": {"conditions": [{"type": condition, "status": "True"}]},
    }
    found = merged(ClusterRun("run-1", driver), None)
    assert follow.condition("stage=chip").holds(found) is reached


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Waits for three runs of which the first ends with an error: that error, and the runs."""

    def wait(error: Rvk8sError) -> tuple[Rvk8sError, list[str]]:
        seen: list[str] = []

        def until_ended(places: object, run: str, *, show: bool, go_on: str) -> None:
            assert go_on == f"rvk8s status {run} -w -n team --context prod"
            seen.append(run)
            if run == "a-1":
                raise error

        monkeypatch.setattr(follow, "until_ended", until_ended)
        plans = [SimpleNamespace(run_id=run) for run in ("a-1", "b-1", "c-1")]
        submissions = [SimpleNamespace(plan=plan, namespace="team") for plan in plans]
        with pytest.raises(Rvk8sError) as raised:
            submit._wait_for_all(None, submissions, {"context": "prod"}, show=False)  # type: ignore[arg-type]
        return raised.value, seen

    return wait


@pytest.mark.parametrize("error", [follow.RunFailed("a", 12), ClusterUnavailable("away")])
def test_a_run_that_fails_ends_no_waiting_for_others(error: Rvk8sError, waited: Any) -> None:
    assert waited(error) == (error, ["a-1", "b-1", "c-1"])


def test_ctrl_c_ends_all_waiting(waited: Any) -> None:
    error = Interrupted("the run goes on")
    assert waited(error) == (error, ["a-1"])


def test_the_command_that_follows_a_run_leads_to_the_same_place() -> None:
    where = {"namespace": "team", "context": "my prod", "root_uri": "s3://b/r", "file": "a/b.yaml"}
    line = status_command_line("run-1", **where)
    options = "-n team --context 'my prod' --root-uri s3://b/r -f a/b.yaml"
    assert line == f"rvk8s status run-1 -w {options}"
    line = status_command_line("run-1", namespace="team", kubeconfig="a/config")
    assert line == "rvk8s status run-1 -w -n team --kubeconfig a/config"
    assert status_command_line("run-1", context="") == "rvk8s status run-1 -w"
