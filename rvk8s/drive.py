"""The loop that a laptop and the driver pod share: start a stage, wait, go on or stop.

It knows plans, markers and exit codes; what a process or a pod is, the Launcher knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, TypeVar

from rvk8s import storage
from rvk8s.contract import CONFIGURE, STAGES, ExitCode, State, is_retryable, now, split_of
from rvk8s.errors import (
    ClusterUnavailable,
    HandedOver,
    InputError,
    Interrupted,
    Rvk8sError,
    StorageRefused,
    StorageUnavailable,
)
from rvk8s.heartbeat import Beat, OtherDriver, check_is_ours, other_driver, wait_until_free
from rvk8s.launcher import Launcher, Manners, Running
from rvk8s.parallel import Abandoned, abandonable, in_threads
from rvk8s.plan import Plan, Stage
from rvk8s.retries import next_try
from rvk8s.runs.forget import forget
from rvk8s.runs.record import RunRecord, StageRecord, code_text, read_record
from rvk8s.times import seconds_since

_T = TypeVar("_T")

log = logging.getLogger(__name__)

#: Seconds that a cancelled run waits for storage to hear of it.
_LAST_WORDS = 60.0


class Driver:
    """Drives one run.

    Args:
        plan: what to do.
        launcher: starts the stages.
        engine: the engine's name, for run.json.
        observe: called several times a second and at every transition.
        cancelled: asked several times a second; once true, everything is stopped.
        tick: seconds between two looks at the splits.
        manners: what is otherwise in a cluster.
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
        manners: Manners | None = None,
    ):
        self.plan, self.layout, self.launcher = plan, plan.layout, launcher
        self.record = RunRecord.of_plan(plan, engine)
        self._manners = manners or Manners()
        self.record.driver = self._manners.session
        self._observe, self._cancelled, self._tick = observe, cancelled, tick
        self._configured: Mapping[str, Any] = {}
        self._begun = False  # storage has taken the record of the run
        self._is_others = False  # another driver may have the run's folder
        #: By stage, the seconds that it took when an earlier start of this run did it.
        self._took: dict[str, float | None] = {}

    def drive(self) -> RunRecord:
        """Run all stages that are not done; stops at the first one that fails.

        Returns:
            The record of the run, also stored in run.json at every transition. Its exit code is
            that of the stage that failed.

        Raises:
            Interrupted: it was cancelled; run.json says so, and finished stages stay finished.
            InputError: --from names a stage before which one is not done.
            OtherDriver: the run is another driver's; nothing of it was changed.
            StorageUnavailable, DiskFull: run.json or a marker cannot be written or read.
            HandedOver, ClusterUnavailable: this driver cannot go on, the stages do; the next driver
                of the same session goes on from run.json and from what the launcher finds.
        """
        try:
            if self._begin():
                for stage in self.plan.stages:
                    if not self._stage(stage, self.record.stage(stage.name)):
                        break
                else:
                    self._end(State.SUCCEEDED, ExitCode.OK, None)
                self._flush()
        except (HandedOver, ClusterUnavailable, OtherDriver):
            raise
        except Interrupted as error:
            if self._is_others:
                raise
            try:
                self._end(State.CANCELLED, error.exit_code, str(error))
                self._flush_last_words()
            except Rvk8sError as second:
                # All stages are stopped; whoever did it has to hear how to go on.
                log.warning("run.json does not say that the run is cancelled: %s", second)
            raise
        except StorageUnavailable as error:
            if self._manners.session is None:
                self._end(State.FAILED, error.exit_code, str(error))
            raise
        except Rvk8sError as error:
            if isinstance(error, StorageRefused) and self._begun and self._manners.session:
                # A pod keeps the keys that it began with; the next one has those of today.
                raise StorageUnavailable(f"{error}; the next driver goes on") from error
            self._end(State.FAILED, error.exit_code, str(error))
            self._flush()
            raise
        return self.record

    def note(self, text: str | None) -> None:
        """Say in run.json what the running stage waits for; None once it goes on."""
        for record in self.record.stages:
            if record.state == State.RUNNING and record.message != text:
                record.message = text
                self._save()

    def _begin(self) -> bool:
        """Store the record of a run that begins or goes on; False where it is over already."""
        wait_until_free(self._other, self._sleep)
        self._manners.begun()
        previous = self._patiently(lambda: read_record(self.layout.run_json))
        if previous and self._is_ours(previous):
            self.record = previous
            if self.record.is_over:
                return False
        else:
            # Before run.json is written anew: killed in between, the next start forgets once more.
            self._patiently(lambda: forget(self.plan, previous))
            self.record.started = now()
            if previous:
                self._took = {stage.name: stage.seconds for stage in previous.stages}
        self.record.state = State.RUNNING
        self._save()
        if self._manners.session is not None:
            self._check()  # cancelled while no driver was there: nothing is started
        self._flush()  # the stages read the plan
        self._begun = True
        return True

    def _other(self) -> Beat | None:
        found = self._patiently(lambda: other_driver(self.layout, self._manners.session))
        self._is_others = found is not None
        return found

    def _stage(self, stage: Stage, record: StageRecord) -> bool:
        """Do one stage; whether the next one may start."""
        if record.ended_well:  # under an earlier driver of this session
            if stage.name != CONFIGURE:
                return True
            if configured := self._done(CONFIGURE, [None])[0]:
                self._configured = configured
                return True
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
        goes_on = record.state == State.RUNNING
        before = [None] if goes_on else self._done(stage.name, self._splits(record))
        passed = seconds_since(record.started) if goes_on else 0.0
        record.started = record.started if goes_on else now()
        record.state, record.attempts, clock = State.RUNNING, max(record.attempts, 1), monotonic()
        self._save()
        codes = self._attempts(replace(stage, splits=record.splits), record)
        record.ended, record.seconds = now(), round(passed + monotonic() - clock, 2)
        after = self._done(stage.name, self._splits(record))
        failed = {split: code for split, code in codes.items() if code}
        if failed:
            self._fail(record, failed)
            return False
        if None in after:
            self._fail(
                record, {after.index(None): ExitCode.FAILED}, "ended but left no done-marker"
            )
            return False
        record.state, record.exit_code, record.message = State.SUCCEEDED, ExitCode.OK, None
        found_done = None not in before and before == after
        if found_done and not self._manners.found(stage.name):
            record.state, record.message = State.SKIPPED, "found done"
            record.seconds = self._took.get(record.name) or record.seconds
        if stage.name == CONFIGURE:
            self._flush()  # what we wrote is not to come after what another driver did
            self._patiently(lambda: check_is_ours(self.layout, self._manners.session))
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
        limit = None if self._manners.keeps_deadlines else stage.deadline_seconds
        deadline = limit and monotonic() + limit
        own = stage.name in self._manners.retries_splits
        codes: dict[int, int] = {}
        todo = list(range(record.splits))
        while True:
            running = self.launcher.start(stage, todo, record.starts)
            codes.update(self._wait(running, record, todo, deadline))
            failed = [split for split, code in codes.items() if code]
            final = [code for code in codes.values() if code and not is_retryable(code)]
            if not failed or final:
                return codes
            retry = next_try(stage, record, [codes[s] for s in failed], running, self._manners)
            if retry is None:
                return codes
            text = self._manners.why(stage.name, failed[0]) or code_text(codes[failed[0]])
            record.message = f"{text}; {retry}"
            self._save()
            log.warning("stage %s: %s", stage.name, record.message)
            self._sleep(retry.pause)
            record.message = None
            todo = failed
            if own:  # all run again: some were only ended with the one that failed
                codes, todo = {}, list(range(record.splits))

    def _wait(
        self, running: Running, record: StageRecord, todo: Sequence[int], deadline: float | None
    ) -> dict[int, int]:
        """Wait until the splits have ended, or end them: cancelled, too late, one failed for good.

        Returns:
            The exit codes; a split that was ended because another one failed has none.
        """
        own = record.name in self._manners.retries_splits
        try:
            while True:
                codes = dict(running.poll())
                if self._manners.notice(record):
                    self._save()
                if len(codes) == len(todo):
                    return codes
                if any(code and (own or not is_retryable(code)) for code in codes.values()):
                    running.stop()
                    return codes
                if deadline is not None and monotonic() > deadline:
                    running.stop()
                    return {**dict.fromkeys(todo, int(ExitCode.DEADLINE)), **codes}
                self._check()
                self._manners.wait(self._tick)
        except (HandedOver, ClusterUnavailable):
            raise
        except BaseException:
            running.stop()
            raise

    def _sleep(self, seconds: float) -> None:
        end = monotonic() + seconds
        while True:
            self._check()
            left = end - monotonic()
            if left <= 0:
                return
            self._manners.wait(min(left, self._tick))

    def _check(self) -> None:
        self._observe(self.record)
        if error := self._manners.leave():
            raise error
        if self._cancelled():
            raise Interrupted("interrupted" if self._manners.session is None else "cancelled")

    def _patiently(self, work: Callable[[], _T]) -> _T:
        """The result of something that reads or writes storage."""
        if not self._manners.patience:
            return self._unless_cancelled(work)
        end, pause = monotonic() + self._manners.patience, 0.5
        while True:
            try:
                return abandonable(work, self._must_stop, grace=0.0)
            except Abandoned:
                self._check()
            except StorageUnavailable as error:
                if monotonic() > end:
                    raise
                log.warning("%s", error)
            self._sleep(pause)
            pause = min(pause * 2, 15.0)

    def _unless_cancelled(self, work: Callable[[], _T]) -> _T:
        """The same; storage that hangs does not keep a run from being cancelled."""
        try:
            return abandonable(work, self._cancelled)
        except Abandoned:
            if self.record.is_over:
                raise StorageUnavailable(f"{self.plan.run_uri}: storage does not answer") from None
            raise Interrupted("interrupted") from None

    def _must_stop(self) -> bool:
        return self._cancelled() or self._manners.leave() is not None

    def _fail(self, record: StageRecord, failed: Mapping[int, int], why: str | None = None) -> None:
        # A final code says more than the code of a split that was ended with it.
        split, code = min(failed.items(), key=lambda item: (is_retryable(item[1]), item[0]))
        why = why or self._told(record, split, code) or self._manners.why(record.name, split)
        why = why or code_text(code)
        record.state, record.exit_code, record.failed_split = State.FAILED, int(code), split
        record.message = why
        self._end(State.FAILED, code, f"stage {record.name}: {record.message}")

    def _told(self, record: StageRecord, split: int, code: int) -> str | None:
        """What a split has written of its failure, in this run of the stage.

        Where storage refused that, what it wrote the last time may be there still.
        """
        uri = self.layout.failed(record.name, split_of(record.splits, split))
        try:
            said = self._patiently(lambda: storage.read_json(uri))
        except InputError as error:
            log.warning("%s", error)
            return None
        is_old = said and str(said.get("at") or "9") < str(record.started)
        its = said if said and said.get("exitCode") == code and not is_old else {}
        return str(its["message"]) if its.get("message") else None

    def _end(self, state: State, code: int, message: str | None) -> None:
        for stage in self.record.stages:
            if stage.state == State.RUNNING:
                stage.state, stage.ended, stage.exit_code = state, now(), code
        self.record.state, self.record.ended = state, now()
        self.record.exit_code, self.record.message = int(code), message
        self._save()

    def _skip(self, record: StageRecord, why: str) -> None:
        record.state, record.message = State.SKIPPED, why
        record.seconds = self._took.get(record.name)
        self._save()

    def _save(self) -> None:
        value = self.record.to_dict()
        if self._manners.patience:
            self._manners.saver.save(self.layout.run_json, value)
        else:
            self._unless_cancelled(lambda: self._manners.saver.save(self.layout.run_json, value))
        self._observe(self.record)

    def _flush(self) -> None:
        """Wait until run.json says what the record says; a run that is over is not cancelled."""
        while self._manners.saver.pending():
            if not self.record.is_over:
                self._check()
            elif error := self._manners.leave():
                raise error
            time.sleep(0.02)

    def _flush_last_words(self) -> None:
        end = monotonic() + _LAST_WORDS
        while self._manners.saver.pending():
            if monotonic() > end:
                raise StorageUnavailable(f"{self.layout.run_json}: storage does not answer")
            time.sleep(0.05)

    def _is_ours(self, previous: RunRecord) -> bool:
        """Whether an earlier driver of this session wrote it."""
        session = self._manners.session
        return session is not None and previous.driver == session and previous.plan == self.plan

    def _is_before_from(self, stage: str) -> bool:
        first = self.plan.from_stage
        return first is not None and STAGES.index(stage) < STAGES.index(first)

    def _check_done(self, stage: str, splits: int) -> None:
        for index in range(splits):
            if self._done(stage, [split_of(splits, index)])[0] is None:
                what = f"stage {stage} of {self.plan.run_id} is not done"
                raise InputError(what, where="--from", fix=f"start --from {stage}")

    def _done(self, stage: str, splits: Iterable[int | None]) -> list[dict[str, Any] | None]:
        """The done-markers of splits, read several at once; None where there is none."""
        uris = [self.layout.done(stage, split) for split in splits]
        return self._patiently(lambda: in_threads(storage.read_json, uris))

    def _splits(self, record: StageRecord) -> list[int | None]:
        return [split_of(record.splits, index) for index in range(record.splits)]
