"""What the engines, the stages and the client agree on. Standard library only.

Engines start a stage as the command `rvk8s-stage NAME` and tell it everything else through the
environment (`Env`). A stage answers with an exit code (`ExitCode`) and with files in the run's
folder (`RunLayout`). Whoever changes the meaning of anything here raises CONTRACT_VERSION.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum, StrEnum
from typing import Any

CONTRACT_VERSION = 1
API_VERSION = "rvk8s/v1"

CONFIGURE = "configure"
#: Every stage there can be, in the order in which they run. `configure` is ours, the others are
#: Raster Vision's commands. A pipeline has a subset; the configure stage reports which.
STAGES = (CONFIGURE, "analyze", "chip", "train", "predict", "eval", "bundle")
#: The stages that Raster Vision can split over scenes.
SPLITTABLE = ("chip", "predict")


class Env(StrEnum):
    """Names of the environment variables that an engine sets for a stage."""

    CONTRACT = "RVK8S_CONTRACT"  #: CONTRACT_VERSION of the engine; a stage of another one refuses
    RUN_ID = "RVK8S_RUN_ID"
    RUN_URI = "RVK8S_RUN_URI"  #: <rootUri>/<run id>, local path or s3://
    SPLITS = "RVK8S_SPLITS"  #: how many splits this stage has; default 1
    SPLIT_INDEX = "RVK8S_SPLIT_INDEX"  #: 0-based; JOB_COMPLETION_INDEX is read when this is unset
    JOB_COMPLETION_INDEX = "JOB_COMPLETION_INDEX"  #: set by Kubernetes for Indexed Jobs
    IMAGE_DIGEST = "RVK8S_IMAGE_DIGEST"  #: part of the hash of a stage's inputs; empty locally
    PROGRESS_FILE = "RVK8S_PROGRESS_FILE"  #: set by rvk8s-stage for the code that it calls
    GPUS = "RVK8S_GPUS"  #: GPUs of this process's node; "0" hides them
    THREADS = "RVK8S_THREADS"  #: CPU threads that this process may use; unset: all
    LOG_FILE = "RVK8S_LOG_FILE"  #: local file in which the engine collects the stage's output
    WATCH_PARENT = "RVK8S_WATCH_PARENT"  #: "1": stdin is a pipe whose end means: engine is gone
    RANKS_PER_NODE = "RVK8S_RANKS_PER_NODE"  #: processes that train on this node; default 1
    WORLD_SIZE = "RVK8S_WORLD_SIZE"  #: processes that train, over all nodes; checked if it is set
    RANKS_TIMEOUT = "RVK8S_RANKS_TIMEOUT"  #: seconds that ranks wait for each other; default 2700
    S3_PATH_STYLE = "RVK8S_S3_PATH_STYLE"  #: "1": buckets are in the path, not in the host's name
    STREAM = "RVK8S_STREAM"  #: "0": imagery on S3 is always downloaded; read by configure
    NAMESPACE = "RVK8S_NAMESPACE"  #: of the driver's pod
    POD = "RVK8S_POD"  #: name of the driver's pod
    STAGES_DIR = "RVK8S_STAGES_DIR"  #: the driver's plan.json and STAGE.yaml
    STAGES_COPY = "RVK8S_STAGES_COPY"  #: of a schedule: the ConfigMap that its run copies them to
    #: Seconds that the driver lets pods that cannot start (no such image, no such Secret) try.
    START_PATIENCE = "RVK8S_START_PATIENCE"
    #: Seconds that the driver waits for a place in a queue or on a node.
    PENDING_DEADLINE = "RVK8S_PENDING_DEADLINE"
    #: Seconds that the driver lets a training hold nodes while the rest of its pods find none.
    PARTIAL_PATIENCE = "RVK8S_PARTIAL_PATIENCE"
    #: Seconds for which the driver tries again while storage, or the API server, is away; the first
    #: also those for which a stage waits for storage before it begins, 0 by default.
    STORAGE_PATIENCE = "RVK8S_STORAGE_PATIENCE"
    CLUSTER_PATIENCE = "RVK8S_CLUSTER_PATIENCE"


class Label(StrEnum):
    """Labels by which a run's objects are found; names are never built again."""

    RUN = "rvk8s.io/run"  #: the run's id
    EXPERIMENT = "rvk8s.io/experiment"
    STAGE = "rvk8s.io/stage"  #: on what the driver makes for a stage, and on its pods
    SCHEDULE = "rvk8s.io/schedule"  #: on what belongs to a schedule, and on its runs' objects
    COMPONENT = "app.kubernetes.io/component"  #: driver, stage or run (the run's ConfigMaps)


class Annotation(StrEnum):
    ROOT_URI = "rvk8s.io/root-uri"  #: on the driver's Job
    SPEC_HASH = "rvk8s.io/spec-hash"  #: on what the driver makes: of the manifest that it made
    ATTEMPT = "rvk8s.io/attempt"  #: on what the driver makes: which start of the stage it is
    SPENT = "rvk8s.io/spent-seconds"  #: likewise: what earlier attempts took of the deadline
    SUBMISSION = "rvk8s.io/submission"  #: on what submit --run-id makes: which submission made it
    CANCEL = "rvk8s.io/cancel"  #: on the driver's Job: when the user cancelled the run, UTC


