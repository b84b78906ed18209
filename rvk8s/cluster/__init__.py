"""A namespace of a Kubernetes cluster: with kubeconfig.py the only import of its client library.

The client library brings what a connection needs (kubeconfig files, exec plugins, service account
tokens, TLS); requests are built here, because its typed API costs a second of imports. Every
request has a timeout, and one that met a passing fault (no answer, 429, 5xx) is sent again until
`patience` seconds are over. Objects are plain dicts as the API server sends them.

Every method raises:
    ClusterUnavailable: no answer, or only passing faults, for `patience` seconds.
    InputError: the request is refused: no permission (see `forgives`), no such kind, an invalid
        object.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from rvk8s.cluster import kubeconfig
from rvk8s.cluster.json_text import json_text
from rvk8s.cluster.kinds import (
    KINDS,
    Forbidden,
    NotFound,
    Unauthorized,
    WatchExpired,
    path_of,
    refusal,
)
from rvk8s.cluster.kubeconfig import Connection
from rvk8s.cluster.responses import Stream, lines, reason
from rvk8s.errors import ClusterUnavailable, Conflict, InputError

if TYPE_CHECKING:
    import urllib3

log = logging.getLogger(__name__)

Object = dict[str, Any]

FIELD_MANAGER = "rvk8s"
#: Seconds to connect, and to wait for the answer of a request that is not a stream.
_CONNECT, _READ = 5.0, 20.0
#: Seconds between two attempts from which on a fault that passes by itself is said, once.
_SAID_FROM = 3.0
#: Seconds until a watch ends by itself; a server that is frozen is noticed a little later.
_WATCH = 55


def load_library() -> None:
    """Import the client library, as connect() does: it takes a third of a second."""
    import kubernetes.client.api_client
    import kubernetes.config.kube_config  # noqa: F401


class Cluster:
    """A connection to a namespace; threads may share it.

    Args:
        connection: what requests need.
        namespace: of all objects; empty: of all namespaces, for list_all() alone.
        patience: seconds for which a request is tried again after passing faults.
        cancelled: asked between two tries; once true, the last fault is raised.
        forgives: seconds for which a server that has answered before may refuse the user (401,
            403): one that has just started knows neither all roles nor all tokens yet.
        log_in: makes the connection anew, where its credentials pass: for a server that knew them
            and does so no more (401).
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        patience: float = 20.0,
        cancelled: Callable[[], bool] = lambda: False,
        forgives: float = 0.0,
        log_in: Callable[[], Connection] | None = None,
    ):
        self._connection, self.namespace, self._log_in = connection, namespace, log_in
        self.patience, self.cancelled, self.forgives = patience, cancelled, forgives
        self.requests = 0  #: sent so far
        self._answered, self._logging_in = False, threading.Lock()

    @classmethod
    def connect(
        cls,
        *,
        context: str | None = None,
        namespace: str | None = None,
        file: str | None = None,
        patience: float = 20.0,
    ) -> Cluster:
        """The cluster that kubectl would use: KUBECONFIG (several files too), ~/.kube/config, else
        the service account of the pod that we run in.

        Args:
            file: a kubeconfig that is used instead of all these.

        Raises:
            InputError: none of them is there, no such context, a kubeconfig that cannot be read.
        """

        found = kubeconfig.connection(context, file)

        def log_in() -> Connection:
            # By its name: the user may have made another context the current one since.
            return kubeconfig.connection(found.context, file)

        return cls(found, namespace or found.namespace, patience, log_in=log_in)

    @property
    def server(self) -> str:
        """The API server's URL."""
        host: str = self._connection.api.configuration.host
        return host

    def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply: make the object, or bring it to what the manifest says."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        query |= {"dryRun": "All"} if dry_run else {}
        path = path_of(self.namespace, manifest["kind"], manifest["metadata"]["name"])
        return self._json("PATCH", path, query, manifest, "application/apply-patch+yaml")

    def create(self, manifest: Object) -> Object:
        """Make an object.

        Raises:
            Conflict: there is one of this name, perhaps made by a try whose answer was lost.
        """
        path = path_of(self.namespace, manifest["kind"])
        return self._json("POST", path, {"fieldManager": FIELD_MANAGER}, manifest)

    def replace(self, manifest: Object) -> Object:
        """Replace an object by one with the resourceVersion that was read.

        Raises:
            Conflict: somebody else changed it since.
        """
        path = path_of(self.namespace, manifest["kind"], manifest["metadata"]["name"])
        return self._json("PUT", path, {"fieldManager": FIELD_MANAGER}, manifest)

    def patch(self, kind: str, name: str, changes: Object) -> Object | None:
        """Merge changes into an object (RFC 7386: null deletes a key); None where there is none."""
        path = path_of(self.namespace, kind, name)
        query = {"fieldManager": FIELD_MANAGER}
        return self._maybe("PATCH", path, query, changes, "application/merge-patch+json")

    def get(self, kind: str, name: str) -> Object | None:
        """An object; None where there is none."""
        return self._maybe("GET", path_of(self.namespace, kind, name))

    def list_all(
        self, kind: str, labels: str = "", fields: str = "", forgiving: bool = True
    ) -> list[Object]:
        """All objects that selectors such as "rvk8s.io/run=potsdam-1,app!=x" pick.

        Args:
            forgiving: whether `forgives` holds.
        """
        return self._list(kind, labels, fields, forgiving)[0]

    def delete(
        self, kind: str, name: str, *, propagation: str = "Background", uid: str | None = None
    ) -> bool:
        """Delete an object.

        Args:
            propagation: Background: what it owns goes after it; Foreground: before it.
            uid: delete only the object that has it, not one made anew under its name.

        Returns:
            Whether there was one.
        """
        body: Object = {"propagationPolicy": propagation}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            return self._maybe("DELETE", path_of(self.namespace, kind, name), body=body) is not None
        except Conflict:
            return False  # another object has the name now

    def watch_once(
        self, kind: str, labels: str = "", version: str | None = None
    ) -> Iterator[tuple[str, Object]]:
        """One list or watch request; watch.py makes an endless one of it.

        Args:
            version: go on from here; None: begin with a list.

        Yields:
            ("LISTED", {"items", "version"}) once, where version is None; then
            ("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK", object) until the server ends the watch.

        Raises:
            WatchExpired: version is too old; begin with a list again.
        """
        if version is None:
            items, version = self._list(kind, labels, "", forgiving=False)  # who watches does
            yield "LISTED", {"items": items, "version": version}
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH + random.randrange(5)),
            **({"labelSelector": labels} if labels else {}),
        }
        with self._stream(path_of(self.namespace, kind), query, _WATCH + 15.0) as response:
            for line in lines(response):
                try:
                    event = json.loads(line)
                except ValueError:
                    raise ClusterUnavailable(f"{self.server}: half of an event") from None
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        raise WatchExpired(str(event["object"].get("message")))
                    raise ClusterUnavailable(f"{self.server}: {event['object'].get('message')}")
                yield event["type"], event["object"]

    def log_lines(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        timestamps: bool = False,
        since: str | None = None,
        seconds: float | None = None,
        tail: int | None = None,
    ) -> Iterator[bytes]:
        """The lines that a container has written, without their ends; none where it is gone.

        Args:
            follow: go on until the container ends; ends earlier where it is silent for minutes, so
                ask again with `since` while it runs.
            timestamps: put the time (RFC 3339, UTC, nanoseconds) and a space before each line.
            since: RFC 3339; only lines of that second or later.
            seconds: only lines of the last seconds, so many, by the node's clock.
            tail: only the last lines, so many.
        """
        query = {"container": container}
        flags = {"follow": follow, "timestamps": timestamps}
        query |= {name: "true" for name, on in flags.items() if on}
        query |= {"sinceTime": since} if since else {}
        query |= {} if seconds is None else {"sinceSeconds": str(max(ceil(seconds), 1))}
        query |= {} if tail is None else {"tailLines": str(tail)}
        with suppress(NotFound):
            path = path_of(self.namespace, "Pod", pod) + "/log"
            with self._stream(path, query, 300.0 if follow else 60.0) as response:
                yield from lines(response)

    def _list(
        self, kind: str, labels: str, fields: str, forgiving: bool
    ) -> tuple[list[Object], str]:
        query = {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        query["limit"] = "500"
        items: list[Object] = []
        while True:
            path = path_of(self.namespace, kind)
            answer = self._json("GET", path, query, forgiving=forgiving)
            items += answer["items"]
            if not answer["metadata"].get("continue"):
                break
            query["continue"] = answer["metadata"]["continue"]
        for item in items:  # the server leaves out what all items have in common
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", KINDS[kind].api)
        return items, answer["metadata"]["resourceVersion"]

    def _maybe(self, *args: Any, **kwargs: Any) -> Object | None:
        try:
            return self._json(*args, **kwargs)
        except NotFound:
            return None

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
        end, pause, said = time.monotonic() + self.patience, 0.5, False
        refused: float | None = None  # since when
        while True:
            try:
                answer = self._send(method, path, query, body, content_type, _READ)
                return self._parsed(answer.data)
            except (ClusterUnavailable, Forbidden, Unauthorized) as error:
                wait, now = pause * random.uniform(0.5, 1.5), time.monotonic()
                if isinstance(error, ClusterUnavailable):
                    wait, left = max(error.retry_after or 0.0, wait), end - now
                else:
                    refused = refused or now
                    passes = forgiving and self._answered
                    left = refused + self.forgives - now if passes else 0.0
                if self.cancelled() or wait > left:
                    raise
                if pause > _SAID_FROM and not said:
                    log.info("%s %s: %s; trying again for %.0f s", method, path, error, left)
                    said = True
                time.sleep(wait)
                pause = min(pause * 2, 15.0)

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
        self.requests += 1
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
                fix = "look at the kubeconfig"
                raise InputError(str(error), where=self.server, fix=fix) from error
            raise ClusterUnavailable(f"{self.server} does not answer ({reason(error)})") from error
        except OSError as error:
            raise InputError(str(error), where=self.server, fix="look at the kubeconfig") from error
        return response
