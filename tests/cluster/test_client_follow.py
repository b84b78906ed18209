"""Runs on a real API server seen through: wait, status -w, submit --wait and --follow."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from cluster.clientrun import Client, client, end_run, set_status, submit
from cluster.controlplane import ControlPlane

__all__ = ["client"]


def test_waiting(client: Client, apiserver: ControlPlane, namespace: str) -> None:
    run = submit(client)
    error = client.error("wait", run, "--for=ended", "--timeout=1s", code=124)
    assert f"{run} is Pending after 1 s, not ended" in error
    assert "cannot be waited for" in client.error("wait", run, "--for=done")
    waiting = client.start("wait", run, "--for=succeeded", "--timeout=60s")
    following = client.start("status", run, "-w")
    threading.Event().wait(2)
    end_run(apiserver, namespace, run)
    assert waiting.communicate(timeout=60)[0] == f"{run} condition met\n"
    following.communicate(timeout=60)
    assert (waiting.returncode, following.returncode) == (0, 0)
    error = client.error("wait", run, "--for=failed", code=1)
    assert f"{run} has succeeded" in error


def test_a_watch_in_json_says_why_a_pod_does_not_run(
    client: Client, apiserver: ControlPlane, namespace: str
) -> None:
    """From when it is so until it is so no more."""
    run = submit(client)
    watching = client.start("status", run, "-w", "-o", "json")
    assert watching.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        text += watching.stdout.readline()
    assert "cannot be pulled" not in text
    pod = apiserver.kubectl("get", "pods", "-n", namespace, "-o", "name").split()[0]
    container = {"name": "driver", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    status = {"phase": "Pending", "containerStatuses": [{**container, "state": waiting}]}
    set_status(apiserver, namespace, pod, status)
    line = ""
    while "cannot be pulled" not in line:
        line = watching.stdout.readline()
        assert watching.poll() is None
    threading.Event().wait(6)  # it looks again: there is nothing new to say
    end_run(apiserver, namespace, run)
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "cannot be pulled" not in rest, "it is said once"
    assert '"state": "Succeeded"' in rest


@pytest.mark.parametrize(("option", "code"), [("--wait", 12), ("--wait", 0), ("--follow", 12)])
def test_submit_and_wait_has_the_run_s_exit_code(
    client: Client, apiserver: ControlPlane, namespace: str, option: str, code: int
) -> None:
    submitting = client.start("submit", "one", option, "-o", "name")
    assert submitting.stdout is not None
    run = submitting.stdout.readline().strip().removeprefix("job.batch/")
    threading.Event().wait(1)
    assert submitting.poll() is None
    end_run(apiserver, namespace, run, code=code)
    out, err = submitting.communicate(timeout=60)
    assert (submitting.returncode, out) == (code, ""), err
    if option == "--wait":  # nothing is shown but why it failed
        assert err.startswith("error: ") is bool(code)
        assert len(err.splitlines()) == bool(code), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_looking_and_not_the_run(
    client: Client, apiserver: ControlPlane, namespace: str, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    client.environ["TMPDIR"] = str(temporary)
    submitting = client.start("submit", "one", "--follow", "-o", "name")
    assert submitting.stdout is not None
    run = submitting.stdout.readline().strip().removeprefix("job.batch/")
    assert submitting.stderr is not None
    while f"run {run} in" not in submitting.stderr.readline():
        assert submitting.poll() is None
    assert os.listdir(temporary)  # the user's key among others
    submitting.send_signal(number)
    _, err = submitting.communicate(timeout=10)
    assert submitting.returncode == 130, err
    again = f"rvk8s status {run} -w -n {namespace}"
    assert f"error: the run goes on; see it again with: {again}" in err
    assert os.listdir(temporary) == []
    assert [line.split()[1] for line in client.ok("list").splitlines()[1:]] == ["Pending"]
