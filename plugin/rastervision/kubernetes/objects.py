"""Looks at the labels of an object detection: whether their classes are known, and windows show
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rastervision.core.rv_pipeline import ObjectDetectionWindowSamplingConfig
from rastervision.fastai_backend.backend.objects import DetectedScene, ObjectWindows
from rastervision.fastai_backend.backend.scenes import windows_of
from rastervision.fastai_backend.windows import RandomWindows
from rastervision.kubernetes.cells import check_class_ids

if TYPE_CHECKING:
    from rastervision.core.data import Scene
    from rastervision.core.rv_pipeline import WindowSamplingConfig

#: Windows drawn at random that are looked at.
_DRAWN = 20


def boxes_by_class(scene: Scene, num_classes: int, where: str) -> np.ndarray:
    """How many boxes a scene has of each class, (classes,) int64.

    Raises:
        InputError: a class is unknown.
    """
    ids = scene.label_source.get_labels().get_class_ids().astype(np.int64)
    check_class_ids(ids, num_classes, where)
    return np.bincount(ids, minlength=num_classes)


def check_object_windows(scene: Scene, sampling: WindowSamplingConfig, where: str) -> list[str]:
    """Warn of a scene with objects of which its chips show none.

    Raises:
        InputError: windows shall be drawn around objects and cannot be.
    """
    windows = windows_of(scene, sampling, seed=0)
    if isinstance(windows, RandomWindows):
        drawn = DetectedScene(scene, sampling).labelled(windows)
        if isinstance(drawn, ObjectWindows):
            for i in range(min(drawn.count, _DRAWN)):
                drawn.draw(0, i)
            return []
        largest = windows.heights[1] - 1, windows.widths[1] - 1
    elif not windows:
        return []
    else:
        largest = windows[0].height, windows[0].width
    boxes = scene.label_source.get_labels().get_npboxes()
    sides = boxes[:, 2:] - boxes[:, :2]
    if not len(boxes) or not isinstance(sampling, ObjectDetectionWindowSamplingConfig):
        return []
    seen = np.minimum(sides, largest).prod(1) / np.maximum(sides.prod(1), 1e-9)
    if (seen >= sampling.ioa_thresh).any():
        return []
    size = " x ".join(map(str, largest))
    text = f"{where}: its chips of {size} show none of its {len(boxes)} objects by more than "
    return [f"{text}ioa_thresh {sampling.ioa_thresh:g}"]
