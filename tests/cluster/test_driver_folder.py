"""Two namespaces whose runs of one id have one folder: no Lease keeps their drivers apart."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

from cluster.apiserver import make_namespace
from cluster.clientrun import Client
from cluster.controlplane import ControlPlane
from cluster.driverrun import Fate, Play, stop

from rvk8s import storage
from rvk8s.contract import DRIVER, Annotation


def test_the_second_leaves_until_the_first_is_deleted(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    other, over = f"{namespace}-b", threading.Event()
    make_namespace(apiserver.kubeconfig, other)
    for name in "ab":
        (tmp_path / name).mkdir()

    def stays(stage: str, index: int, attempt: int) -> Fate:
        if stage == "train":
            over.wait(60)
        return 0

    root = str(tmp_path / "root")
    with (
        Play(apiserver, namespace, tmp_path / "a", stays, root=root) as one,
        Play(apiserver, other, tmp_path / "b", root=root) as two,
    ):
        first = one.drive("driver-a")
        one.until(lambda: one.stage_pods("train") and one.stage("train")["state"] == "Running")
        before = one.record()
        assert two.finish(two.drive("driver-b"), 40) == 2, two.said()
        said = f"another driver, driver-a in namespace {namespace}, has this run; wait for it or"
        assert said in two.said()
        assert two.made == {}
        assert one.record() == before
        beat = storage.read_json(one.layout.heartbeat(DRIVER))
        assert beat is not None
        assert beat["host"] == "driver-a"
        client = Client.make(tmp_path / "project", KUBECONFIG=str(apiserver.kubeconfig))
        written = ("annotate", "job", "run-1", "-n", other, f"{Annotation.ROOT_URI}={root}")
        apiserver.kubectl(*written, "--overwrite")
        deleting = ("delete", "run-1", "--results", "--yes", "-n", other)
        assert f"another driver, driver-a in namespace {namespace}, has" in client.error(*deleting)
        assert one.record() == before

        assert one.delete("Job", "run-1")
        one.until(lambda: "run-1" not in one.jobs.objects())
        time.sleep(1.0)  # the driver's own watch, too
        assert stop(first, signal.SIGTERM) == 143
        began = time.monotonic()
        assert two.finish(two.drive("driver-b")) == 0, two.said()
        assert time.monotonic() - began < 40, "it did not wait for the heartbeat to grow old"
        assert two.record()["state"] == "Succeeded"
        log = storage.read_bytes(two.layout.log(DRIVER)).decode()
        assert "the run's Job was deleted" in log, "the first driver's"
        assert "the next driver goes on" not in log
        assert "another driver" not in log, "whoever has not the run does not write into its folder"
        over.set()
    apiserver.kubectl("delete", "namespace", other, "--wait=false")
