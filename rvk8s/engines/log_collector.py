"""Collects what a run's pods write into the run's folder, while they run.

The logs of a deleted pod are gone, so each is followed from its container's start.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rvk8s.cluster import Cluster, Object
from rvk8s.cluster.api_server import NOTED_AFTER
from rvk8s.cluster.log_lines import LONGEST, stamped
from rvk8s.cluster.pod_state import container_of, has_ended, has_started
from rvk8s.contract import Env, Label, RunLayout, split_of
from rvk8s.engines import log_file
from rvk8s.engines.log_file import LogFile
from rvk8s.errors import ClusterUnavailable, Rvk8sError

log = logging.getLogger(__name__)

#: What a stage writes while it tries something again.
_WAITS = re.compile(rb" WARNING (.*; trying again in \d+ s)$")
#: Seconds before a log is asked for again after a fault; doubled up to the second number.
_PAUSE, _LONGEST = 1.0, 15.0
#: A pod that has ended is given up after a pause longer than this.
_GIVE_UP = 5.0
#: Seconds between two looks while logs are waited for, and between two tries to store them then.
_LOOK, _HURRY = 0.02, 0.5


def split_index(pod: Object) -> int:
    """Which split, or which node of a training, a pod is."""
    metadata = pod["metadata"]
    for key in ("batch.kubernetes.io/job-completion-index", "training.kubeflow.org/replica-index"):
        for values in (metadata.get("annotations") or {}, metadata.get("labels") or {}):
            if values.get(key, "").isdecimal():
                return int(values[key])
    return 0


def _splits(pod: Object) -> int:
    """How many splits the stage of a pod has."""
    # A cluster may put containers of its own first.
    ours = next(one for one in pod["spec"]["containers"] if one["name"] == container_of(pod))
    return next((int(v["value"]) for v in ours.get("env") or () if v["name"] == Env.SPLITS), 1)


class PodLogs:
    """Follows the logs of pods. A context manager; at its end it waits for what is under way.

    Args:
        cluster: where the pods are.
        layout: the run's folder.
        pods: the run's pods as they are now, name -> pod.
    """

    def __init__(
        self,
        cluster: Cluster,
        layout: RunLayout,
        pods: Callable[[], Mapping[str, Object]],
    ):
        self._cluster, self._layout, self._pods = cluster, layout, pods
        self._files: dict[str, LogFile] = {}
        self._followers: dict[str, threading.Thread] = {}
        self._waiting: dict[str, tuple[float, str]] = {}  # pods -> since when, and for what
        self._stopped, self._hurry = threading.Event(), threading.Event()
        self._scratch = tempfile.TemporaryDirectory(prefix="rvk8s-logs-")
        self._uploader = threading.Thread(target=self._upload, name="log-upload", daemon=True)

    def __enter__(self) -> PodLogs:
        self._uploader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._hurry.set()
        for file in self._all_files():
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

    def waits(self) -> str | None:
        """What a pod says that it waits for, where it has said nothing else for ten seconds.

        Storage that is away for it may be there for us: only its log can say so.
        """
        alive = {pod["metadata"]["uid"] for pod in self._pods().values() if not has_ended(pod)}
        now = time.monotonic()
        for uid, (since, text) in list(self._waiting.items()):
            if uid in alive and now - since >= NOTED_AFTER:
                return f"a pod waits: {text}"
        return None

    def settle(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the logs of pods that have ended are read to their ends and stored.

        Args:
            seconds: at most so long; storage may take minutes to answer.
            check: raises what ends the waiting.
        """
        end = time.monotonic() + seconds
        alive = {pod["metadata"]["uid"] for pod in self._pods().values() if not has_ended(pod)}
        ended = [thread for uid, thread in self._followers.items() if uid not in alive]
        next_try = 0.0
        while (now := time.monotonic()) < end:
            reading = any(thread.is_alive() for thread in ended)  # asked first: they add lines
            behind = any(one.behind for one in self._all_files())
            if not (reading or behind):
                return
            if behind and now >= next_try:
                self._hurry.set()
                next_try = now + _HURRY
            time.sleep(_LOOK)
            check()

    def _all_files(self) -> list[LogFile]:
        return list(self._files.values())

    def _file(self, pod: Object, stage: str) -> LogFile:
        index = split_index(pod)
        if stage == "train":
            uri = self._layout.log(stage, None, node=index)
        else:
            uri = self._layout.log(stage, split_of(_splits(pod), index))
        if uri not in self._files:
            path = Path(self._scratch.name) / f"{len(self._files)}.txt"
            self._files[uri] = LogFile(uri, path)
        return self._files[uri]

    def _follow(self, pod: Object, file: LogFile) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        title = f"{pod['metadata']['labels'][Label.STAGE]} {split_index(pod)}, pod {name} {uid}"
        section = file.begin(title, self._stopped)
        last, pause = "", _PAUSE
        while not self._stopped.is_set():
            over, resumed = False, last
            try:
                now = self._pods().get(name)
                if now is None or now["metadata"]["uid"] != uid:
                    return  # its log is gone; one that has its name now is followed by itself
                over = has_ended(now)  # asked before reading: then nothing comes after it
                for line in self._cluster.log_lines(
                    name,
                    container_of(pod),
                    follow=True,
                    timestamps=True,
                    since=last or None,
                    longest=LONGEST,
                ):
                    moment, text = stamped(line)
                    if not moment:
                        log.debug("log of %s: the node says %r", name, text)
                    if moment > resumed:
                        last, pause = moment, _PAUSE
                        section.add(text)
                        self._note(uid, text)
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

    def _note(self, uid: str, line: bytes) -> None:
        found = _WAITS.search(line)
        if found is None:
            self._waiting.pop(uid, None)
            return
        since, _ = self._waiting.get(uid, (time.monotonic(), ""))
        self._waiting[uid] = since, found[1].decode(errors="replace")

    def _upload(self) -> None:
        while not self._stopped.is_set():
            hurry = self._hurry.wait(log_file.INTERVAL)
            self._hurry.clear()
            for file in self._all_files():
                if not self._stopped.is_set() and (hurry or file.is_due):
                    file.store()
