"""Object detection with fastai, as Raster Vision's pipeline calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rastervision.core.data import ObjectDetectionLabels
from rastervision.fastai_backend.backend.base import FastaiBackend
from rastervision.fastai_backend.backend.objects import DetectedScene
from rastervision.fastai_backend.backend.scenes import prediction_windows
from rastervision.fastai_backend.georeference import ensure_transform

if TYPE_CHECKING:
    from rastervision.core.data import Scene
    from rastervision.core.rv_pipeline import ObjectDetectionPredictOptions


class FastaiObjectDetection(FastaiBackend):
    """Boxes around objects."""

    scene_reader = DetectedScene

    def predict_scene(
        self, scene: Scene, predict_options: ObjectDetectionPredictOptions
    ) -> ObjectDetectionLabels:
        """Find the objects of a scene; those that windows share are merged by Raster Vision."""
        from rastervision.fastai_backend.predict import Boxes

        out = Boxes(predict_options.score_thresh)
        windows = prediction_windows(scene, predict_options)
        self.loaded().detect(
            self.scene_reader(scene), windows, out, batch_sz=predict_options.batch_sz
        )
        ensure_transform(scene)
        boxes = np.concatenate([np.zeros((0, 5)), *out.boxes])
        scores = np.concatenate([np.zeros(0), *out.scores])
        found = ObjectDetectionLabels(boxes[:, :4], boxes[:, 4].astype(int), scores)
        return ObjectDetectionLabels.prune_duplicates(
            found, predict_options.score_thresh, predict_options.merge_thresh
        )
