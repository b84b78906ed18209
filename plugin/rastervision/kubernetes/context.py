"""What an engine told this stage through the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rvk8s import storage
from rvk8s.contract import CONTRACT_VERSION, STAGES, Env, RunLayout, split_of
from rvk8s.errors import InputError
from rvk8s.plan import Plan
from rvk8s.runs.record import RunRecord


@dataclass(frozen=True)
class Context:
    """One process of one stage of one run.

    Attributes:
        stage: one of contract.STAGES.
        splits, index: this is split `index` (0-based) of `splits`.
        image_digest: empty where there is no image.
        storage_patience: seconds for which the stage waits for storage before it begins.
    """

    stage: str
    layout: RunLayout
    splits: int = 1
    index: int = 0
    image_digest: str = ""
    storage_patience: int = 0

    @classmethod
    def from_environ(cls, stage: str, environ: Mapping[str, str] = os.environ) -> Context:
        """Read and check the environment.

        Raises:
            InputError: an unknown stage, an engine of another contract, a value that is missing or
                is not a number.
        """
        if stage not in STAGES:
            raise InputError(f"there is no stage {stage}", fix=f"there are {', '.join(STAGES)}")
        spoken = environ.get(Env.CONTRACT, str(CONTRACT_VERSION))
        if spoken != str(CONTRACT_VERSION):
            what = f"the engine speaks contract {spoken}, this image {CONTRACT_VERSION}"
            raise InputError(what, where=Env.CONTRACT, fix="use an image of the client's version")
        run_uri = environ.get(Env.RUN_URI, "").rstrip("/")
        if not run_uri:
            raise InputError("is not set", where=Env.RUN_URI, fix="an engine sets it")
        splits = _number(environ, Env.SPLITS, 1)
        default_index = _number(environ, Env.JOB_COMPLETION_INDEX, 0) if splits > 1 else 0
        index = _number(environ, Env.SPLIT_INDEX, default_index)
        if not 0 <= index < max(splits, 1):
            fix = f"give 0 to {splits - 1}"
            raise InputError(f"split {index} of {splits}", where=Env.SPLIT_INDEX, fix=fix)
        return cls(
            stage=stage,
            layout=RunLayout(run_uri),
            splits=splits,
            index=index,
            image_digest=environ.get(Env.IMAGE_DIGEST, ""),
            storage_patience=_number(environ, Env.STORAGE_PATIENCE, 0),
        )

    @property
    def split(self) -> int | None:
        return split_of(self.splits, self.index)

    @property
    def remote(self) -> bool:
        """Whether the run's folder is not on this machine."""
        return storage.is_s3(self.layout.run_uri)

    @cached_property
    def plan(self) -> Plan:
        """The plan in run.json.

        Raises:
            InputError: there is no run.json, or one of another version.
        """
        run = storage.read_json(self.layout.run_json)
        if run is None:
            if storage.exists(self.layout.run_json):
                raise InputError("is damaged", where=self.layout.run_json, fix="start a new run")
            fix = "an engine writes it before the first stage; is the run URI right?"
            raise InputError("there is no such run", where=self.layout.run_json, fix=fix)
        return RunRecord.from_dict(run, self.layout.run_json).plan

    def holds(self, uri: str) -> bool:
        """Whether a URI lies in the run's folder, so that it is ours to delete."""
        return uri.startswith(f"{self.layout.run_uri}/")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    if not value:
        return default
    if not value.isdecimal():
        raise InputError(f"{value!r} is not a number", where=name)
    return int(value)
