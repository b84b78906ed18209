"""Raster Vision's side of the backend, and with config.py all that imports Raster Vision.

semantic_segmentation is the backend that its pipeline calls; scenes turns its scenes, samplings and
classes into the core's own; evaluation and scene_views write what the eval stage adds.
"""

from rastervision.fastai_backend.backend.semantic_segmentation import FastaiSemanticSegmentation

__all__ = ["FastaiSemanticSegmentation"]
