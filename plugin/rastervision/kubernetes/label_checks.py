"""Looks at what the labels of a data set hold as a whole: whether there is something to learn and
something to score, and whether scores come from scenes that were trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from rastervision.core.data import ClassConfig, DatasetConfig, RasterioSourceConfig, SceneConfig
from rastervision.fastai_backend.chips import unscored_ids
from rastervision.kubernetes.streaming import raster_sources

from rvk8s.errors import InputError


class LabelCounts:
    """Labels by class of the training and the validation scenes, as far as they were looked at.

    A score means something only if the labels have two classes that are trained and scored: a
    model that predicts one class everywhere is perfect otherwise. Of objects one class is enough,
    since they can be missed, and found where there is none.

    Args:
        solver: the backend's options of the training; some or all may be missing.
        of_objects: the labels are boxes.
        learns: chips are made or a model is trained.
    """

    def __init__(self, classes: ClassConfig, solver: Any = None, *, of_objects: bool, learns: bool):
        self._classes, self._learns = classes, learns
        self._needed = 1 if of_objects or not learns else 2
        self._null = null = classes.null_class_id if classes.null_class else None
        self._ignored = _ignored(solver, len(classes))
        self._idle = unscored_ids(classes.names, null, self._ignored) | _weightless(solver)
        if of_objects and null is not None:
            self._idle |= {null}
        self._counts: dict[str, np.ndarray] = {}
        self._sampled: set[str] = set()

    def add(self, group: str, counts: np.ndarray, *, sampled: bool) -> None:
        """Add the labels of a scene.

        Args:
            group: train, validation or test.
            counts: (classes,) how many labels have each class.
            sampled: not all of them were looked at.
        """
        self._counts[group] = counts + self._counts.get(group, 0)
        if sampled:
            self._sampled.add(group)

    def lacks(self, group: str, counts: np.ndarray) -> bool:
        """Whether a group needs labels of more classes than it and a scene's counts have."""
        return len(self._found(counts + self._counts.get(group, 0))) < self._needed

    def check_config(self) -> list[InputError]:
        """Return what is wrong with the classes, before any label is looked at."""
        usable = [i for i in range(len(self._classes)) if i not in self._idle]
        if not self._learns or len(usable) >= self._needed:
            return []
        left = f"only {self._name(usable[0])}" if usable else "no class"
        what = f"{left} is trained and scored, so the scores would say nothing"
        return [InputError(what, where="class_config", fix=self._fix())]

    def check(self) -> tuple[list[InputError], list[str]]:
        """Return errors and warnings for what the labels of all scenes together hold."""
        train = self._counts.get("train")
        if train is None:
            return [], []
        errors = [*self._check_training(train), *self._check_validation()]
        return errors, [] if errors else [*self._rare(train), *self._alone()]

    def _check_training(self, train: np.ndarray) -> Iterator[InputError]:
        found = self._found(train)
        if len(found) >= self._needed:
            return
        if set(found) <= {self._null}:
            what = "no training label has any class but the null class"
            fix = "look at the label files and at the class config's names and colors"
            yield InputError(what, fix=fix)
            return
        others = [self._name(i) for i in np.flatnonzero(train) if i in self._idle]
        what = f"the training labels have one class to learn, {self._name(found[0])}"
        if others:
            what += f", beside {' and '.join(others)}"
        yield InputError(f"{what}; scores would say nothing", fix=self._fix())

    def _check_validation(self) -> Iterator[InputError]:
        counts = self._counts.get("validation")
        if counts is not None and self._learns and not self._found(counts):
            what = "no validation label has any class that is scored"
            fix = "give dataset.validation_scenes a scene with labels"
            yield InputError(what, fix=fix)

    def _rare(self, train: np.ndarray) -> list[str]:
        """Classes that no training label has."""
        parts = "train" in self._sampled
        where = "in the parts of the training labels looked at" if parts else "in training"
        return [
            f"class {self._classes.names[i]} ({i}) does not occur {where}"
            for i in range(len(self._classes))
            if i != self._null and not train[i]
        ]

    def _alone(self) -> list[str]:
        counts = self._counts.get("validation")
        if counts is None or "validation" in self._sampled:
            return []
        found = self._found(counts)
        if len(found) >= self._needed:
            return []
        return [f"all validation labels are of {self._name(found[0])}: scores will say little"]

    def _found(self, counts: np.ndarray) -> list[int]:
        return [int(i) for i in np.flatnonzero(counts) if i not in self._idle]

    def _name(self, i: int) -> str:
        return f"class {self._classes.names[i]} ({i})"

    def _fix(self) -> str:
        """The edit that is most often the right one."""
        if self._ignored is not None:
            name = self._classes.names[self._ignored]
            return (
                f"if {name} is to be learnt, set solver.ignore_class_index to None (in the "
                "template of `rvk8s init`: UNLABELLED = None); else give labels of another class"
            )
        return (
            "give the labels a second class, such as background, and name it in the class config "
            "(names and null_class)"
        )


def shared_scenes(dataset: DatasetConfig) -> list[str]:
    """Warn of scenes that score a model that was trained on them.

    The same image with other areas of interest is another scene.
    """
    trained = {key: scene.id for scene in dataset.train_scenes for key in _images(scene)}
    found = []
    for group in ("validation", "test"):
        for scene in getattr(dataset, f"{group}_scenes"):
            ids = sorted({trained[key] for key in _images(scene) if key in trained})
            if ids and not (group == "test" and scene.label_source is None):
                found.append(
                    f"{group} scene {scene.id} has the image of training scene {', '.join(ids)}: "
                    "scores of imagery that was trained on are too good"
                )
    return found


def _images(scene: SceneConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    areas = tuple(sorted(scene.aoi_uris or ()))
    for source in raster_sources(scene.raster_source):
        if isinstance(source, RasterioSourceConfig):
            for uri in [source.uris] if isinstance(source.uris, str) else source.uris:
                yield (uri if "://" in uri else os.path.realpath(uri)), areas


def _ignored(solver: Any, classes: int) -> int | None:
    """The id of the class that is not trained.

    Raster Vision's own backend counts negative ids from the end, and takes any number.
    """
    given = getattr(solver, "ignore_class_index", None)
    return given % classes if isinstance(given, int) and -classes <= given < classes else None


def _weightless(solver: Any) -> frozenset[int]:
    """Ids of classes whose weight is 0: they teach nothing."""
    weights = getattr(solver, "class_weights", None) or ()
    return frozenset(i for i, weight in enumerate(weights) if weight == 0)
