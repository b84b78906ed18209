"""Scenes whose windows have one class each, as Raster Vision's label source reads or infers it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rastervision.core.box import Box
from rastervision.core.data.label_source.chip_classification_label_source import infer_cells
from rastervision.fastai_backend.backend.scenes import RasterVisionScene, Windows
from rastervision.fastai_backend.chips import LabelKind
from rastervision.fastai_backend.windows import RandomWindows, Window

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import ChipClassificationLabelSource, Scene
    from rastervision.core.rv_pipeline import WindowSamplingConfig

log = logging.getLogger(__name__)

#: Stands for no class where Raster Vision's inference needs a number. A large one: with
#: pick_min_class_id the smallest is taken, also of polygons that cover too little.
_NONE = 2**31 - 1
#: Windows drawn at random whose classes are remembered: those that a batch reads next.
_MOST_DRAWN = 1000


class ClassifiedScene(RasterVisionScene):
    """A Raster Vision scene as a SceneReader, with a class for each window."""

    label_kind: LabelKind = "chip"

    def __init__(self, scene: Scene, sampling: WindowSamplingConfig | None = None):
        super().__init__(scene, sampling)
        self.labels_in_strips = False
        #: The class of fixed windows, and of some that were drawn; None: they have none.
        self._known: dict[Window, int | None] = {}
        self._drawn: dict[Window, int | None] = {}

    def labels(self, window: Window) -> np.ndarray:
        """The class of a window, uint8 of shape ().

        Raises:
            InputError: it has none, or one beyond 255; the scene has no label source.
        """
        class_id = self.class_of(window)
        if class_id is None:
            raise InputError(f"scene {self.id} has no label for {window}")
        if not 0 <= class_id <= 255:
            raise InputError(f"scene {self.id} has label ids outside 0 to 255")
        return np.array(class_id, np.uint8)

    def labelled(self, windows: Windows) -> Windows:
        """Those of some windows that have a class.

        All do where the label source has a background_class_id. Without one Raster Vision 0.31
        fails at the first window that no label covers.
        """
        if isinstance(windows, RandomWindows):
            inside = windows.inside
            return replace(
                windows,
                inside=lambda w: (inside is None or inside(w)) and self.class_of(w) is not None,
                wanted="that has a label" + (f" and lies {windows.wanted}" if inside else ""),
                advice="look at the labels' place and at ioa_thresh, set background_class_id, or "
                "raise max_sample_attempts",
            )
        found = self.with_class(windows)
        if len(found) < len(windows):
            log.warning(
                "%s: %d of %d windows have no label and are left out; with "
                "label_source.background_class_id they would be of that class",
                *(self.id, len(windows) - len(found), len(windows)),
            )
        return found

    def with_class(self, windows: Sequence[Window]) -> list[Window]:
        """Those windows that have one."""
        self._known |= self._look_up(windows)
        return [window for window in windows if self._known[window] is not None]

    def class_of(self, window: Window) -> int | None:
        """The class of a window, None where it has none."""
        if window in self._known:
            return self._known[window]
        if window not in self._drawn:
            if len(self._drawn) >= _MOST_DRAWN:
                self._drawn.clear()
            self._drawn |= self._look_up([window])
        return self._drawn[window]

    def shares(self, other: RasterVisionScene) -> None:
        assert isinstance(other, ClassifiedScene)
        self._known, self._drawn = other._known, other._drawn

    def _look_up(self, windows: Sequence[Window]) -> dict[Window, int | None]:
        """The classes of windows: of cells that the source has, else inferred, all at once."""
        source: ChipClassificationLabelSource = self.label_source()
        cells = {window: Box(*window).to_global_coords(source.bbox) for window in windows}
        inferred = None
        if unknown := [cell for cell in cells.values() if cell not in source.labels]:
            config = source.cfg
            background = config.background_class_id
            inferred = infer_cells(
                cells=unknown,
                labels_df=source.labels_df,
                ioa_thresh=config.ioa_thresh,
                use_intersection_over_cell=config.use_intersection_over_cell,
                pick_min_class_id=config.pick_min_class_id,
                background_class_id=_NONE if background is None else background,
            )
        found: dict[Window, int | None] = {}
        for window, cell in cells.items():
            labels = source.labels if inferred is None or cell in source.labels else inferred
            class_id = labels.get_cell_class_id(cell)
            found[window] = None if class_id == _NONE else class_id
        return found
