"""The platform's TensorBoard reads runs from an S3 server: its container's own arguments, here."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from chart import rendering
from cluster import certificates
from s3server import S3Server

from rvk8s import storage

_INTERFACES = Path("/proc/net/if_inet6")
#: Of this machine; the second where its kernel has IPv6.
_ADDRESSES = ["127.0.0.1"]
if _INTERFACES.exists() and " lo\n" in _INTERFACES.read_text():
    _ADDRESSES.append("[::1]")


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", "storage-ca"])
def test_it_shows_the_runs_of_the_root_uri(
    secret: str, s3: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "events"))
    value = Summary.Value(tag="loss", simple_value=1.0)
    writer.add_event(Event(step=1, summary=Summary(value=[value])))
    writer.close()
    root = s3.bucket(f"boards{secret}") + "/runs"
    (events,) = (tmp_path / "events").iterdir()
    storage.write_bytes(f"{root}/first/train/tensorboard/{events.name}", events.read_bytes())

    endpoint = s3.endpoint
    if secret:
        relay = _with_certificate(endpoint, tmp_path / "ca")
        request.addfinalizer(relay.server_close)
        request.addfinalizer(relay.shutdown)
        endpoint = f"https://127.0.0.1:{relay.server_address[1]}"
    board = {"enabled": True, "image": "x", "rootUri": root, "endpoint": endpoint}
    board |= {"caSecret": secret}
    found = rendering.objects({"tensorboard": board}, "p", "rvk8s-platform")
    ((_, template),) = rendering.pod_templates(found)
    (container,) = template["spec"]["containers"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program, *args = container["args"]
    local = {"--port=6006": f"--port={port}"}
    assert set(local) <= set(args)
    keys = {name: s3.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    env = {e["name"]: e["value"] for e in container["env"]} | keys
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in template["spec"]["volumes"]}
    if secret:
        assert volumes["ca"]["secret"] == {"secretName": secret}
        env["AWS_CA_BUNDLE"] = env["AWS_CA_BUNDLE"].replace(mounts["ca"], str(tmp_path / "ca"))
    env |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [str(Path(sys.executable).with_name(program)), *(local.get(a, a) for a in args)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        for address in _ADDRESSES:  # some clusters' pods have IPv6 alone
            found = _runs(f"{address}:{port}")
            assert found == ["first/train/tensorboard"], (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(30)


def _with_certificate(endpoint: str, folder: Path) -> socketserver.TCPServer:
    """A server with a certificate that ca.crt signs, and behind it the given one."""
    certificates.make(folder, ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    host, _, port = endpoint.removeprefix("http://").partition(":")

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection((host, int(port))) as server,
            ):
                Thread(target=_copy, args=(server, client), daemon=True).start()
                _copy(client, server)

    relay = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay)
    relay.daemon_threads = True
    Thread(target=relay.serve_forever, daemon=True).start()
    return relay


def _copy(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)


def _runs(at: str) -> list[str]:
    """The runs that it shows, once there are any; none after a minute."""
    for _ in range(120):
        time.sleep(0.5)
        try:
            url = f"http://{at}/data/runs"
            with urllib.request.urlopen(url, timeout=5) as answer:
                if runs := json.load(answer):
                    return list(runs)
        except OSError:
            continue
    return []
