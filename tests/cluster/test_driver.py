"""The driver against a real API server and Job controller; its pods are played (driverrun.py)."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.apiserver import apiserver, namespace
from cluster.controlplane import ControlPlane
from cluster.driverrun import Play

__all__ = ["apiserver", "namespace"]


def test_a_whole_run(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> None:
    values = {"stages": {"chip": {"splits": 3}, "train": {"nodes": 2, "ranks": 2}}}
    with Play(apiserver, namespace, tmp_path, values=values) as play:
        driver = play.drive()
        assert play.finish(driver) == 0, play.said()
        record = play.record()
        assert record["state"] == "Succeeded"
        assert {one["state"] for one in record["stages"]} == {"Succeeded"}
        assert record["engine"] == "kubernetes"
        assert play.stage("chip")["images"] == ["registry.example.com/rvk8s@sha256:0"]
        job = play.cluster.get("Job", "run-1")
        assert job is not None
        assert record["driver"] == job["metadata"]["uid"]
        assert {name: len(uids) for name, uids in play.made.items()} == {
            f"run-1-{one['name']}": 1 for one in record["stages"]
        }
        for item in play.jobs.objects().values():
            if item["metadata"]["name"] != "run-1":
                assert item["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
        print(re.findall(r".*API requests.*", play.said()))
        lease = play.cluster.get("Lease", "run-1")
        assert lease is not None
        assert "holderIdentity" not in lease["spec"], "it was given back"
