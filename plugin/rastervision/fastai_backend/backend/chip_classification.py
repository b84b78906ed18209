"""Chip classification with fastai, as Raster Vision's pipeline calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rastervision.core.box import Box
from rastervision.core.data import ChipClassificationLabels
from rastervision.fastai_backend.backend.base import FastaiBackend
from rastervision.fastai_backend.backend.cells import ClassifiedScene
from rastervision.fastai_backend.backend.scenes import prediction_windows
from rastervision.fastai_backend.georeference import ensure_transform

if TYPE_CHECKING:
    from rastervision.core.data import Scene
    from rastervision.core.rv_pipeline import PredictOptions


class FastaiChipClassification(FastaiBackend):
    """A class for each chip."""

    scene_reader = ClassifiedScene

    def predict_scene(
        self, scene: Scene, predict_options: PredictOptions
    ) -> ChipClassificationLabels:
        """Predict a scene: the class of each window, and the probabilities of all classes."""
        from rastervision.fastai_backend.predict import Cells

        windows, out = prediction_windows(scene, predict_options), Cells()
        self.loaded().predict(
            self.scene_reader(scene), windows, out, batch_sz=predict_options.batch_sz
        )
        ensure_transform(scene)
        return ChipClassificationLabels.from_predictions(
            [Box(*window) for window in windows], out.probabilities
        )
