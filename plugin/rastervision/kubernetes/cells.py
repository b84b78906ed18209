"""Looks at the labels of a chip classification: whether windows have a class, and whether
predictions can be compared with it: Raster Vision scores cells that are prediction windows exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from rastervision.core.box import Box
from rastervision.fastai_backend.backend.cells import ClassifiedScene
from rastervision.fastai_backend.backend.scenes import prediction_windows, windows_of
from rastervision.fastai_backend.windows import RandomWindows

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import Scene
    from rastervision.core.rv_pipeline import PredictOptions, WindowSamplingConfig

#: Windows drawn at random that are looked at.
_DRAWN = 100


def check_background(scene: Scene, num_classes: int, where: str) -> None:
    """Raise InputError where cells without labels would have a class that is none."""
    given = scene.label_source.cfg.background_class_id
    if given is not None and not 0 <= given < num_classes:
        raise InputError(
            f"its label source's background_class_id is {given}",
            where=where,
            fix=f"use 0 to {num_classes - 1}",
        )


def check_class_ids(found: Iterable[int], num_classes: int, where: str) -> None:
    """Raise InputError where labels have ids that no class has."""
    ids = sorted({int(i) for i in found})
    if outside := [i for i in ids if not 0 <= i < num_classes]:
        listed = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
        raise InputError(
            f"its labels hold the class ids {listed}, the class config has 0 to {num_classes - 1}",
            where=where,
            fix="name the classes in the class config, or look at the labels' class_id",
        )


def cells_by_class(
    scene: Scene, sampling: WindowSamplingConfig, num_classes: int, where: str
) -> np.ndarray:
    """How many of a scene's chips have each class, (classes,) int64; of random ones the first.

    Raises:
        InputError: none has any.
    """
    reader = ClassifiedScene(scene)
    windows = windows_of(scene, sampling, seed=0)
    if isinstance(windows, RandomWindows):
        labelled = reader.labelled(windows)
        assert isinstance(labelled, RandomWindows)
        found = [labelled.draw(0, i) for i in range(min(windows.count, _DRAWN))]
    else:
        found = reader.with_class(windows)
    if windows and not found:
        raise InputError(
            "none of its chips has a label",
            where=where,
            fix="look at the labels' place and at ioa_thresh, or set background_class_id",
        )
    ids = [reader.class_of(window) for window in found]
    return np.bincount(np.array(ids, np.int64), minlength=num_classes)


def check_scored(scene: Scene, options: PredictOptions, where: str) -> list[str]:
    """Warn of labelled cells that are no prediction windows: they are not scored.

    Raises:
        InputError: there is no other.
    """
    source = scene.label_source
    if source.lazy:
        what = "its labels are lazy, so there are none to score"
        raise InputError(what, where=where, fix="set the label source's lazy to false")
    labels = source.get_labels()
    if scene.aoi_polygons:
        labels = labels.filter_by_aoi(scene.aoi_polygons)
    cells = labels.get_cells()
    windows = {
        Box(*window).to_global_coords(source.bbox) for window in prediction_windows(scene, options)
    }
    scored = sum(cell in windows for cell in cells)
    if not scored:
        sizes = _sizes(cells) or "none"
        stride = options.stride or options.chip_sz
        raise InputError(
            f"no cell of its labels ({sizes}) is a window of the prediction ({_sizes(windows)}, "
            f"every {stride} pixels), so nothing can be scored",
            where=where,
            fix="give predict_options the chip_sz and stride of the cells; or set the label "
            "source's infer_cells, with cell_sz and background_class_id",
        )
    if scored == len(cells):
        return []
    lost = len(cells) - scored
    return [f"{where}: {lost} of {len(cells)} labelled cells are not scored: they are no windows"]


def _sizes(boxes: Iterable[Box]) -> str:
    found = sorted({(box.height, box.width) for box in boxes})
    listed = ", ".join(f"{height} x {width}" for height, width in found[:3])
    return listed + (", ..." if len(found) > 3 else "")
