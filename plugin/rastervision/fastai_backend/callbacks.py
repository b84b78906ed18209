"""fastai callbacks of a training: its place in the data, its log, its checkpoints."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import find_bs, get_model
from rastervision.fastai_backend import checkpoint, progress
from rastervision.fastai_backend.chips import Classes
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.precision import Precision
from rastervision.fastai_backend.tasks.classes import Scores

from rvk8s.errors import Rvk8sError

log = logging.getLogger(__name__)

#: As many seeds torch takes.
SEEDS = 2**63
#: Columns of log.csv that two equal trainings needn't have in common.
TIMES = ("seconds", "images_per_second")


@dataclass
class Course:
    """How far a training has come; the callbacks share one.

    Args:
        epochs: how many there will be, the frozen ones included.
        lr, rate, epoch, batch, loss_sum, loss_count, history: as in a Checkpoint.
    """

    epochs: int
    lr: float = 0.0
    rate: float = 0.0
    epoch: int = 0
    batch: int = 0
    loss_sum: torch.Tensor | float = 0.0
    loss_count: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best epoch by F-beta, the first of equals."""
        return max(self.history, key=lambda row: row["f_beta"], default=None)


class Place(Callback):
    """Tells loader, schedule and random generators where the training stands.

    Everything random in a batch follows from (seed, epoch, batch), and the schedule's position
    is computed from the batch and not summed up: a resumed training goes on bit by bit.
    """

    order = -5  # after fastai's TrainEvalCallback, before all that reads pct_train
    run_valid = False

    def __init__(self, course: Course, seed: int, rank: int = 0):
        self.course, self.seed, self.rank = course, seed, rank

    def before_epoch(self) -> None:
        loader = self.learn.dls.train
        loader.epoch, loader.first_batch = self.course.epoch, self.course.batch

    def before_batch(self) -> None:
        done = self.learn.epoch + self.learn.iter / self.learn.n_iter
        self.learn.pct_train = done / self.learn.n_epoch
        seed = (self.seed * 100_003 + self.course.epoch) * 1_000_003 + self.learn.iter
        # Ranks see other chips, so they drop other activations.
        torch.manual_seed((seed + self.rank * 1_000_000_007) % SEEDS)


class AccumulateGradients(GradientAccumulation):
    """fastai's accumulation; an epoch's last batch steps too, so no gradient outlives the epoch.

    That step, too, is one of the mean gradient, of the batches that there are.
    """

    count: int

    def before_step(self) -> None:
        if self.learn.iter == self.learn.n_iter - 1:
            chips = self.count + find_bs(self.learn.yb)
            if chips < self.n_acc:
                given = [p.grad for p in self.learn.model.parameters() if p.grad is not None]
                torch._foreach_mul_(given, self.n_acc / chips)
            self.count = self.n_acc
        super().before_step()

    def steps_now(self) -> bool:
        """Asked before a batch: whether a step follows it."""
        last = self.learn.iter == self.learn.n_iter - 1
        return last or self.count + find_bs(self.learn.yb) >= self.n_acc

    @property
    def pending(self) -> bool:
        """Whether there are gradients that no step has used yet."""
        return self.count > 0


class TaskScores(Protocol):
    """A metric that has the scores of an epoch, whatever the task; more of it goes into the row."""

    def scores(self) -> Scores: ...

    def more(self) -> dict[str, float]: ...


class EpochLog(Callback):
    """Gathers losses, speed and scores; one row an epoch in the history, log.csv and TensorBoard.

    Args:
        course: is filled with the rows.
        classes: name the columns.
        metric: holds what the validation has counted.
        unscored: ids of the classes that have no score: they get no column.
        folder: the training's output folder.
        writer: TensorBoard's, or None.
        group: the ranks; all have the same history, rank 0 writes it.
    """

    order = 65  # after fastai's Recorder and schedulers

    def __init__(
        self,
        course: Course,
        classes: Classes,
        metric: TaskScores,
        unscored: frozenset[int],
        folder: Path,
        writer: Any,
        group: Group,
    ):
        self.course, self.classes, self.metric = course, classes, metric
        self.unscored = unscored
        self.folder, self.writer, self.group = folder, writer, group

    def before_epoch(self) -> None:
        self.started = time.monotonic()
        self.images, self.batches = 0, 0

    def before_train(self) -> None:
        self.train_started = time.monotonic()

    def after_batch(self) -> None:
        if not self.learn.training:
            return
        c = self.course
        c.batch += 1
        c.rate = float(self.learn.opt.hypers[-1]["lr"])
        c.loss_sum = c.loss_sum + self.learn.loss.detach().double().as_subclass(torch.Tensor)
        c.loss_count += 1
        self.images += find_bs(self.learn.yb) * self.group.size
        if not self.group.writes:
            return
        progress.report(
            epoch=c.epoch + 1,
            epochs=c.epochs,
            batch=c.batch,
            batches=self.learn.n_iter,
            loss=round(float(self.learn.smooth_loss), 5),
            imagesPerSecond=round(self.speed(), 2),
            message=None,
        )

    def after_train(self) -> None:
        self.trained = time.monotonic()
        if not torch.isfinite(torch.as_tensor(self.course.loss_sum)):
            raise Rvk8sError(
                f"the loss is not finite in epoch {self.course.epoch + 1}; lower solver.lr, "
                "set solver.grad_clip, or use precision fp32"
            )

    def speed(self, until: float | None = None) -> float:
        seconds = (until or time.monotonic()) - self.train_started
        return self.images / seconds if seconds > 0 else 0.0

    def after_epoch(self) -> None:
        c = self.course
        # One rank's rounding must not stop it early while the others go on.
        c.history.append(self.group.from_first(self._row))
        c.epoch, c.batch, c.loss_sum, c.loss_count = c.epoch + 1, 0, 0.0, 0
        if self.group.writes:
            self._write(c.history[-1])

    def _row(self) -> dict[str, Any]:
        c, scores = self.course, self.metric.scores()
        row: dict[str, Any] = {
            "epoch": c.epoch + 1,
            "lr": c.rate,
            "train_loss": float(c.loss_sum) / max(1, c.loss_count),
            "valid_loss": float(self.learn.recorder.loss.value),
            "accuracy": scores.accuracy,
            "mean_iou": scores.mean_iou,
            "macro_f1": scores.macro_f1,
            "f_beta": scores.f_beta,
        }
        for index, (name, f1) in enumerate(zip(self.classes.names, scores.f1, strict=True)):
            if index not in self.unscored:
                row[f"f1_{name}"] = f1
        row.update(self.metric.more())
        row["seconds"] = round(time.monotonic() - self.started, 3)
        row["images_per_second"] = round(self.speed(self.trained), 3)
        return row

    def _write(self, row: dict[str, Any]) -> None:
        c = self.course
        log.info(
            "epoch %d/%d: train loss %.4f, valid loss %.4f, accuracy %.4f, macro F1 %.4f, "
            "%.1f images/s, %.0f s",
            *(c.epoch, c.epochs, row["train_loss"], row["valid_loss"], row["accuracy"]),
            *(row["macro_f1"], row["images_per_second"], row["seconds"]),
        )
        write_log(self.folder / "log.csv", c.history)
        if self.writer is not None:
            for key, value in row.items():
                if key != "epoch":
                    self.writer.add_scalar(key, value, c.epoch)
            self.writer.flush()
        progress.report(
            flush=True,
            epoch=c.epoch,
            epochs=c.epochs,
            loss=round(row["train_loss"], 5),
            macroF1=round(row["macro_f1"], 5),
        )


