"""Requests to a server that answers as a test says: what passes, and what is said of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rvk8s.cluster import Cluster, preconditions
from rvk8s.cluster.kinds import Forbidden, Unauthorized
from rvk8s.cluster.watch import Watcher
from rvk8s.errors import ClusterUnavailable, InputError

JOB = {"kind": "Job", "metadata": {"name": "a"}}
NO_ROLE = 'jobs.batch is forbidden: User "me" cannot get resource "jobs"'
HOOK = (
    'Internal error occurred: failed calling webhook "validator.pytorchjob.kubeflow.org": failed '
    'to call webhook: Post "https://training-operator.kubeflow.svc:443": connection refused'
)
#: Method -> status and body; of the number of requests so far.
Rule = Callable[[str, int], tuple[int, dict[str, Any]]]


class Server:
    """A server and a connection to it."""

    def __init__(self, url: str, folder: Path):
        self.rule: Rule = lambda method, count: (200, JOB)
        self.requests: list[str] = []
        context = {"cluster": "c", "user": "u", "namespace": "ml"}
        config = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": context}],
        }
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def cluster(self, monkeypatch: pytest.MonkeyPatch, **settings: float) -> Cluster:
        monkeypatch.setenv("KUBECONFIG", str(self.kubeconfig))
        found = Cluster.connect(patience=settings.get("patience", 20.0))
        found.forgives = settings.get("forgives", 0.0)
        return found

    def refuses(self, status: int, *numbers: int) -> None:
        """Answer the requests of these numbers, counted from 1, with a refusal."""

        def rule(method: str, count: int) -> tuple[int, dict[str, Any]]:
            return (status, {"message": NO_ROLE}) if count in numbers else (200, JOB)

        self.rule = rule


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.requests.append(f"{self.command} {self.path}")
            status, body = found.rule(self.command, len(found.requests))
            with suppress(BrokenPipeError):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    found = Server(f"http://127.0.0.1:{http.server_port}", tmp_path)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield found
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_passes_where_the_server_knew_the_user(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuses(status, 2, 3)
    cluster = server.cluster(monkeypatch, forgives=60.0)
    cluster.get("Job", "a")
    assert cluster.get("Job", "a") == JOB
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "error"), [(401, Unauthorized), (403, Forbidden)])
def test_other_refusals_end_at_once(
    server: Server, status: int, error: type[InputError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a client meets, and those of the first request, which nobody is sure of."""
    server.refuses(status, 1, 3, 5)
    with pytest.raises(error):
        server.cluster(monkeypatch, forgives=60.0).get("Job", "a")
    client = server.cluster(monkeypatch)
    client.get("Job", "a")
    with pytest.raises(error):
        client.get("Job", "a")
    client.forgives = 60.0
    client.get("Job", "a")
    with pytest.raises(error):
        client.list_all("Job", forgiving=False)
    assert len(server.requests) == 5


def test_a_refusal_that_stays_ends_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time begins with the refusal: before it the server may have been away for longer."""
    server.refuses(403, *range(2, 99))
    cluster = server.cluster(monkeypatch, forgives=2.0)
    cluster.get("Job", "a")
    send, faults = cluster._send, iter([ClusterUnavailable("away")])

    def sent(*args: Any, **options: Any) -> Any:
        if fault := next(faults, None):
            time.sleep(2.2)
            raise fault
        return send(*args, **options)

    monkeypatch.setattr(cluster, "_send", sent)
    began = time.monotonic()
    with pytest.raises(Forbidden):
        cluster.get("Job", "a")
    assert 3 < time.monotonic() - began < 10
    assert len(server.requests) >= 3


def test_a_watch_that_is_refused_from_the_beginning_ends_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuses(403, *range(2, 99))
    cluster = server.cluster(monkeypatch, forgives=60.0)
    cluster.get("Job", "a")
    with Watcher(cluster, "Pod") as watcher, pytest.raises(Forbidden):
        watcher.objects(10.0)


def test_a_webhook_that_does_not_answer_is_named_and_nothing_is_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"kind": "PyTorchJob", "metadata": {"name": "a"}}
    server.rule = lambda method, _: (500, {"message": HOOK}) if method == "PATCH" else (200, JOB)
    cluster = server.cluster(monkeypatch, patience=1.0)
    with pytest.raises(ClusterUnavailable) as caught:
        preconditions.check(cluster, [training])
    assert int(caught.value.exit_code) == 138
    assert 'failed calling webhook "validator.pytorchjob.kubeflow.org"' in str(caught.value)
    assert "nothing was created" in str(caught.value)
    assert all("dryRun=All" in one for one in server.requests if one.startswith("PATCH"))
