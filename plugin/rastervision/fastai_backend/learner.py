"""Train a network on chips with a fastai Learner; stop at any moment and go on later."""

from __future__ import annotations

import logging
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import fastai
import torch
from rastervision.fastai_backend import (
    bundle,
    checkpoint,
    data,
    memory,
    models,
    precision,
    sampling,
    schedule,
    weights,
)
from rastervision.fastai_backend.callbacks import (
    SEEDS,
    Course,
    EpochLog,
    Place,
    Saver,
    write_log,
)
from rastervision.fastai_backend.chip_learner import ChipLearner, make_learner
from rastervision.fastai_backend.chips import (
    ChipSource,
    Classes,
    band_statistics,
    labels_digest,
    scale_of,
)
from rastervision.fastai_backend.data_parallel import hidden_from_fastai
from rastervision.fastai_backend.debug import chips_picture
from rastervision.fastai_backend.devices import device_of, say_where
from rastervision.fastai_backend.distributed import Group, lost
from rastervision.fastai_backend.heap import keep_freed_memory
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import TrainSettings
from rastervision.fastai_backend.tasks.classes import check_ignored

from rvk8s.errors import InputError, Rvk8sError

log = logging.getLogger(__name__)

METRICS = "metrics.json"
#: Key of an option that is none: what "auto" has become.
_PRECISION = "precision in use"
#: Options that don't change what is learnt: a training may go on with others.
_FREE = {
    "data.num_workers",
    "data.debug",
    "solver.checkpoint_seconds",
    "solver.log_tensorboard",
    "solver.save_all_checkpoints",
    "solver.sync_interval",
}


def train(
    settings: TrainSettings,
    train: ChipSource,
    valid: ChipSource,
    classes: Classes,
    output_dir: Path,
    *,
    sync: Callable[[], None] | None = None,
    model_init: Path | None = None,
) -> Path:
    """Train, or go on with the training that output_dir holds; with several ranks, all call this.

    Into output_dir go last.pt (the state), best.pt, epoch-NNN.pt where asked for, log.csv,
    tensorboard/, lr_find.png, debug/, metrics.json and at the end model-bundle.zip with the weights
    of the best epoch. A training that is finished is left as it is.

    Args:
        settings: what to do.
        train, valid: chips to learn from, and to score each epoch with.
        classes: of the labels.
        output_dir: is made if it isn't there. Only rank 0 reads and writes it.
        sync: uploads output_dir; called after the files that solver.sync_interval is about were
            written, and at the end.
        model_init: weights to start from: settings.model.pretrained_uri, as a local file.

    Returns:
        Path of model-bundle.zip.

    Raises:
        InputError: settings, data or the checkpoint don't fit.
        OutOfMemory: with the batch size that fits. DiskFull: output_dir can't be written.
    """
    return Training(settings, train, valid, classes, output_dir, sync, model_init).run()


