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
from said import says

from rvk8s import yaml_loader
from rvk8s.cluster import Cluster, preconditions
from rvk8s.cluster.kinds import Forbidden, NotFound, Unauthorized
from rvk8s.cluster.watch import Watcher
from rvk8s.errors import ClusterUnavailable, HandedOver, InputError

JOB = {"kind": "Job", "metadata": {"name": "a"}}
NO_ROLE = 'jobs.batch is forbidden: User "me" cannot get resource "jobs"'
HOOK = (
    'Internal error occurred: failed calling webhook "validator.pytorchjob.kubeflow.org": failed '
    'to call webhook: Post "https://training-operator.kubeflow.svc:443": connection refused'
)
NOTHING: dict[str, Any] = {}
#: Method -> status and body; of the number of requests so far.
Rule = Callable[[str, int], tuple[int, dict[str, Any]]]


class Server:
    """A server and a connection to it."""

    def __init__(self, url: str, folder: Path):
        self.rule: Rule = lambda method, count: (200, JOB)
        self.requests: list[str] = []
        self.headers: list[list[tuple[str, str]]] = []
        context = {"cluster": "c", "user": "u", "namespace": "ml"}
        config = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "contexts": [{"name": "c", "context": context}],
        }
        self.kubeconfig, self._config = folder / "kubeconfig", config
        self.user({})

    def user(self, settings: dict[str, Any]) -> None:
        """Write the kubeconfig with a user."""
        users = [{"name": "u", "user": settings}]
        self.kubeconfig.write_text(yaml.safe_dump({**self._config, "users": users}))

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
            found.headers.append(self.headers.items())
            status, body = found.rule(self.command, len(found.requests))
            with suppress(BrokenPipeError):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"" if body is NOTHING else json.dumps(body).encode())

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
        cluster.get("Pod", "a")
    assert 3 < time.monotonic() - began < 10
    assert len(server.requests) >= 3


