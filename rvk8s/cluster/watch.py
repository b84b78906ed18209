"""Objects of a kind as they are now, kept up to date by a thread: list, watch, and again.

The library's watches neither reconnect nor list again; a driver that waits for hours meets servers
that restart (no answer, 5xx), that are overloaded (429) and that forget old versions (410).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.api_server import NOTED_AFTER
from rvk8s.cluster.kinds import Forbidden, Unauthorized, WatchExpired
from rvk8s.errors import ClusterUnavailable, Rvk8sError

log = logging.getLogger(__name__)

#: Seconds before the first and the last of the tries to reach the server again.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 20.0
#: A watch that ended after fewer seconds is asked for again only after such a pause.
_AT_ONCE = 1.0
#: Seconds for which a server that once listed the objects may not know their kind: one that has
#: just started does not know all kinds yet.
_UNKNOWN = 120.0


class Watcher:
    """The objects of a kind that a selector picks.

    Use it as a context manager: it watches until the block ends.

    Args:
        cluster: where.
        kind: a key of kinds.KINDS.
        labels: a selector such as "rvk8s.io/run=potsdam-1".
        changed: called from the watching thread after every change.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: str,
        labels: str = "",
        changed: Callable[[], None] = lambda: None,
    ):
        self.cluster, self.kind, self.labels, self._changed = cluster, kind, labels, changed
        self._objects: dict[str, Object] = {}
        self._lock = threading.Lock()
        self._listed, self._stopped = threading.Event(), threading.Event()
        self._fault: Rvk8sError | None = None
        self._version: str | None = None
        self._failing: tuple[float, str] | None = None  # since when, and why
        name = f"watch-{kind}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The thread may be in a read of a minute; it is a daemon and writes nothing.
        self._stopped.set()

    def objects(self, timeout: float = 60.0) -> dict[str, Object]:
        """Name -> object, as the server last said; waits for the first list.

        Raises:
            ClusterUnavailable: there is no first list after `timeout` seconds.
            InputError: the server refuses the watch.
        """
        if not self._listed.wait(timeout):
            raise ClusterUnavailable(f"{self.cluster.server} did not list {self.kind} objects")
        if self._fault:
            raise self._fault
        with self._lock:
            return dict(self._objects)

    @property
    def trouble(self) -> str | None:
        """Why nothing new is heard of these objects, where that has lasted for ten seconds."""
        failing = self._failing
        if failing is None or time.monotonic() - failing[0] < NOTED_AFTER:
            return None
        return failing[1]

    def put(self, item: Object) -> None:
        """An object that was just created: the watch may need a moment to say so."""
        with self._lock:
            self._objects.setdefault(item["metadata"]["name"], item)

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # whoever waits for this thread has to hear of it
            log.error("watch of %s ended", self.kind, exc_info=error)
            self._end(Rvk8sError(f"watch of {self.kind}: {type(error).__name__}: {error}"))

    def _end(self, fault: Rvk8sError) -> None:
        self._fault = fault
        self._listed.set()
        self._changed()

    def _watch(self) -> None:
        pause, answered = _FIRST_PAUSE, time.monotonic()
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                for event, item in self.cluster.watch_once(self.kind, self.labels, self._version):
                    if self._stopped.is_set():
                        return
                    self._take(event, item)
                    self._failing = None
                    pause, answered = _FIRST_PAUSE, time.monotonic()
                answered, self._failing = time.monotonic(), None
                if answered - began > _AT_ONCE:
                    continue  # watches end by themselves after a minute
            except WatchExpired:
                self._version = None
            except Rvk8sError as error:
                if self._is_final(error, time.monotonic() - answered):
                    return self._end(error)
                log.debug("watch of %s: %s", self.kind, error)
                since = self._failing[0] if self._failing else time.monotonic()
                self._failing = (since, str(error))
            self._stopped.wait(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, _LAST_PAUSE)

    def _is_final(self, error: Rvk8sError, seconds: float) -> bool:
        """Whether it is of no use to ask again.

        A server that has listed the objects and refuses them now is asked on: it has just started
        and does not know all roles yet, or somebody took the role away and gives it back.
        """
        if isinstance(error, ClusterUnavailable):
            return False
        listed = self._listed.is_set()
        if listed and isinstance(error, Forbidden | Unauthorized):
            return False
        return not listed or seconds > _UNKNOWN

    def _take(self, event: str, item: Object) -> None:
        if event == "LISTED":
            with self._lock:
                self._objects = {one["metadata"]["name"]: _slim(one) for one in item["items"]}
            self._version = item["version"]
            self._listed.set()
        else:
            self._version = item["metadata"]["resourceVersion"]
        if event in ("ADDED", "MODIFIED", "DELETED"):  # a bookmark has a version and no name
            name = item["metadata"]["name"]
            with self._lock:
                if event == "DELETED":
                    self._objects.pop(name, None)
                else:
                    self._objects[name] = _slim(item)
        if event != "BOOKMARK":
            self._changed()


def _slim(item: Object) -> Object:
    """Without who wrote which field, which is 4 of the 9 to 14 kB of a pod: a run may have 1000."""
    item["metadata"].pop("managedFields", None)
    return item
