"""A proxy before a real API server that breaks what a test tells it to.

It speaks HTTP to the client and HTTPS, with the administrator's certificate, to the server; watches
and logs go through as they come. A rule answers a request itself, or says what happens to it.
"""

from __future__ import annotations

import json
import re
import ssl
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from rvk8s import yaml_loader

#: Method, path with query -> None (go on), a status to answer, a page to answer with status 200,
#: "hang", "drop" (no answer) or "lose" (the server does it, the answer is lost).
Rule = Callable[[str, str], "int | bytes | str | None"]


@dataclass
class ApiProxy:
    """A running proxy.

    Attributes:
        url: for clients.
        kubeconfig: names it.
        rule: asked for every request; a test sets it.
        requests: method and path with query of all requests.
    """

    url: str
    kubeconfig: Path
    rule: Rule = lambda method, path: None
    requests: list[tuple[str, str]] = field(default_factory=list)

    def break_once(self, method: str, pattern: str, what: int | str, times: int = 1) -> None:
        """The next requests of a method whose path matches a pattern meet `what`."""
        left = [times]

        def rule(found: str, path: str) -> int | str | None:
            if left[0] and found == method and re.search(pattern, path):
                left[0] -= 1
                return what
            return None

        self.rule = rule


@contextmanager
def api_proxy(kubeconfig: Path, folder: Path, namespace: str = "default") -> Iterator[ApiProxy]:
    """A proxy before the server of an administrator's kubeconfig."""
    server, tls = _server(kubeconfig)
    proxy: list[ApiProxy] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy[0].requests.append((self.command, self.path))
            what = proxy[0].rule(self.command, self.path)
            if what == "hang":
                time.sleep(3600)
            if what in ("drop", "hang"):
                self.close_connection = True
                return
            if isinstance(what, bytes):
                self._answer(200, what)
                return
            if isinstance(what, int):
                text = 'forbidden: User "me" cannot: ' if what == 403 else ""
                message = {"kind": "Status", "status": "Failure", "message": f"{text}by the proxy"}
                self._answer(what, json.dumps({**message, "code": what}).encode())
                return
            self._pass_on(server, tls, body, lose=what == "lose")

        def _answer(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _pass_on(self, server: str, tls: ssl.SSLContext, body: bytes, lose: bool) -> None:
            connection: HTTPConnection = HTTPSConnection(urlsplit(server).netloc, context=tls)
            try:
                wanted = ("accept", "content-type", "user-agent")
                headers = {k: v for k, v in self.headers.items() if k.lower() in wanted}
                connection.request(self.command, self.path, body or None, headers)
                response = connection.getresponse()
                if lose:
                    response.read()
                    self.close_connection = True
                    return
                self._stream(response)
            except (OSError, HTTPException):
                self.close_connection = True
            finally:
                connection.close()

        def _stream(self, response: HTTPResponse) -> None:
            self.send_response(response.status)
            for name in ("Content-Type", "Retry-After"):
                if value := response.headers.get(name):
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while chunk := response.read1(2**16):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    url = f"http://127.0.0.1:{http.server_port}"
    config = folder / "proxy.kubeconfig"
    config.write_text(yaml.safe_dump(_kubeconfig(url, namespace)))
    proxy.append(ApiProxy(url, config))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy[0]
    finally:
        http.shutdown()
        http.server_close()


def _kubeconfig(url: str, namespace: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [
            {
                "name": "proxy",
                "context": {"cluster": "proxy", "user": "proxy", "namespace": namespace},
            }
        ],
        "current-context": "proxy",
    }


def _server(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The server's URL, and the administrator's certificate as a TLS context."""
    config = yaml_loader.load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, source in (
            ("certificate-authority", cluster),
            ("client-certificate", user),
            ("client-key", user),
        ):
            paths[name] = source.get(name)
            if f"{name}-data" in source:
                paths[name] = str(Path(folder, name))
                Path(paths[name]).write_bytes(b64decode(source[f"{name}-data"]))
        context = ssl.create_default_context(cafile=paths["certificate-authority"])
        context.load_cert_chain(paths["client-certificate"], paths["client-key"])
    return str(cluster["server"]), context
