"""A Lease against a second driver of the same run.

As client-go's leader election: the holder renews; another one takes over once it has seen no
renewal for the lease's whole time by its own clock, so clocks of nodes may differ.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from rvk8s.cluster import Cluster, Object
from rvk8s.contract import Label
from rvk8s.errors import ClusterUnavailable, Conflict, HandedOver, Rvk8sError

log = logging.getLogger(__name__)

#: Seconds that a lease is good for, between two renewals, and between two looks of who waits.
DURATION, RENEW, LOOK = 30.0, 15.0, 3.0
#: Seconds after the last renewal from which nothing is done without another one.
_TRUSTED = 22.0
#: Seconds that one request needs: 5 to connect, and one for its answer.
_LEAST = 6.0
#: Seconds for which one renewal is tried; whoever needs it tries again.
_PATIENCE = 20.0


class Lease:
    """The right to drive a run. A context manager: waits for the lease, gives it back at the end.

    Args:
        cluster: where.
        name: of the Lease: the run's id.
        holder: who wants it: the driver pod's name.
        labels: of the Lease, when it is made; beside that of the run.
        owner: the driver's Job, as an ownerReference.
        give_up: asked while waiting; once it gives an error, that is raised.
        changed: called when the lease is lost.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        holder: str,
        *,
        labels: Mapping[str, str],
        owner: Object,
        give_up: Callable[[], Rvk8sError | None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
    ):
        self._cluster = cluster.unguarded()  # confirm() is the guard
        self._cluster.waits = self._note
        self._waits = cluster.waits
        #: Why it is not renewed, where that has lasted for ten seconds.
        self.trouble: str | None = None
        self.name, self.holder, self._owner = name, holder, owner
        self._give_up, self._changed = give_up, changed
        self._labels = {**labels, str(Label.RUN): name}
        self._lock = threading.Lock()
        self._object: Object | None = None
        self._renewed = float("-inf")
        self._lost: HandedOver | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._acquire()
        self._cluster.patience = _PATIENCE
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._lost:
            return
        try:
            with self._lock:
                self._write(holder="", seconds=1)
        except (Rvk8sError, OSError) as error:
            log.debug("the lease is not given back: %s", error)  # it runs out by itself

    def lost(self) -> HandedOver | None:
        """An error once another driver has the run; None while this one may go on."""
        return self._lost

    def confirm(self) -> float:
        """To be called before every change of the cluster: Cluster.guard.

        Returns:
            The seconds for which no other driver can have the run.

        Raises:
            HandedOver: another driver has the run.
            ClusterUnavailable: whether it is so cannot be found out.
        """
        if self._lost:
            raise self._lost
        if time.monotonic() - self._renewed > _TRUSTED:
            self._renew()
        left = self._renewed + DURATION - time.monotonic()
        if left < _LEAST:
            raise ClusterUnavailable(f"renewing the lease of {self.name} took too long")
        return left

    def _note(self, text: str | None) -> None:
        self.trouble = text
        self._waits(text)

    def _acquire(self) -> None:
        seen, since = "", time.monotonic()
        while True:
            if error := self._give_up():
                raise error
            now = time.monotonic()
            self._object = self._cluster.get("Lease", self.name)
            spec = (self._object or {}).get("spec", {})
            held = str(spec.get("holderIdentity") or "")
            stamp = f"{held} {spec.get('renewTime')}"
            if stamp != seen:
                seen, since = stamp, now
            limit = float(spec.get("leaseDurationSeconds") or DURATION)
            if held in ("", self.holder) or now - since > limit:
                try:
                    self._write(self.holder, DURATION)
                    return
                except Conflict:
                    continue
            log.info("Another driver, %s, has the run; waiting", held)
            self._stop.wait(LOOK)

    def _keep(self) -> None:
        pause = RENEW
        while not self._stop.wait(pause):
            try:
                self._renew()
                pause, self.trouble = RENEW, None
            except HandedOver:
                return
            except Rvk8sError as error:
                # The server is away for others, too; confirm() is asked before anything is done.
                log.debug("the lease is not renewed: %s", error)
                pause = 2.0

    def _renew(self) -> None:
        with self._lock:
            if self._lost:
                raise self._lost
            for _ in range(5):
                try:
                    self._write(self.holder, DURATION)
                    return
                except Conflict:
                    # Our own write whose answer was lost, or somebody else's; or it was deleted.
                    self._object = self._cluster.get("Lease", self.name)
                    spec = (self._object or {}).get("spec", {})
                    if self._object and spec.get("holderIdentity") != self.holder:
                        other = spec.get("holderIdentity") or "nobody"
                        self._lost = HandedOver(f"the lease of {self.name} is held by {other} now")
                        self._changed()
                        raise self._lost from None
        raise ClusterUnavailable(f"the lease of {self.name} cannot be renewed")

    def _write(self, holder: str, seconds: float) -> None:
        """Write the lease as it was read, with a new holder and time.

        Raises:
            Conflict: it changed since, or is gone (of a Lease the server says no NotFound).
        """
        began = time.monotonic()
        time_text = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {"leaseDurationSeconds": int(seconds), "renewTime": time_text}
        if holder:
            spec["holderIdentity"] = holder
        if self._object is None:
            metadata: Object = {"name": self.name, "labels": self._labels}
            metadata["ownerReferences"] = [self._owner]
            manifest = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            self._object = self._cluster.create(manifest | {"metadata": metadata, "spec": spec})
        else:
            self._object = self._cluster.replace({**self._object, "spec": spec})
        self._renewed = began
