"""Refuses names that become those of files: ids of scenes, their groups, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import ImageColor

from rvk8s.errors import InputError
from rvk8s.names import fault_of_name

if TYPE_CHECKING:
    from rastervision.core.data import ClassConfig, DatasetConfig


def check_names(dataset: DatasetConfig) -> list[InputError]:
    """What is wrong with the names of a data set, a line each.

    Raster Vision writes predict/<scene id>, analyze/stats/<scene group> and, for polygons,
    class-<class id>-<class name>.json.
    """
    groups = {
        "train": dataset.train_scenes,
        "validation": dataset.validation_scenes,
        "test": dataset.test_scenes,
    }
    named = [
        (scene.id, f"id of {group} scene {_short(scene.id)}")
        for group, scenes in groups.items()
        for scene in scenes
    ]
    named += [(name, f"dataset.scene_groups {_short(name)}") for name in dataset.scene_groups]
    classes = dataset.class_config
    # Reports name the class that has none by its number; see check_classes().
    named += [
        (name, f"class_config.names {_short(name)}") for name in classes.names if name.strip()
    ]
    errors = []
    for name, where in named:
        fault = fault_of_name(name)
        if fault:
            what, fix = fault
            errors.append(InputError(what, where=where, fix=fix))
    return errors


def check_colors(classes: ClassConfig) -> list[InputError]:
    """What is wrong with the colours of classes, a line each."""
    errors = []
    for name, color in zip(classes.names, classes.colors or (), strict=False):
        try:
            if isinstance(color, str):
                ImageColor.getrgb(color)
        except ValueError:
            where, fix = (
                f"class_config.colors: {name}",
                "give a name of CSS, such as red, or #rrggbb",
            )
            errors.append(InputError(f"{color!r} is no colour", where=where, fix=fix))
    return errors


def _short(name: str) -> str:
    """A name as an error shows it."""
    return name if name.isprintable() and 0 < len(name) <= 60 else f"{name[:60]!r}"
