"""The driver and an API server or a storage that fails for a while; pods are played."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
from cluster.apiproxy import api_proxy
from cluster.apiserver import of_one_test
from cluster.controlplane import ControlPlane
from cluster.driverrun import Play, stop
from s3server import S3Server
from tcpproxy import proxy_to

from rvk8s import storage


@pytest.mark.parametrize("what", [429, 500, 503, "drop", "lose"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_answers_that_pass(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, method: str, what: int | str
) -> None:
    """Each third request of a method fails; a lost answer to a create is no second object."""
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path) as play,
    ):
        count = [0]

        def rule(found: str, path: str) -> int | str | None:
            count[0] += found == method
            return what if found == method and count[0] % 3 == 1 else None

        proxy.rule = rule
        driver = play.drive(KUBECONFIG=str(proxy.kubeconfig))
        assert play.finish(driver, 120) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


#: As the server says it of a watch that begins too long ago, and in a watch that has become so.
_GONE = 410
_GONE_EVENT = b"""{"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410,\
 "reason": "Expired", "message": "too old resource version: 1 (2)"}}
"""


@pytest.mark.parametrize("answer", [_GONE, _GONE_EVENT], ids=["answer", "event"])
def test_a_watch_that_is_too_old(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, answer: int | bytes
) -> None:
    """410 Gone, to every watch of a kind until the kind is listed again."""
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path) as play,
    ):
        too_old: dict[str, bool] = {}

        def rule(method: str, path: str) -> int | bytes | None:
            kind, _, query = path.partition("?")
            if method == "GET" and "watch=true" in query:
                return answer if too_old.setdefault(kind, True) else None
            if method == "GET" and kind in too_old:
                too_old[kind] = False
            return None

        proxy.rule = rule
        assert play.finish(play.drive(KUBECONFIG=str(proxy.kubeconfig))) == 0, play.said()
        kinds = {kind.rpartition("/")[2] for kind, old in too_old.items() if not old}
        assert kinds == {"pods", "jobs", "pytorchjobs"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_does_not_know_the_driver_for_a_while(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, status: int
) -> None:
    """One that has just started knows neither all roles nor all tokens."""
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path) as play,
    ):
        proxy.break_once("POST", "/jobs", status, times=3)
        assert play.finish(play.drive(KUBECONFIG=str(proxy.kubeconfig)), 90) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


@pytest.mark.slow
def test_connections_that_never_answer(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """A create hangs: after its timeout it is sent again."""
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path) as play,
    ):
        proxy.break_once("POST", "/jobs", "hang")
        assert play.finish(play.drive(KUBECONFIG=str(proxy.kubeconfig)), 90) == 0, play.said()


@pytest.mark.slow
@pytest.mark.usefixtures("apiserver")  # or it is skipped, and says why
def test_an_api_server_that_stops(tmp_path: Path) -> None:
    """Away while a stage runs and ends; the driver that another one cannot replace goes on."""
    with (
        of_one_test(tmp_path / "plane") as plane,
        Play(plane, "default", tmp_path, seconds=0.5) as play,
    ):
        driver = play.drive()
        play.until(lambda: play.stage_pods("chip"))
        plane.stop_apiserver()
        try:
            time.sleep(35)  # longer than the lease
            assert driver.poll() is None, play.said()
        finally:
            plane.start_apiserver()
        assert play.finish(driver, 120) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


@pytest.mark.slow
def test_storage_that_is_away(
    apiserver: ControlPlane,
    namespace: str,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 goes away in the middle of a stage, and comes back."""
    with proxy_to(s3.endpoint) as proxy:
        root = s3.bucket("driver-away") + "/runs"
        environ = {"AWS_ENDPOINT_URL": proxy.url}
        with Play(apiserver, namespace, tmp_path, root=root, environ=environ, seconds=1) as play:
            driver = play.drive()
            play.until(lambda: play.running("analyze"))
            proxy.away.set()
            play.until(lambda: ("analyze", "ended") in play.times)
            time.sleep(10)
            assert driver.poll() is None, play.said()
            proxy.away.clear()
            back = time.monotonic()
            assert play.finish(driver, 120) == 0, play.said()
            assert play.record()["state"] == "Succeeded"
            beat = storage.read_json(play.layout.heartbeat("driver"))
            assert beat
            assert (beat["host"], beat["namespace"]) == ("driver-1", namespace)
            written = storage.age(play.layout.heartbeat("driver"))
            assert written is not None
            assert written <= time.monotonic() - back, "it beats again"
            (memory,) = re.findall(r"(\d+) MiB of memory", play.said())
            assert 10 <= int(memory) <= 150


def test_cancelled_while_storage_is_away(
    apiserver: ControlPlane,
    namespace: str,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pods are ended at once; the run says so when storage is back."""
    act = lambda stage, *_: None if stage == "analyze" else 0  # noqa: E731
    with proxy_to(s3.endpoint) as proxy:
        root = s3.bucket("driver-cancelled") + "/runs"
        environ = {"AWS_ENDPOINT_URL": proxy.url}
        with Play(apiserver, namespace, tmp_path, act, root=root, environ=environ) as play:
            driver = play.drive()
            play.until(lambda: play.running("analyze"))
            proxy.away.set()
            play.cancel()
            play.until(lambda: play.left() == [], 15)
            assert driver.poll() is None, "it waits to say so in storage"
            assert play.record()["state"] == "Running"
            proxy.away.clear()
            assert play.finish(driver, 40) == 130, play.said()
            assert play.record()["state"] == "Cancelled"


@pytest.mark.slow
def test_requests_of_a_quiet_minute(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """At most 10 requests in a minute in which a stage runs."""
    act = lambda stage, *_: None if stage == "analyze" else 0  # noqa: E731
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path, act) as play,
    ):
        driver = play.drive(KUBECONFIG=str(proxy.kubeconfig))
        play.until(lambda: play.running("analyze"))
        time.sleep(5)
        before = len(proxy.requests)
        time.sleep(60)
        # Without a node, a pod has no log that could be followed: asked for again and again.
        asked = [one for one in proxy.requests[before:] if "/log" not in one[1]]
        print("requests in a minute:", asked)
        assert len(asked) <= 10
        stop(driver)


def test_a_webhook_that_is_not_ready(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The training operator's, say: the API server refuses with 500 until it answers."""
    name = f"not-ready-{namespace}"
    hook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "pytorchjobs.example.com",
                "clientConfig": {"url": "https://127.0.0.1:9/"},
                "rules": [
                    {
                        "apiGroups": ["kubeflow.org"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pytorchjobs"],
                    }
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "timeoutSeconds": 2,
            }
        ],
    }
    values = {"stages": {"train": {"nodes": 2, "ranks": 2}}}
    with Play(apiserver, namespace, tmp_path, values=values) as play:
        apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(hook))
        try:
            driver = play.drive()
            play.until(lambda: "failed calling webhook" in play.said())
            assert driver.poll() is None, play.said()
            assert ("train", "made") not in play.times
            play.until(lambda: "failed calling webhook" in str(play.stage("train")["message"]))
        finally:
            apiserver.kubectl("delete", "validatingwebhookconfiguration", name)
        assert play.finish(driver, 120) == 0, play.said()
        assert {len(uids) for uids in play.made.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_a_role_that_is_taken_away_fails_no_training(
    apiserver: ControlPlane, namespace: str, tmp_path: Path, status: int
) -> None:
    """The training ends meanwhile; a driver that is started then waits, too."""
    over = threading.Event()

    def act(stage: str, index: int, attempt: int) -> int:
        return 0 if stage != "train" or over.wait(120) else 1

    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path, act) as play,
    ):
        driver = play.drive(KUBECONFIG=str(proxy.kubeconfig))
        play.until(lambda: play.stage_pods("train"))
        proxy.rule = lambda method, path: status
        play.until(lambda: "RoleBinding" in str(play.stage("train")["message"]), 60)
        over.set()
        play.until(lambda: ("train", "ended") in play.times)
        stop(driver)
        driver = play.drive(KUBECONFIG=str(proxy.kubeconfig))
        time.sleep(8)
        assert driver.poll() is None, play.said()
        proxy.rule = lambda method, path: None
        assert play.finish(driver, 120) == 0, play.said()
        assert play.stage("train")["attempts"] == 1
        assert {len(uids) for uids in play.made.values()} == {1}
        assert "Traceback" not in play.said()


def test_a_role_that_was_never_there_is_said_at_once(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with (
        api_proxy(apiserver.kubeconfig, tmp_path, namespace) as proxy,
        Play(apiserver, namespace, tmp_path) as play,
    ):
        proxy.rule = lambda method, path: 403
        assert play.finish(play.drive(KUBECONFIG=str(proxy.kubeconfig)), 20) == 2, play.said()
        assert "ask the administrator for the roles" in play.said()
