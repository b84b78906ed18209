"""The loop that a laptop and the driver pod share: start a stage, wait, go on or stop.

It knows plans, markers and exit codes; what a process or a pod is, the Launcher knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rvk8s import storage
from rvk8s.contract import CONFIGURE, STAGES, ExitCode, State, now, split_of
from rvk8s.errors import InputError, Interrupted, Rvk8sError
from rvk8s.plan import Plan, Stage
from rvk8s.record import RunRecord, StageRecord, code_text

log = logging.getLogger(__name__)

#: From this exit code on, a stage may be tried again.
_RETRYABLE_FROM = 128
#: Seconds before the first retry; doubled before each further one.
_BACKOFF = 5.0


class Running(Protocol):
    """Splits of a stage that were started."""

    def poll(self) -> Mapping[int, int]:
        """The exit codes of the splits that have ended so far; does not wait."""
        ...

    def stop(self) -> None:
        """End all splits and wait until they are gone, 10 seconds at most."""
        ...


class Launcher(Protocol):
    """Starts stages: as processes, as Jobs."""

    def start(self, stage: Stage, splits: Sequence[int]) -> Running:
        """Start some splits of a stage; the launcher decides how many run at once."""
        ...


class Driver:
    """Drives one run.

    Args:
        plan: what to do.
        launcher: starts the stages.
        engine: the engine's name, for run.json.
        observe: called several times a second and at every transition.
        cancelled: asked several times a second; once true, everything is stopped.
        tick: seconds between two looks at the splits.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        *,
        engine: str,
        observe: Callable[[RunRecord], None] = lambda record: None,
        cancelled: Callable[[], bool] = lambda: False,
        tick: float = 0.1,
    ):
        self.plan, self.layout, self.launcher = plan, plan.layout, launcher
        self.record = RunRecord.of_plan(plan, engine)
        self._observe, self._cancelled, self._tick = observe, cancelled, tick
        self._configured: Mapping[str, Any] = {}

    def drive(self) -> RunRecord:
        """Run all stages that are not done; stops at the first one that fails.

        Returns:
            The record of the run, also stored in run.json at every transition. Its exit code is
            that of the stage that failed.

        Raises:
            Interrupted: it was cancelled; run.json says so, and finished stages stay finished.
            InputError: --from names a stage before which one is not done.
            StorageUnavailable, DiskFull: run.json or a marker cannot be written or read.
        """
        # Before run.json is written anew: killed in between, the next start forgets once more.
        self._forget(storage.read_json(self.layout.run_json))
        self.record.state, self.record.started = State.RUNNING, now()
        self._save()
        try:
            for stage in self.plan.stages:
                if not self._stage(stage, self.record.stage(stage.name)):
                    break
        except Interrupted as error:
            try:
                self._end(State.CANCELLED, error.exit_code, str(error))
            except Rvk8sError as second:
                # All stages are stopped; whoever did it has to hear how to go on.
                log.warning("run.json does not say that the run is cancelled: %s", second)
            raise
        except Rvk8sError as error:
            self._end(State.FAILED, error.exit_code, str(error))
            raise
        if self.record.state == State.RUNNING:
            self._end(State.SUCCEEDED, ExitCode.OK, None)
        return self.record

    def _stage(self, stage: Stage, record: StageRecord) -> bool:
        """Do one stage; whether the next one may start."""
        if stage.name != CONFIGURE:
            if stage.name not in self._configured["commands"]:
                record.splits = 1
                self._skip(record, "not part of this pipeline")
                return True
            if stage.name not in self._configured["split_commands"]:
                record.splits = 1
            if self._is_before_from(stage.name):
                self._check_done(stage.name, record.splits)
                self._skip(record, f"done before; the run starts from {self.plan.from_stage}")
                return True
        before = [self._done(stage.name, split) for split in self._splits(record)]
        record.state, record.started, clock = State.RUNNING, now(), time.monotonic()
        self._save()
        codes = self._attempts(replace(stage, splits=record.splits), record)
        record.ended, record.seconds = now(), round(time.monotonic() - clock, 2)
        failed = {split: code for split, code in codes.items() if code}
        if failed:
            self._fail(record, failed)
            return False
        record.state, record.exit_code = State.SUCCEEDED, ExitCode.OK
        after = [self._done(stage.name, split) for split in self._splits(record)]
        if None not in before and before == after:
            record.state, record.message = State.SKIPPED, "found done"
        if stage.name == CONFIGURE:
            self._configured = after[0] or {}
            if warnings := self._configured.get("warnings"):
                record.message = "\n".join(f"warning: {warning}" for warning in warnings)
        self._save()
        return True

    def _attempts(self, stage: Stage, record: StageRecord) -> dict[int, int]:
        """Start the splits, and again those that may be tried again.

        Returns:
            The exit code of each split.
        """
        deadline = stage.deadline_seconds and time.monotonic() + stage.deadline_seconds
        codes: dict[int, int] = {}
        todo = list(range(record.splits))
        while True:
            record.attempts += 1
            codes.update(self._wait(self.launcher.start(stage, todo), todo, deadline))
            todo = [split for split, code in codes.items() if code]
            final = [code for code in codes.values() if 0 < code < _RETRYABLE_FROM]
            if not todo or final or record.attempts > (stage.retries or 0):
                return codes
            pause = _BACKOFF * 2 ** (record.attempts - 1)
            log.warning(
                "stage %s %s; trying again in %.0f s (%d of %d)",
                stage.name,
                code_text(codes[todo[0]]),
                pause,
                record.attempts,
                stage.retries,
            )
            self._sleep(pause)

    def _wait(
        self, running: Running, splits: Sequence[int], deadline: float | None
    ) -> dict[int, int]:
        """Wait until all splits have ended, or end them: cancelled, too late, one failed for good.

        Returns:
            The exit codes; a split that was ended because another one failed has none.
        """
        try:
            while True:
                codes = dict(running.poll())
                if len(codes) == len(splits):
                    return codes
                if any(0 < code < _RETRYABLE_FROM for code in codes.values()):
                    running.stop()
                    return codes
                if deadline is not None and time.monotonic() > deadline:
                    running.stop()
                    return {**dict.fromkeys(splits, int(ExitCode.DEADLINE)), **codes}
                self._sleep(self._tick)
        except BaseException:
            running.stop()
            raise

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._observe(self.record)
            if self._cancelled():
                raise Interrupted("interrupted")
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, self._tick))

    def _fail(self, record: StageRecord, failed: Mapping[int, int]) -> None:
        # A final code says more than the code of a split that was ended with it.
        split, code = min(failed.items(), key=lambda item: (item[1] >= _RETRYABLE_FROM, item[0]))
        said = storage.read_json(self.layout.failed(record.name, split_of(record.splits, split)))
        record.state, record.exit_code, record.failed_split = State.FAILED, code, split
        record.message = said["message"] if said and said["exitCode"] == code else code_text(code)
        self._end(State.FAILED, code, f"stage {record.name}: {record.message}")

    def _end(self, state: State, code: int, message: str | None) -> None:
        for stage in self.record.stages:
            if stage.state == State.RUNNING:
                stage.state, stage.ended, stage.exit_code = state, now(), code
        self.record.state, self.record.ended = state, now()
        self.record.exit_code, self.record.message = int(code), message
        self._save()

    def _skip(self, record: StageRecord, why: str) -> None:
        record.state, record.message = State.SKIPPED, why
        self._save()

    def _save(self) -> None:
        storage.write_json(self.layout.run_json, self.record.to_dict())
        self._observe(self.record)

    def _forget(self, previous: Mapping[str, Any] | None) -> None:
        """Delete markers and outputs of the stages to do again, and of those split otherwise."""
        stages = set(self.plan.rerun)
        if previous:
            before = Plan.from_dict(previous["plan"])
            stages |= {
                stage.name
                for stage in self.plan.stages
                if stage.splits != before.stage(stage.name).splits
            }
        folders = storage.list_dirs(self.layout.at(".rvk8s")) if stages else []
        for name in stages:
            for folder in folders:
                if folder == name or folder.rpartition("-")[0] == name:
                    storage.delete_tree(self.layout.at(".rvk8s", folder))
            if name != CONFIGURE:
                storage.delete_tree(self.layout.at(name))

    def _is_before_from(self, stage: str) -> bool:
        first = self.plan.from_stage
        return first is not None and STAGES.index(stage) < STAGES.index(first)

    def _check_done(self, stage: str, splits: int) -> None:
        for index in range(splits):
            if self._done(stage, split_of(splits, index)) is None:
                what = f"stage {stage} of {self.plan.run_id} is not done"
                raise InputError(what, where="--from", fix=f"start --from {stage}")

    def _done(self, stage: str, split: int | None) -> dict[str, Any] | None:
        return storage.read_json(self.layout.done(stage, split))

    def _splits(self, record: StageRecord) -> list[int | None]:
        return [split_of(record.splits, index) for index in range(record.splits)]
