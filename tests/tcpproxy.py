"""A TCP proxy before a server: it can be slow, silent or gone, or spoil what it carries.

It keeps the heads of the HTTP requests that pass, so that a test can look at their headers.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_PIECE = 1 << 16
_HEAD = re.compile(rb"(?:GET|PUT|POST|HEAD|DELETE) \S+ HTTP/1\.1\r\n.*?\r\n\r\n", re.DOTALL)


class Proxy:
    """A listening proxy.

    Attributes:
        url: where it listens.
        silent: while set, what comes from clients is kept and nothing is answered.
        away: while set, connections are closed at once, those that stand too.
        bytes_per_second: of answers; None: as fast as it goes.
        spoil_request, spoil_answer: change the bytes that pass.
        heads: of the requests so far.
        sent, received: bytes of requests and of answers so far.
    """

    def __init__(self, target: str, host: str = "127.0.0.1"):
        place = urlsplit(target)
        self._target = (place.hostname or "127.0.0.1", place.port or 80)
        self.silent, self.away = threading.Event(), threading.Event()
        self.bytes_per_second: int | None = None
        self.spoil_request: Callable[[bytes], bytes] = lambda data: data
        self.spoil_answer: Callable[[bytes], bytes] = lambda data: data
        self.heads: list[str] = []
        self.sent = self.received = 0
        self._closed = threading.Event()
        self._listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self._thread(self._accept)

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.away.is_set():
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._thread(self._carry, client, server, self._request)
            self._thread(self._carry, server, client, self._answer)

    def _request(self, data: bytes) -> bytes:
        self.sent += len(data)
        self.heads += [head.decode("latin-1") for head in _HEAD.findall(data)]
        return self.spoil_request(data)

    def _answer(self, data: bytes) -> bytes:
        self.received += len(data)
        if self.bytes_per_second:
            time.sleep(len(data) / self.bytes_per_second)
        return self.spoil_answer(data)

    def _carry(
        self, source: socket.socket, target: socket.socket, pass_on: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):  # the other direction may have closed both ends already
            source.settimeout(0.1)
            while not self._closed.is_set() and not self.away.is_set():
                try:
                    data = source.recv(_PIECE)
                except TimeoutError:
                    continue
                if not data:
                    break
                rest = memoryview(pass_on(data))
                while self.silent.is_set() and not self._closed.is_set():
                    time.sleep(0.02)
                while rest and not self._closed.is_set():
                    with suppress(TimeoutError):
                        rest = rest[target.send(rest) :]
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _thread(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()


@contextmanager
def proxy_to(url: str, host: str = "127.0.0.1") -> Iterator[Proxy]:
    """A proxy in front of a server, listening on an address of this machine."""
    proxy = Proxy(url, host)
    try:
        yield proxy
    finally:
        proxy.close()
