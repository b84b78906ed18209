"""Labels from which nothing can be learnt, or by which anything would score well."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.kubernetes.label_checks import LabelCounts, shared_scenes
from said import check_lines

TWO = ["building", "background"]


def counts(
    names: list[str] = TWO, null: str | None = None, *, objects: bool = False, **solver: Any
) -> LabelCounts:
    classes = ClassConfig(names=names, colors=["red", "green", "blue"][: len(names)])
    classes.null_class = null
    if null is None and not objects:
        classes.ensure_null_class()
    found = SimpleNamespace(**solver)
    return LabelCounts(classes, found, of_objects=objects, learns=True)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (counts(), []),
        (counts(null="background"), []),
        (counts(objects=True, names=["car"]), []),
        (counts(ignore_class_index=1), ["class_config: only class building (0)…set solver.ignore"]),
        (counts(null="background", ignore_class_index=1), ["class_config: only class building"]),
        (counts(null="background", ignore_class_index=-1), ["class_config: only class building"]),
        (counts(class_weights=[1, 0, 0]), ["class_config: only class building (0)"]),
        (counts(names=["building"]), ["class_config: only class building (0)…second class"]),
        (counts(names=["a", "b", "c"], ignore_class_index=1), []),
    ],
)
def test_two_classes_are_trained_and_scored(labels: LabelCounts, wanted: list[str]) -> None:
    check_lines([str(error) for error in labels.check_config()], [f"{one}…" for one in wanted])


@pytest.mark.parametrize(
    ("train", "validation", "wanted"),
    [
        ([5, 5, 0], [3, 3, 0], []),
        (
            [5, 0, 0],
            [3, 3, 0],
            ["the training labels have one class to learn, class building"],
        ),
        ([5, 0, 9], [3, 3, 0], ["…one class to learn, class building (0), beside class null (2);"]),
        ([0, 0, 9], [3, 3, 0], ["no training label"]),
        ([5, 5, 0], [0, 0, 9], ["no validation label"]),
        ([5, 5, 0], [3, 0, 9], ["warning: all validation labels are of class building (0)"]),
    ],
)
def test_labels_hold_two_classes(
    train: list[int], validation: list[int], wanted: list[str]
) -> None:
    labels = counts()
    labels.add("train", np.array(train), sampled=False)
    labels.add("validation", np.array(validation), sampled=False)
    errors, warnings = labels.check()
    found = [*map(str, errors), *(f"warning: {one}" for one in warnings)]
    check_lines(found, [f"{one}…" for one in wanted])


@pytest.mark.parametrize(("sampled", "where"), [(False, "in training"), (True, "looked at")])
def test_a_class_without_labels_is_a_warning(sampled: bool, where: str) -> None:
    labels = counts(names=["a", "b", "c"])
    labels.add("train", np.array([5, 5, 0, 0]), sampled=sampled)
    errors, warnings = labels.check()
    assert errors == []
    check_lines(warnings, [f"class c (2)…{where}"])


def test_one_class_of_objects_is_enough() -> None:
    labels = counts(objects=True, names=["car"])
    labels.add("train", np.array([3]), sampled=False)
    labels.add("validation", np.array([1]), sampled=False)
    assert labels.check() == ([], [])
    labels = counts(objects=True, names=["car"])
    labels.add("train", np.array([3]), sampled=False)
    labels.add("validation", np.array([0]), sampled=False)
    check_lines([str(error) for error in labels.check()[0]], ["no validation label…"])


def test_a_scene_lacks_a_class_until_it_is_seen() -> None:
    labels = counts()
    assert labels.lacks("train", np.array([7, 0, 0]))
    labels.add("train", np.array([0, 1, 0]), sampled=True)
    assert not labels.lacks("train", np.array([7, 0, 0]))
    assert labels.lacks("validation", np.array([7, 0, 0]))


def scene(name: str, image: str, aoi: str | None = None, labelled: bool = True) -> SceneConfig:
    source = RasterioSourceConfig(uris=[image])
    label = SemanticSegmentationLabelSourceConfig(
        raster_source=RasterioSourceConfig(uris=["l.tif"])
    )
    return SceneConfig(
        id=name,
        raster_source=source,
        label_source=label if labelled else None,
        aoi_uris=[aoi] if aoi else [],
    )


@pytest.mark.parametrize(
    ("validation", "test", "wanted"),
    [
        ([scene("a", "a.tif")], [], ["validation scene a …training scene a:"]),
        ([scene("c", "./x/../a.tif")], [], ["validation scene c …training scene a:"]),
        ([scene("c", "c.tif")], [scene("d", "s3://b/k.tif")], ["test scene d …training scene b:"]),
        ([scene("c", "a.tif", aoi="east.json")], [], []),
        ([scene("c", "c.tif")], [scene("a2", "a.tif", labelled=False)], []),
    ],
)
def test_scenes_that_are_trained_on_and_scored(
    validation: list[SceneConfig], test: list[SceneConfig], wanted: list[str]
) -> None:
    dataset = DatasetConfig(
        class_config=ClassConfig(names=TWO, colors=["red", "green"]),
        train_scenes=[scene("a", "a.tif"), scene("b", "s3://b/k.tif")],
        validation_scenes=validation,
        test_scenes=test,
    )
    check_lines(shared_scenes(dataset), [f"{one}…" for one in wanted])
