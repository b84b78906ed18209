"""Requests to an API server, sent again while only passing faults come back.

The client library brings what a connection needs (kubeconfig files, exec plugins, service account
tokens, TLS); requests are built here, because its typed API costs a second of imports.
"""

from __future__ import annotations

import copy
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from rvk8s.certificates import fix_of
from rvk8s.cluster.json_text import json_text
from rvk8s.cluster.kinds import Forbidden, Unauthorized, kind_in, refusal
from rvk8s.cluster.kubeconfig import Connection
from rvk8s.cluster.responses import Stream, reason
from rvk8s.errors import ClusterUnavailable, InputError, Rvk8sError

if TYPE_CHECKING:
    import urllib3

log = logging.getLogger(__name__)

Object = dict[str, Any]

#: Seconds to connect, and to wait for the answer of a request that is not a stream.
_CONNECT, _READ = 5.0, 20.0
#: Seconds after which a fault that may pass by itself is said where the user looks.
NOTED_AFTER = 10.0
#: Seconds between two attempts from which on a fault that passes by itself is said, once.
_SAID_FROM = 3.0


class ApiServer:
    """A connection to an API server; threads may share it.

    Args:
        connection: what requests need.
        patience: seconds for which a request is tried again after passing faults.
        cancelled: asked between two tries; once true, the last fault is raised.
        forgives: seconds for which a server that has answered before may refuse the user (401,
            403): one that has just started knows neither all roles nor all tokens yet. What it has
            allowed this user before is asked for as long as one that does not answer.
        waits: told, between two tries, of a fault that has lasted for ten seconds, and None once it
            is over.
        guard: asked before each try of a change, for how many seconds it may be under way; raises
            what forbids it.
        log_in: makes the connection anew, where its credentials pass: for a server that knew them
            and does so no more (401).
    """

    def __init__(
        self,
        connection: Connection,
        patience: float = 20.0,
        cancelled: Callable[[], bool] = lambda: False,
        forgives: float = 0.0,
        guard: Callable[[], float] = lambda: inf,
        log_in: Callable[[], Connection] | None = None,
        waits: Callable[[str | None], object] = lambda text: None,
    ):
        self._connection, self._log_in = connection, log_in
        self.patience, self.cancelled, self.forgives = patience, cancelled, forgives
        self.guard, self.waits = guard, waits
        #: What the server has allowed: methods and kinds.
        self._allowed: set[tuple[str, str]] = set()
        self._sent: Counter[str] = Counter()
        self._answered, self._logging_in = False, threading.Lock()

    def unguarded(self) -> Self:
        """The same connection, for what the guard itself has to change."""
        other = copy.copy(self)
        other.guard = lambda: inf
        return other

    @property
    def requests(self) -> int:
        """How many were sent so far, over this connection in all."""
        return self._sent.total()

    @property
    def server(self) -> str:
        """The API server's URL."""
        host: str = self._connection.api.configuration.host
        return host

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        forgiving: bool = True,
    ) -> Object:
        """Send a request until it is answered; gives the answer's JSON."""
        began, pause, said = time.monotonic(), 0.5, False
        end, noted = began + self.patience, False
        refused: float | None = None  # since when
        while True:
            try:
                safe = inf if method == "GET" else self.guard()
                seconds = min(_READ, max(safe - _CONNECT, 1.0))
                answer = self._send(method, path, query, body, content_type, seconds)
                if noted:
                    self.waits(None)
                self._allowed.add((method, kind_in(path)))
                return self._parsed(answer.data)
            except (ClusterUnavailable, Forbidden, Unauthorized) as found:
                error = self._may_pass(found, method, path) if forgiving else found
                wait, now = pause * random.uniform(0.5, 1.5), time.monotonic()
                if isinstance(error, ClusterUnavailable):
                    wait, left = max(error.retry_after or 0.0, wait), end - now
                else:
                    refused = refused or now
                    passes = forgiving and self._answered
                    left = refused + self.forgives - now if passes else 0.0
                if self.cancelled() or wait > left:
                    raise error from found
                if now + wait - began > NOTED_AFTER:
                    self.waits(str(error))
                    noted = True
                if pause > _SAID_FROM and not said:
                    log.info("%s %s: %s; trying again for %.0f s", method, path, error, left)
                    said = True
                time.sleep(wait)
                pause = min(pause * 2, 15.0)

    def _may_pass(self, error: Rvk8sError, method: str, path: str) -> Rvk8sError:
        """A refusal of what was allowed before is a fault that passes: somebody changed a role."""
        if isinstance(error, ClusterUnavailable) or not self.forgives:
            return error
        if (method, kind_in(path)) not in self._allowed:
            return error
        return ClusterUnavailable(f"the API server refuses what it has allowed before: {error}")

    def _parsed(self, data: bytes) -> Object:
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            fix = "log in again, or look at the server in the kubeconfig"
            raise InputError("the answer is no object, perhaps a page", where=self.server, fix=fix)
        return value

    def _stream(self, path: str, query: Mapping[str, str], read_timeout: float) -> Any:
        """The response of a GET whose body is read piece by piece; a context manager."""
        return Stream(self._send("GET", path, query, None, "", read_timeout, True))

    def _send(self, *request: Any) -> urllib3.BaseHTTPResponse:
        """The response that _ask() gives to a request, where it is one of success."""
        connection = self._connection
        response = self._ask(connection, *request)
        if response.status == 401 and connection.passes and self._answered and self._log_in:
            response.close()
            with self._logging_in:
                if self._connection is connection:  # else another thread has done it
                    self._connection = self._log_in()
            response = self._ask(self._connection, *request)
        if not 200 <= response.status < 300:
            method, path = request[:2]
            raise refusal(response, f"{method} {path}", self.server)
        self._answered = True
        return response

    def _ask(
        self,
        connection: Connection,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        content_type: str,
        read_timeout: float,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        headers = urllib3.HTTPHeaderDict({"Accept": "application/json", "User-Agent": "rvk8s"})
        if body is not None:
            headers["Content-Type"] = content_type
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        self._sent[method] += 1
        try:
            connection.authorize(headers)
            response: urllib3.BaseHTTPResponse = connection.api.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json_text(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT, read=read_timeout),
                retries=False,
                preload_content=not stream,
            )
        except urllib3.exceptions.HTTPError as error:
            # A server that is being stopped breaks handshakes, too.
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                fix = fix_of(str(error), "look at the kubeconfig")
                raise InputError(str(error), where=self.server, fix=fix) from error
            raise ClusterUnavailable(f"{self.server} does not answer ({reason(error)})") from error
        except OSError as error:
            raise InputError(str(error), where=self.server, fix="look at the kubeconfig") from error
        return response
