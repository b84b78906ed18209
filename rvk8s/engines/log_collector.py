"""Collects what a run's pods write into the run's folder, while they run.

The logs of a deleted pod are gone, so each is followed from its container's start. S3 cannot
append: a log grows in a local file and is uploaded whole, every few seconds while it is small. A
driver that takes over goes on with what its predecessor stored.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rvk8s import storage
from rvk8s.cluster import Cluster, Object
from rvk8s.contract import ATTEMPT, Label, RunLayout, attempt_line, split_of
from rvk8s.errors import ClusterUnavailable, Rvk8sError
from rvk8s.explain import container_of, has_ended, has_started

log = logging.getLogger(__name__)

#: Seconds between two uploads of a log, and how many more for each MiB that it has.
INTERVAL, _PER_MIB = 3.0, 2.0
#: Seconds before a log is asked for again after a fault; doubled up to the second number.
_PAUSE, _LONGEST = 1.0, 15.0
#: A pod that has ended is given up after a pause longer than this.
_GIVE_UP = 5.0


def split_index(pod: Object) -> int:
    """Which split, or which node of a training, a pod is."""
    metadata = pod["metadata"]
    for key in ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index"):
        for values in (metadata.get("annotations") or {}, metadata.get("labels") or {}):
            if values.get(key, "").isdecimal():
                return int(values[key])
    return 0


class PodLogs:
    """Follows the logs of pods. A context manager; at its end it waits for what is under way.

    Args:
        cluster: where the pods are.
        layout: the run's folder.
        pods: the run's pods as they are now, name -> pod.
        splits: how many splits a stage has; kept up to date by the caller.
    """

    def __init__(
        self,
        cluster: Cluster,
        layout: RunLayout,
        pods: Callable[[], Mapping[str, Object]],
        splits: Mapping[str, int],
    ):
        self._cluster, self._layout = cluster, layout
        self._pods, self._splits = pods, splits
        self._files: dict[str, _LogFile] = {}
        self._followers: dict[str, threading.Thread] = {}
        self._stopped = threading.Event()
        self._scratch = tempfile.TemporaryDirectory(prefix="rvk8s-logs-")
        self._uploader = threading.Thread(target=self._upload, name="log-upload", daemon=True)

    def __enter__(self) -> PodLogs:
        self._uploader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for file in list(self._files.values()):
            file.close()
        self._scratch.cleanup()

    def look(self) -> None:
        """Follow the pods that have begun since the last look."""
        for pod in self._pods().values():
            uid, stage = pod["metadata"]["uid"], pod["metadata"]["labels"].get(Label.STAGE)
            if uid in self._followers or not stage or not has_started(pod):
                continue
            name = f"log-{pod['metadata']['name']}"
            thread = threading.Thread(
                target=self._follow, args=(pod, self._file(pod, stage)), name=name, daemon=True
            )
            self._followers[uid] = thread
            thread.start()

    def settle(self, seconds: float) -> None:
        """Wait until the logs of pods that have ended are read to their ends and stored."""
        end = time.monotonic() + seconds
        alive = {pod["metadata"]["uid"] for pod in self._pods().values() if not has_ended(pod)}
        for uid, thread in list(self._followers.items()):
            if uid not in alive:
                thread.join(max(end - time.monotonic(), 0.0))
        while time.monotonic() < end and any(one.behind for one in list(self._files.values())):
            for one in list(self._files.values()):
                one.store()
            time.sleep(0.05)

    def _file(self, pod: Object, stage: str) -> _LogFile:
        index = split_index(pod)
        if stage == "train":
            uri = self._layout.log(stage, None, node=index)
        else:
            uri = self._layout.log(stage, split_of(self._splits.get(stage, 1), index))
        if uri not in self._files:
            path = Path(self._scratch.name) / f"{len(self._files)}.txt"
            self._files[uri] = _LogFile(uri, path)
        return self._files[uri]

    def _follow(self, pod: Object, file: _LogFile) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        title = f"{pod['metadata']['labels'][Label.STAGE]} {split_index(pod)}, pod {name} {uid}"
        section = file.begin(title, self._stopped)
        last, pause = "", _PAUSE
        while not self._stopped.is_set():
            over = self._is_over(name, uid)  # asked before reading: then nothing comes after it
            resumed = last
            try:
                for line in self._cluster.log_lines(
                    name, container_of(pod), follow=True, timestamps=True, since=last or None
                ):
                    stamp, _, text = line.partition(b" ")
                    moment = stamp.decode(errors="replace")
                    if moment > resumed:
                        last, pause = moment, _PAUSE
                        section.add(text)
                    if self._stopped.is_set():
                        return
                if over:
                    return
            except Rvk8sError as error:
                log.debug("log of %s: %s", name, error)
                if over and (pause > _GIVE_UP or not isinstance(error, ClusterUnavailable)):
                    return
            self._stopped.wait(pause)
            pause = min(pause * 2, _LONGEST)

    def _is_over(self, name: str, uid: str) -> bool:
        pod = self._pods().get(name)
        return pod is None or pod["metadata"]["uid"] != uid or has_ended(pod)

    def _upload(self) -> None:
        while not self._stopped.wait(INTERVAL):
            for file in list(self._files.values()):
                if file.is_due:
                    file.store()


class _LogFile:
    """The log of a split: the sections of its pods, one after the other."""

    def __init__(self, uri: str, path: Path):
        self.uri, self.path = uri, path
        self._lock = threading.Lock()
        self._loaded = self._closed = False
        self._written = self._stored = 0
        self._due = 0.0

    @property
    def behind(self) -> bool:
        return self._stored != self._written

    @property
    def is_due(self) -> bool:
        return self.behind and time.monotonic() >= self._due

    def begin(self, title: str, stopped: threading.Event) -> _Section:
        """The section of a pod; what an earlier driver stored of it is not written twice."""
        with self._lock:
            if self._closed:
                return _Section(self, [])
            while not self._loaded and not stopped.is_set():
                try:
                    self.path.write_bytes(storage.read_bytes(self.uri))
                    self._loaded = True
                except FileNotFoundError:
                    self.path.touch()
                    self._loaded = True
                except Rvk8sError as error:
                    log.debug("%s: %s", self.uri, error)
                    stopped.wait(_LONGEST)
            known: list[bytes] | None = None
            if self.path.exists():
                known = _section(self.path, title.encode())
            if known is None:
                self._append(attempt_line(title).encode())
            return _Section(self, known or [])

    def append(self, line: bytes) -> None:
        with self._lock:
            if not self._closed:
                self._append(line)

    def close(self) -> None:
        """Take no more: threads that read for minutes may still come with something."""
        self._closed = True
        # An append that is under way; not the reading of storage that hangs.
        if self._lock.acquire(timeout=1.0):
            self._lock.release()

    def store(self) -> None:
        """Upload what is there; it is tried again later where storage does not answer."""
        with self._lock:
            if self._closed:
                return
            written = self._written
            data = self.path.read_bytes() if self.path.exists() else b""
        try:
            storage.write_bytes(self.uri, data)
            self._stored = written
        except (Rvk8sError, OSError) as error:
            log.debug("%s is not stored: %s", self.uri, error)
        self._due = time.monotonic() + INTERVAL + _PER_MIB * len(data) / 2**20

    def _append(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line + b"\n")
        self._written += 1


class _Section:
    """What one pod writes.

    Args:
        known: the lines that an earlier driver stored.
    """

    def __init__(self, file: _LogFile, known: list[bytes]):
        self._file, self._known, self._seen = file, known, 0

    def add(self, line: bytes) -> None:
        if self._seen < len(self._known):
            if self._known[self._seen] == line:
                self._seen += 1
                return
            # The node keeps only a log's end: what is known lies further up.
            self._known = []
        self._file.append(line)


def _section(path: Path, title: bytes) -> list[bytes] | None:
    """The lines after a pod's header up to the next header; None where there is no such header."""
    found: list[bytes] | None = None
    with path.open("rb") as file:
        for line in file:
            line = line.rstrip(b"\n")
            if ATTEMPT.match(line) and b", pod " in line:
                if found is not None:
                    break
                if line.endswith(title):
                    found = []
            elif found is not None:
                found.append(line)
    return found