class Training:
    """One call of train()."""

    def __init__(
        self,
        settings: TrainSettings,
        train: ChipSource,
        valid: ChipSource,
        classes: Classes,
        folder: Path,
        sync: Callable[[], None] | None,
        model_init: Path | None,
    ):
        self.settings, self.classes, self.folder, self.sync = settings, classes, folder, sync
        self.group = Group.join()
        self._own: AbstractContextManager[str] = nullcontext(str(folder))
        if not self.group.writes:
            # fastai wants a folder where it looks for a learning rate.
            self._own = tempfile.TemporaryDirectory(prefix="rank-")
        self.device = device_of(self.group.ranks)
        self.precision = precision.of_all(settings.solver.precision, self.device, self.group)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches are of one size
        else:
            keep_freed_memory()
        self.ignore = check_ignored(settings.solver.ignore_class_index, classes)
        uri = settings.model.pretrained_uri
        self.model_init = model_init or (Path(uri) if uri else None)
        data.check_sources(train, valid)
        self.train = sampling.subset(train, settings.data, settings.solver.seed)
        self.valid = valid
        self.options = self._options()
        #: What to go on with; let go as soon as it is used, since it is as large as the training.
        self.resumed: checkpoint.Checkpoint | None = None

    def _options(self) -> dict[str, Any]:
        """What decides the course of the training, flat and in plain types."""
        groups = self.settings.model_dump(mode="json", exclude={"predict"})
        flat = {f"{group}.{k}": v for group, o in groups.items() for k, v in o.items()}
        options = {k: v for k, v in flat.items() if k not in _FREE}
        for name, chips in (("training", self.train), ("validation", self.valid)):
            options[f"{name} chips"] = len(chips)
            if self.group.writes:  # who compares
                options[f"{name} {checkpoint.LABELS}"] = labels_digest(chips)
        return options | {_PRECISION: self.precision}

    def run(self) -> Path:
        """See train()."""
        with self._own as folder, hidden_from_fastai(), self._errors() as guard:
            self.folder = Path(folder)
            path, first = self.folder / bundle.NAME, self.group.from_first
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.partial"):
                left.unlink()  # of a process that was killed while it wrote
            if first(self._is_finished):
                log.info("the training in %s is finished", self.folder)
                return path
            last = self.folder / checkpoint.LAST
            self._resume(last)
            if self.group.writes:
                say_where(self.device, self.group.size, self.precision, self.settings.solver)
            spec = first(lambda: self._spec(last))
            learn = self._learner(spec)
            guard["learn"], guard["spec"] = learn, spec
            course = self._course(learn)
            self._fit(learn, spec, course)
            if self.group.writes:
                self._finish(spec, course)
            self.group.barrier()
        return path

    def _resume(self, last: Path) -> None:
        """Rank 0 reads its checkpoint, where there is one, and all go on with it."""

        def read() -> dict[str, Any] | None:
            return vars(checkpoint.Checkpoint.load(last)) if last.exists() else None

        values = self.group.tensors_from_first(read)
        self.resumed = checkpoint.Checkpoint(**values) if values else None
        if self.resumed and self.settings.solver.precision == "auto":
            # The device may be of another kind, which would have chosen another.
            used = self.resumed.options[_PRECISION]
            if all(self.group.gather(precision.runs(used, self.device))):
                self.precision = self.options[_PRECISION] = used

    def _is_finished(self) -> bool:
        path = self.folder / METRICS
        if not path.exists() or not (self.folder / bundle.NAME).exists():
            return False
        try:
            metrics = checkpoint.read_json(path)
            used = {_PRECISION: metrics["options"][_PRECISION]}
            spec = ModelSpec.from_dict(metrics["model"])
            checkpoint.check_network(spec, self._network(), path)
            checkpoint.check_options(metrics["options"], self.options | used, path)
        except KeyError as e:
            raise InputError(f"{path} lacks {e}", fix=f"remove {self.folder}") from e
        return not checkpoint.more_epochs(metrics["options"], self.options)

    def _network(self) -> dict[str, Any]:
        """Those parts of the network's spec that a checkpoint must have in common with it."""
        m = self.settings.model
        return {
            **m.model_dump(exclude={"pretrained", "pretrained_uri"}),
            "channels": self.train.channels,
            "class_names": tuple(self.classes.names),
            "dtype": str(self.train.dtype),
        }

    def _spec(self, path: Path) -> ModelSpec:
        """The network's spec; the checkpoint that lies at `path` gives its statistics."""
        bands = self.train.channels
        if self.resumed:
            mean, std = self.resumed.spec.mean, self.resumed.spec.std
        elif self.settings.data.normalize == "data":
            mean, std = band_statistics(self.train)
        else:
            mean, std = (0.0,) * bands, (scale_of(self.train.dtype),) * bands
        spec = ModelSpec(
            **self._network(),
            class_colors=tuple(self.classes.colors),
            null_id=self.classes.null_id,
            mean=mean,
            std=std,
            img_sz=self.settings.data.img_sz or self.train.size,
        )
        if self.resumed:
            checkpoint.check_network(self.resumed.spec, self._network(), path)
            checkpoint.check_options(self.resumed.options, self.options, path)
        return spec

    def _learner(self, spec: ModelSpec) -> ChipLearner:
        torch.manual_seed(self.settings.solver.seed % SEEDS)
        if self.resumed:
            model = models.build(spec)
            model.load_state_dict(self.resumed.model)
        elif not self.group.writes:
            model = models.build(spec)  # it gets rank 0's weights before the first batch
        elif self.model_init:
            model = weights.start(spec, self.model_init)
        else:
            pretrained = self.settings.model.pretrained
            if self.settings.solver.freeze_epochs and not pretrained:
                log.warning("solver.freeze_epochs: the backbone is frozen with random weights")
            model = models.build(spec, pretrained=pretrained)
        return make_learner(
            # Here and not by fastai, later: the optimizer's state is restored to where it is.
            model.to(self.device),
            spec,
            self.settings,
            self.train,
            self.valid,
            self.classes,
            self.precision,
            self.device,
            self.folder,
            self.group,
        )

    def _course(self, learn: ChipLearner) -> Course:
        s = self.settings.solver
        course = Course(epochs=s.freeze_epochs + s.num_epochs, lr=s.lr or 0.0)
        if self.resumed:
            for name in ("lr", "rate", "epoch", "batch", "loss_sum", "loss_count", "history"):
                setattr(course, name, getattr(self.resumed, name))
            log.info("going on after epoch %d, batch %d", course.epoch, course.batch)
            if course.history and self.group.writes:
                write_log(self.folder / "log.csv", course.history)
        else:
            if self.settings.data.debug and self.group.writes:
                self._debug_pictures(learn)
            if s.lr is None:
                learn.add_cb(place := Place(course, s.seed, self.group.ranks.rank))
                phase = schedule.phases(s)[0]
                found = schedule.find_lr(learn, phase, self.folder, self.group.writes)
                course.lr = self.group.from_first(lambda: found)
                learn.remove_cb(place)
        return course

    def _debug_pictures(self, learn: ChipLearner) -> None:
        for name, loader in (("train", learn.dls.train), ("valid", learn.dls.valid)):
            images, labels = loader.one_batch()
            path = self.folder / "debug" / f"{name}-chips.png"
            chips_picture(
                path, images, labels, self.classes, f"{name} chips as the network sees them"
            )

    def _fit(self, learn: ChipLearner, spec: ModelSpec, course: Course) -> None:
        s = self.settings.solver
        writer = self._tensorboard(course)
        group = self.group
        saver = Saver(course, spec, self.options, s, self.folder, self.sync, group.writes)
        unscored = self.classes.unscored(self.ignore)
        cbs = [
            Place(course, s.seed, group.ranks.rank),
            EpochLog(course, self.classes, learn.metrics[0], unscored, self.folder, writer, group),
            saver,
        ]
        for phase in schedule.phases(s):
            if course.epoch >= phase.start + phase.epochs:
                continue
            if saver.stale():
                break  # stopped early, and then killed before the bundle was written
            schedule.prepare(learn, phase)
            if self.resumed:
                # A phase has an optimizer of its own, and the scaler of the one before.
                if (course.epoch, course.batch) != (phase.start, 0):
                    checkpoint.restore_optimizer(learn.opt, self.resumed.optimizer)
                if scaled := learn._grab_cbs(precision.Precision):
                    scaled[0].state = self.resumed.scaler
            self.resumed = None
            learn.start_epoch = course.epoch - phase.start
            schedule.fit(learn, phase, s, course.lr, cbs)
        if writer is not None:
            writer.close()

    def _tensorboard(self, course: Course) -> Any:
        if not self.settings.solver.log_tensorboard or not self.group.writes:
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=course.epoch + 1)

    def _finish(self, spec: ModelSpec, course: Course) -> None:
        """Write the bundle of the best epoch, then what says that all is done."""
        best = checkpoint.load_tensors(self.folder / checkpoint.BEST)
        bundle.save(self.folder / bundle.NAME, best["model"], spec)
        # Its own: an epoch that was trained again may have another in the history.
        row = best["row"]
        metrics = {
            "best": row,
            "epochs": len(course.history),
            "lr": course.lr,
            "device": self.device.type,
            "ranks": self.group.size,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__}
            | {"fastai": fastai.__version__},
            "model": spec.to_dict(),
            "options": self.options,
            "history": course.history,
        }
        checkpoint.write_json(self.folder / METRICS, metrics)
        log.info("the best epoch is %d, with macro F1 %.4f", row["epoch"], row["macro_f1"])
        if self.sync is not None:
            self.sync()

    @contextmanager
    def _errors(self) -> Iterator[dict[str, Any]]:
        """Out of memory becomes advice, and our own errors keep the message that they had."""
        found: dict[str, Any] = {}
        try:
            yield found
        except Rvk8sError as e:
            e.args = (_own_message(str(e)),)
            raise
        except (RuntimeError, MemoryError) as e:
            if (without := lost(e)) is not None:
                raise without from e
            if not memory.is_out_of_memory(e) or "learn" not in found:
                raise
            _leave_autocast(found["learn"])  # it keeps casts of the weights
            accum, ranks = self.settings.solver.grad_accum, self.group.size
            raise memory.advice(
                e, found["learn"], found["spec"], self.precision, accum, ranks
            ) from e
        finally:
            if found:
                _leave_autocast(found["learn"])


def _leave_autocast(learn: ChipLearner) -> None:
    for callback in learn._grab_cbs(precision.Precision):
        callback.leave()


def _own_message(text: str) -> str:
    """A message without the prefix that fastai gives to errors raised within its callbacks."""
    return re.sub(r"^(Exception occured in `\w+` when calling event `\w+`:\n\t)+", "", text)
