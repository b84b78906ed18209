"""What the environment of the driver's pod says."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rvk8s.contract import CONTRACT_VERSION, Env
from rvk8s.engines.patience import Patience
from rvk8s.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        run_id: the run, and the name of the driver's Job and Lease.
        pod: who drives; unique among the drivers of a run.
        stages: the folder of the run's ConfigMap.
        copy: of a schedule: the ConfigMap that its run copies them to; empty for one by submit.
        namespace: None: the kubeconfig's.
        storage: seconds for which storage may be away.
        cluster: likewise the API server.
    """

    run_id: str
    pod: str
    stages: Path
    copy: str
    namespace: str | None
    patience: Patience
    storage: float
    cluster: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Read and check the environment.

        Raises:
            InputError: something is missing or not a number.
        """
        spoken = environ.get(Env.CONTRACT, str(CONTRACT_VERSION))
        if spoken != str(CONTRACT_VERSION):
            what = f"the chart speaks contract {spoken}, this image {CONTRACT_VERSION}"
            raise InputError(what, where=Env.CONTRACT, fix="use a driver image of its version")
        for name in (Env.RUN_ID, Env.STAGES_DIR):
            if not environ.get(name):
                raise InputError("is not set", where=name, fix="the chart helm/rvk8s sets it")
        default = Patience()
        return cls(
            run_id=environ[Env.RUN_ID],
            pod=environ.get(Env.POD) or f"{socket.gethostname()}-{os.getpid()}",
            stages=Path(environ[Env.STAGES_DIR]),
            copy=environ.get(Env.STAGES_COPY, ""),
            namespace=environ.get(Env.NAMESPACE) or None,
            patience=Patience(
                start=_seconds(environ, Env.START_PATIENCE, default.start),
                pending=_seconds(environ, Env.PENDING_DEADLINE, default.pending),
                partial=_seconds(environ, Env.PARTIAL_PATIENCE, default.partial),
            ),
            storage=_seconds(environ, Env.STORAGE_PATIENCE, 3600.0),
            cluster=_seconds(environ, Env.CLUSTER_PATIENCE, 900.0),
        )


def _seconds(environ: Mapping[str, str], name: Env, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    with suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise InputError(f"{text!r} is not a number of seconds", where=name, fix="give one, or none")