#: Stands for the run id in the objects of a schedule, whose runs get their ids when they start.
RUN_ID_TOKEN = "rvk8s-run-id"
#: A run's id: a DNS label of RFC 1035, which is what Kubernetes wants of the names of Services.
RUN_ID = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
#: Where a run's project files lie in its pods.
PROJECT_DIR = "/workspace/project"


class ExitCode(IntEnum):
    """What a stage's exit status means.

    Codes below 128 are final: the same stage would fail again. Codes from 128 on may be tried
    again; the training operator's restartPolicy ExitCode draws the line at the same number.
    """

    OK = 0
    FAILED = 1  #: an error that no other code describes; the traceback is in the stage's log
    BAD_INPUT = 2  #: the user's configuration or data; one line says what and how to mend it
    OUT_OF_MEMORY = 12  #: ENOMEM: host or GPU memory
    DISK_FULL = 28  #: ENOSPC: disk, quota or bucket
    DEADLINE = 124  #: as timeout(1)
    INTERRUPTED = 130  #: SIGINT
    KILLED = 137  #: SIGKILL; nobody can tell the kernel's OOM killer from another
    RETRYABLE = 138  #: a passing fault: storage or network away
    PREEMPTED = 143  #: SIGTERM: the node goes away; a restart goes on from the last checkpoint

    @classmethod
    def nearest(cls, code: int) -> ExitCode:
        """That of a process, where 139, say, is a segmentation fault."""
        if code in list(cls):
            return cls(code)
        return cls.RETRYABLE if is_retryable(code) else cls.FAILED


def is_retryable(code: int) -> bool:
    """Whether a stage that ended so may be tried again: by a signal, or for a passing fault."""
    return code >= 128


#: Stands for a stage's name in the driver's own heartbeat and log.
DRIVER = "driver"


class State(StrEnum):
    """State of a run, or of one of its stages."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SKIPPED = "Skipped"  #: not part of this pipeline, or found done
    CANCELLED = "Cancelled"


@dataclass(frozen=True)
class RunLayout:
    """Where things lie below a run's URI. Every URI is built here and nowhere else."""

    run_uri: str

    @property
    def run_json(self) -> str:
        """What was asked (the plan, versions, image digest) and how it went."""
        return self.at("run.json")

    @property
    def config_uri(self) -> str:
        """The serialized pipeline config, written by the configure stage; Raster Vision's name."""
        return self.at("pipeline-config.json")

    def at(self, *parts: str) -> str:
        return posixpath.join(self.run_uri, *parts)

    def stage_dir(self, stage: str, split: int | None = None) -> str:
        """The folder of a stage's marker files; split is None where the stage is not split."""
        return self.at(".rvk8s", stage if split is None else f"{stage}-{split}")

    def done(self, stage: str, split: int | None = None) -> str:
        return posixpath.join(self.stage_dir(stage, split), "done.json")

    def failed(self, stage: str, split: int | None = None) -> str:
        """{"exitCode", "message", "at"}: the one line that says why, for status and explain."""
        return posixpath.join(self.stage_dir(stage, split), "failed.json")

    def heartbeat(self, stage: str, split: int | None = None) -> str:
        return posixpath.join(self.stage_dir(stage, split), "heartbeat.json")

    def progress(self, stage: str, split: int | None = None) -> str:
        return posixpath.join(self.stage_dir(stage, split), "progress.json")

    def log(self, stage: str, split: int | None = None, node: int = 0) -> str:
        """The log of a split, or of one of the nodes that train together."""
        name = f"log-node{node}.txt" if node else "log.txt"
        return posixpath.join(self.stage_dir(stage, split), name)

    @property
    def scores(self) -> str:
        """Per-class and overall scores over all scenes, written by the eval stage."""
        return self.at("eval", "scores.json")

    @property
    def pictures(self) -> str:
        """One PNG per scene: image, truth, prediction, errors; written by the eval stage."""
        return self.at("eval", "pictures")


def writer_of(uri: str) -> str | None:
    """The stage that writes a file of a run, by where it lies; None where that is not known."""
    *folders, name = uri.split("/")
    if name == "pipeline-config.json":
        return CONFIGURE
    if ".rvk8s" in folders[:-1]:
        folders = [folders[-1].split("-")[0]]
    return next((folder for folder in reversed(folders) if folder in STAGES), None)


def split_of(splits: int, index: int) -> int | None:
    """The split as RunLayout takes it: None for a stage that is not split."""
    return index if splits > 1 else None


def to_json(value: Mapping[str, Any]) -> bytes:
    """The form of all our JSON files: keys in the order given, one newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def now() -> str:
    """The present in UTC, to the second, as Kubernetes writes it: 2026-11-23T13:15:01Z."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def attempt_line(title: str) -> str:
    """The line of a log above what one attempt of a stage writes."""
    return f"--- {now()}: {title}"


#: The line of a stored log that stands for those left out there, and what matches it.
LEFT_OUT, LEFT_OUT_PATTERN = b"... %d lines are left out", rb"\.\.\. (\d+) lines are left out"
#: Where such a line begins, in the bytes of a log.
ATTEMPT = re.compile(rb"^(?=--- \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: )", re.MULTILINE)
