"""Raster Vision's side of the backends, and with config.py all that imports Raster Vision.

semantic_segmentation, chip_classification and object_detection are what its pipelines call, base
what they share; scenes, cells and objects turn its scenes, samplings, classes and labels into the
core's own; evaluation and scene_views write what the eval stage adds.
"""

from rastervision.fastai_backend.backend.chip_classification import FastaiChipClassification
from rastervision.fastai_backend.backend.object_detection import FastaiObjectDetection
from rastervision.fastai_backend.backend.semantic_segmentation import FastaiSemanticSegmentation

__all__ = ["FastaiChipClassification", "FastaiObjectDetection", "FastaiSemanticSegmentation"]
