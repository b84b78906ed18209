"""What run.json says: what was asked, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rvk8s import __version__, storage
from rvk8s.contract import API_VERSION, CONTRACT_VERSION, ExitCode, State
from rvk8s.errors import InputError
from rvk8s.plan import Plan
from rvk8s.record_form import check_contract, check_form

#: What an exit code means, for stages that could not say it themselves.
CODE_TEXTS = {
    ExitCode.FAILED: "failed",
    ExitCode.BAD_INPUT: "refused its input",
    ExitCode.OUT_OF_MEMORY: "ran out of memory",
    ExitCode.DISK_FULL: "found the disk full",
    ExitCode.DEADLINE: "took longer than its deadline",
    ExitCode.INTERRUPTED: "was interrupted",
    ExitCode.KILLED: "was killed (SIGKILL): often by the kernel, for want of memory",
    ExitCode.RETRYABLE: "met a passing fault",
    ExitCode.PREEMPTED: "was ended by SIGTERM",
}


def code_text(code: int) -> str:
    """A few words for an exit code."""
    known = {int(key): text for key, text in CODE_TEXTS.items()}
    return known.get(code) or (f"was ended by signal {code - 128}" if code > 128 else "failed")


@dataclass
class StageRecord:
    """How a stage went.

    Attributes:
        splits: as it is run: 1 where the pipeline cannot split it.
        attempts: how often it was started, for the retries.
        started, ended: UTC, or None.
        exit_code: of the split that failed, or 0; None before it ended.
        message: why it failed or was skipped, or what it warns of; one line, or one a mistake.
        failed_split: the split that exit_code and message are of.
        disruptions: how often it was started again because a node went away; not an attempt less.
        losses: how many of these came after it last had its nodes for long.
        given_back: how often it gave back nodes, as its other pods found none; likewise.
        images: what its pods ran, by digest; empty on one machine.
    """

    name: str
    state: State = State.PENDING
    splits: int = 1
    attempts: int = 0
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    exit_code: int | None = None
    message: str | None = None
    failed_split: int | None = None
    disruptions: int = 0
    losses: int = 0
    given_back: int = 0
    images: tuple[str, ...] = ()

    @property
    def starts(self) -> int:
        """How often it was started, for whatever reason."""
        return self.attempts + self.disruptions + self.given_back

    @property
    def ended_well(self) -> bool:
        return self.state in (State.SUCCEEDED, State.SKIPPED)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": str(self.state),
            "splits": self.splits,
            "attempts": self.attempts,
            "started": self.started,
            "ended": self.ended,
            "seconds": self.seconds,
            "exitCode": self.exit_code,
            "message": self.message,
            "failedSplit": self.failed_split,
            "disruptions": self.disruptions,
            "losses": self.losses,
            "givenBack": self.given_back,
            "images": list(self.images),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> StageRecord:
        return cls(
            name=value["name"],
            state=State(value["state"]),
            splits=value["splits"],
            attempts=value["attempts"],
            started=value["started"],
            ended=value["ended"],
            seconds=value["seconds"],
            exit_code=value["exitCode"],
            message=value["message"],
            failed_split=value["failedSplit"],
            disruptions=value.get("disruptions", 0),
            losses=value.get("losses", 0),
            given_back=value.get("givenBack", 0),
            images=tuple(value.get("images", ())),
        )


@dataclass
class RunRecord:
    """How a run went; the content of run.json.

    Attributes:
        driver: the uid of the driver's Job: its pods go on with each other's runs; None on one
            machine.
    """

    plan: Plan
    engine: str
    state: State = State.PENDING
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    message: str | None = None
    version: str = __version__
    stages: list[StageRecord] = field(default_factory=list)
    driver: str | None = None

    @classmethod
    def of_plan(cls, plan: Plan, engine: str) -> RunRecord:
        stages = [StageRecord(stage.name, splits=stage.splits) for stage in plan.stages]
        return cls(plan=plan, engine=engine, stages=stages)

    def stage(self, name: str) -> StageRecord:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def is_over(self) -> bool:
        return self.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)

    def to_dict(self) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "contract": CONTRACT_VERSION,
            "rvk8s": self.version,
            "engine": self.engine,
            "driver": self.driver,
            "state": str(self.state),
            "started": self.started,
            "ended": self.ended,
            "exitCode": self.exit_code,
            "message": self.message,
            "stages": [stage.to_dict() for stage in self.stages],
            "plan": self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "run.json") -> RunRecord:
        """The record of a run.json.

        Args:
            where: how errors name the file.

        Raises:
            InputError: a key is missing or has an unknown value: another version wrote it, a newer
                one perhaps.
        """
        check_contract(value, where)
        check_form(value, where)
        return cls(
            plan=Plan.from_dict(value["plan"]),
            engine=value["engine"],
            state=State(value["state"]),
            started=value["started"],
            ended=value["ended"],
            exit_code=value["exitCode"],
            message=value["message"],
            version=value["rvk8s"],
            stages=[StageRecord.from_dict(stage) for stage in value["stages"]],
            driver=value.get("driver"),
        )


def read_record(uri: str) -> RunRecord | None:
    """The record in a run.json; None where there is no such file.

    Raises:
        InputError: it is damaged, or of another version.
    """
    value = storage.read_json(uri)
    if value is not None:
        return RunRecord.from_dict(value, uri)
    if not storage.exists(uri):
        return None
    fix = "bring it back from a copy, or start a new run"
    raise InputError("is damaged: it is not JSON of a run", where=uri, fix=fix)