class Saver(Callback):
    """Writes checkpoints: by the clock, at the end of each epoch, of the best and of every epoch.

    Args:
        course: where the training stands.
        spec, options: go into the checkpoint.
        solver: checkpoint_seconds, save_all_checkpoints, sync_interval, early_stop_patience.
        folder: the training's output folder.
        sync: is called after the files were written that shall be uploaded.
        writes: whether this rank does all that; else it only knows when to stop.
    """

    order = 70  # after EpochLog

    def __init__(
        self,
        course: Course,
        spec: ModelSpec,
        options: dict[str, Any],
        solver: SolverOptions,
        folder: Path,
        sync: Callable[[], None] | None,
        writes: bool = True,
    ):
        self.writes = writes
        self.course, self.spec, self.options = course, spec, options
        self.solver, self.folder, self.sync = solver, folder, sync
        self.saved = time.monotonic()

    def after_batch(self) -> None:
        if not self.learn.training or not self.writes:
            return
        late = time.monotonic() - self.saved >= self.solver.checkpoint_seconds
        accumulate = self.learn._grab_cbs(AccumulateGradients)
        if late and not (accumulate and accumulate[0].pending) and self._finite():
            self.save_last()
            self._sync()

    def _finite(self) -> bool:
        """A checkpoint of a training that has gone wrong would only keep it so."""
        return bool(torch.isfinite(torch.as_tensor(self.course.loss_sum)))

    def after_epoch(self) -> None:
        if self.writes:
            self._save_epoch()
        if self.stale():
            if self.writes:
                log.info("no better epoch for %d epochs: stopping early", self._waited())
            raise CancelFitException

    def _save_epoch(self) -> None:
        c = self.course
        row = c.history[-1]
        weights = get_model(self.learn.model).state_dict()
        about = {
            "epoch": c.epoch,
            "row": {name: value for name, value in row.items() if name not in TIMES},
        }
        # Best before last: killed in between, the epoch is trained again to the same weights.
        if c.best is row:
            checkpoint.save_weights(self.folder / checkpoint.BEST, self.spec, weights, **about)
        if self.solver.save_all_checkpoints:
            path = self.folder / f"epoch-{c.epoch:03d}.pt"
            checkpoint.save_weights(path, self.spec, weights, **about)
        self.save_last()
        if c.epoch % self.solver.sync_interval == 0:
            self._sync()

    def save_last(self) -> None:
        """Write last.pt for the present moment."""
        c = self.course
        precision = self.learn._grab_cbs(Precision)
        checkpoint.Checkpoint(
            spec=self.spec,
            options=self.options,
            lr=c.lr,
            rate=c.rate,
            epoch=c.epoch,
            batch=c.batch,
            loss_sum=float(c.loss_sum),
            loss_count=c.loss_count,
            history=c.history,
            model=dict(get_model(self.learn.model).state_dict()),
            optimizer=checkpoint.optimizer_state(self.learn.opt),
            scaler=precision[0].scaler_state() if precision else {},
        ).save(self.folder / checkpoint.LAST)
        self.saved = time.monotonic()

    def _sync(self) -> None:
        if self.sync is not None:
            self.sync()

    def _waited(self) -> int:
        """Epochs since the best one; frozen epochs are not counted, they are always done."""
        best = self.course.best
        return self.course.epoch - max(best["epoch"] if best else 0, self.solver.freeze_epochs)

    def stale(self) -> bool:
        """Whether it is time to stop early."""
        patience = self.solver.early_stop_patience
        return patience is not None and self._waited() >= patience


def write_log(path: Path, history: list[dict[str, Any]]) -> None:
    """Write log.csv: a header and one line for each epoch."""
    text = io.StringIO()
    rows = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(history)
    with checkpoint.whole(path) as temporary:
        temporary.write_text(text.getvalue())