def test_no_change_is_tried_again_where_it_is_forbidden_meanwhile(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver whose lease runs out while the server is away must not act on the run any more."""
    server.rule = lambda method, count: (503, {}) if method == "POST" else (200, JOB)
    cluster = server.cluster(monkeypatch)
    trusted = iter([30.0, 8.0])

    def guard() -> float:
        for seconds in trusted:
            return seconds
        raise HandedOver("another driver has the run")

    cluster.guard = guard
    with pytest.raises(HandedOver):
        cluster.create(JOB)
    assert [line.split()[0] for line in server.requests] == ["POST", "POST"]
    assert cluster.get("Job", "a") == JOB, "reading is free"
    with pytest.raises(HandedOver):
        cluster.patch("Job", "a", {})
    assert cluster.unguarded().patch("Job", "a", {}) == JOB
    assert cluster.requests == len(server.requests) == 4


def test_a_change_takes_no_longer_than_it_may(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, found = server.cluster(monkeypatch), []

    def sent(method: str, *args: Any) -> Any:
        found.append((method, args[-1]))
        raise NotFound("no")

    monkeypatch.setattr(cluster, "_send", sent)
    cluster.guard = lambda: 8.0
    assert cluster.get("Job", "a") is None
    assert cluster.patch("Job", "a", {}) is None
    cluster.guard = lambda: 2.0
    assert cluster.patch("Job", "a", {}) is None
    assert found == [("GET", 20.0), ("PATCH", 3.0), ("PATCH", 1.0)]


def test_a_watch_that_ends_at_once_is_not_asked_for_without_a_pause(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"items": [], "metadata": {"resourceVersion": "1"}}
    server.rule = lambda method, count: (200, listed) if count == 1 else (200, NOTHING)
    with Watcher(server.cluster(monkeypatch), "Job"):
        time.sleep(1.0)
    assert 2 <= len(server.requests) <= 5


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


def test_part_of_a_log(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = server.cluster(monkeypatch)
    for asked, query in (
        ({}, "container=c"),
        ({"tail": 0}, "container=c&tailLines=0"),
        ({"seconds": 0.2, "timestamps": True}, "container=c&timestamps=true&sinceSeconds=1"),
        ({"seconds": 90.0, "tail": 5}, "container=c&sinceSeconds=90&tailLines=5"),
    ):
        list(cluster.log_lines("a", "c", **asked))
        assert server.requests[-1] == f"GET /api/v1/namespaces/ml/pods/a/log?{query}"


@pytest.fixture
def plugin(server: Server, tmp_path: Path) -> Plugin:
    return Plugin(server, tmp_path)


class Plugin:
    """A program that logs in, as on EKS: each call gives another token.

    Attributes:
        valid: the number of the token that the server accepts; None: the newest.
    """

    def __init__(self, server: Server, folder: Path):
        self._server, self._calls = server, folder / "calls"
        self.valid: int | None = 1
        self._program = folder / "get-token"
        self.lasts(3600)
        command = {"command": str(self._program), "interactiveMode": "Never"}
        server.user({"exec": {"apiVersion": "client.authentication.k8s.io/v1", **command}})
        server.rule = self._rule

    def lasts(self, seconds: float | None) -> None:
        """For how long the tokens say that they are valid; None: they do not say."""
        status = {"token": "token-COUNT"}
        if seconds is not None:
            then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
            status["expirationTimestamp"] = then
        answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        text = json.dumps({**answer, "status": status}).replace("COUNT", "'$(wc -l < calls)'")
        script = f"cd {self._calls.parent}\necho >> calls\necho '{text}'\n"
        self._program.write_text(f"#!/bin/sh\n{script}")
        self._program.chmod(0o755)

    def fails(self) -> None:
        self._program.write_text("#!/bin/sh\necho 'the session is over' >&2\nexit 3\n")

    @property
    def calls(self) -> int:
        return len(self._calls.read_text().splitlines())

    def _rule(self, method: str, count: int) -> tuple[int, dict[str, Any]]:
        headers = {name.lower(): value for name, value in self._server.headers[-1]}
        if headers.get("authorization") != f"Bearer token-{self.valid or self.calls}":
            return 401, {"message": "Unauthorized"}
        if "watch=true" in self._server.requests[-1]:
            time.sleep(0.1)
            event = {"kind": "Job", "metadata": {"name": "a", "resourceVersion": str(count)}}
            return 200, {"type": "MODIFIED", "object": event}
        return 200, {"items": [JOB], "metadata": {"resourceVersion": "1"}}


@pytest.mark.parametrize("seconds", [3600, None])
def test_a_token_that_expires_while_a_command_watches_is_fetched_anew(
    server: Server, plugin: Plugin, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say for how long it is valid, or its server thinks otherwise."""
    plugin.lasts(seconds)
    cluster = server.cluster(monkeypatch)
    with Watcher(cluster, "Job") as watcher:
        assert list(watcher.objects(10.0)) == ["a"]
        for _ in range(2):
            plugin.valid = plugin.calls + 1  # and those before it no more
            end, answered = time.monotonic() + 10, len(server.requests)
            while len(server.requests) < answered + 6:
                assert time.monotonic() < end
                time.sleep(0.05)
            assert list(watcher.objects()) == ["a"]
    assert plugin.calls == 3


def test_a_token_that_has_expired_is_fetched_anew_before_the_next_request(
    server: Server, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.lasts(-1)
    plugin.valid = None
    cluster = server.cluster(monkeypatch)
    for number in range(1, 4):
        before = plugin.calls
        cluster.list_all("Job")
        assert len(server.requests) == number
        assert plugin.calls > before


def test_logging_in_again_is_at_the_same_cluster(
    server: Server, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = server.cluster(monkeypatch)
    cluster.list_all("Job")
    config = yaml_loader.load(server.kubeconfig.read_text())
    context = {"cluster": "other", "user": "u", "namespace": "other"}
    config["contexts"].append({"name": "other", "context": context})
    config["clusters"].append({"name": "other", "cluster": {"server": "http://127.0.0.1:9"}})
    config["current-context"] = "other"  # as `kubectl config use-context other` does
    server.kubeconfig.write_text(yaml.safe_dump(config))
    plugin.valid = 2
    assert cluster.list_all("Job")
    assert plugin.calls == 2


def test_a_program_that_logs_in_no_more_says_why(
    server: Server,
    plugin: Plugin,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cluster = server.cluster(monkeypatch)
    cluster.list_all("Job")
    plugin.valid = 2
    plugin.fails()
    with pytest.raises(InputError, match=r"get-token.*failed \(.*session is over"):
        cluster.list_all("Job")
    assert capfd.readouterr() == ("", "")


def test_credentials_that_were_never_good_are_not_fetched_again(
    server: Server, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.valid = 9
    with pytest.raises(Unauthorized):
        server.cluster(monkeypatch).list_all("Job")
    assert plugin.calls == 1


def test_a_user_who_acts_as_another_one_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"as-user-extra": {"Reason/Why": ["x", "y"]}}
    server.user({"as": "alice", "as-groups": ["a", "b"], "as-uid": "7", "token": "t", **extra})
    server.cluster(monkeypatch).get("Job", "a")
    headers = [(k, v) for k, v in server.headers[-1] if k.startswith(("Imp", "auth", "Auth"))]
    assert sorted(headers) == [
        ("Impersonate-Extra-reason%2Fwhy", "x"),
        ("Impersonate-Extra-reason%2Fwhy", "y"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-User", "alice"),
        ("authorization", "Bearer t"),
    ]


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"as-groups": ["a"]}, "…user…as-groups…no as…"),
        ({"as": "a\nb"}, "…as 'a\\nb'…no name…"),
        ({"as": "a", "as-groups": [3]}, "…as 3…no name…"),
        ({"as": "a", "as-groups": "b"}, "…as-groups…not a list…"),
    ],
)
def test_nobody_whom_one_could_act_as(
    server: Server, user: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.user(user)
    with pytest.raises(InputError) as caught:
        server.cluster(monkeypatch)
    assert says(str(caught.value), words)
    assert server.requests == []
