"""A namespace of a Kubernetes cluster; only this package imports its client library.

Every request has a timeout, and one that met a passing fault (no answer, 429, 5xx) is sent again
until `patience` seconds are over. Objects are plain dicts as the API server sends them.

Every method raises:
    ClusterUnavailable: no answer, or only passing faults, for `patience` seconds.
    InputError: the request is refused: no permission (see `forgives`), no such kind, an invalid
        object.
    what `guard` raises, before each try of a change.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from typing import Any

from rvk8s.cluster import kubeconfig
from rvk8s.cluster.api_server import ApiServer, Object
from rvk8s.cluster.kinds import KINDS, NotFound, WatchExpired, path_of
from rvk8s.cluster.kubeconfig import Connection
from rvk8s.cluster.responses import lines
from rvk8s.errors import ClusterUnavailable, Conflict, InputError

__all__ = ["Cluster", "Object", "load_library"]

FIELD_MANAGER = "rvk8s"
#: Seconds until a watch ends by itself; a server that is frozen is noticed a little later.
_WATCH = 55


def load_library() -> None:
    """Import the client library, as connect() does: it takes a third of a second."""
    import kubernetes.client.api_client
    import kubernetes.config.kube_config  # noqa: F401


class Cluster(ApiServer):
    """A namespace of a cluster.

    Args:
        namespace: of all objects; empty: of all namespaces, for list_all() alone.
        connection, options: see ApiServer.
    """

    def __init__(self, connection: Connection, namespace: str, **options: Any):
        super().__init__(connection, **options)
        self.namespace = namespace

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

        where = namespace or found.namespace
        return cls(found, where, patience=patience, log_in=log_in)

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

    def patch(
        self, kind: str, name: str, changes: Object, *, uid: str | None = None
    ) -> Object | None:
        """Merge changes into an object (RFC 7386: null deletes a key); None where there is none.

        Args:
            uid: change only the object that has it.

        Raises:
            Conflict: another one has its name.
        """
        path = path_of(self.namespace, kind, name)
        if uid is not None:
            changes = {**changes, "metadata": {**changes.get("metadata", {}), "uid": uid}}
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return self._maybe("PATCH", path, query, changes, "application/merge-patch+json")
        except InputError:  # the server has another word (422) for each kind of another uid
            found = self.get(kind, name) if uid is not None else None
            if found is None or found["metadata"]["uid"] == uid:
                raise
            raise Conflict(f"another {kind} has the name {name} now") from None

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

    def delete(self, kind: str, name: str, *, uid: str, version: str | None = None) -> bool:
        """Delete an object that was looked at; what it owns goes after it.

        Args:
            uid: delete only the object that has it, not one made anew under its name.
            version: delete it only while this is its resourceVersion.

        Returns:
            Whether there was one.
        """
        body: Object = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if version is not None:
            body["preconditions"]["resourceVersion"] = version
        try:
            return self._maybe("DELETE", path_of(self.namespace, kind, name), body=body) is not None
        except Conflict:
            return False  # another object has the name now, or it has changed

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
        longest: int | None = None,
    ) -> Iterator[bytes]:
        """The lines that a container has written, without their ends; none where it is gone.

        Args:
            follow: go on until the container ends; ends earlier where it is silent for minutes, so
                ask again with `since` while it runs.
            timestamps: put the time (RFC 3339, UTC, nanoseconds) and a space before each line.
            since: RFC 3339; only lines of that second or later.
            seconds: only lines of the last seconds, so many, by the node's clock.
            tail: only the last lines, so many.
            longest: bytes of a line; longer ones are cut.
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
                yield from lines(response, longest)

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
