"""Semantic segmentation with fastai, as Raster Vision's pipeline calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rastervision.core.data import (
    SemanticSegmentationDiscreteLabels,
    SemanticSegmentationLabels,
    SemanticSegmentationSmoothLabels,
)
from rastervision.fastai_backend.backend.base import FastaiBackend
from rastervision.fastai_backend.backend.scenes import missing_windows, prediction_windows
from rastervision.fastai_backend.georeference import ensure_transform

from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import Scene
    from rastervision.core.rv_pipeline import SemanticSegmentationPredictOptions


class FastaiSemanticSegmentation(FastaiBackend):
    """A class for each pixel."""

    def predict_scene(
        self, scene: Scene, predict_options: SemanticSegmentationPredictOptions
    ) -> SemanticSegmentationLabels:
        """Predict a scene: probabilities if its label store wants them, else votes."""
        from rastervision.fastai_backend.predict import Scores, Votes

        predictor = self.loaded()
        if scene.label_store is None:
            raise InputError(f"scene {scene.id} has no label_store")
        labels = SemanticSegmentationLabels.make_empty(
            scene.extent,
            num_classes=len(scene.label_store.class_config),
            smooth=scene.label_store.smooth_output,
        )
        if isinstance(labels, SemanticSegmentationSmoothLabels):
            out: Votes | Scores = Scores(labels.pixel_scores, labels.pixel_hits)
        elif isinstance(labels, SemanticSegmentationDiscreteLabels):
            out = Votes(labels.pixel_counts, labels.hit_mask)
        predictor.predict(
            self.scene_reader(scene),
            prediction_windows(scene, predict_options),
            out,
            batch_sz=predict_options.batch_sz,
            crop_sz=predict_options.crop_sz,
            fill=missing_windows(scene, predict_options),
        )
        ensure_transform(scene)
        return labels
