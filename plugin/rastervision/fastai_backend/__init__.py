"""fastai backends for Raster Vision.

In an experiment:

    from rastervision.fastai_backend import FastaiSemanticSegmentationConfig, SolverOptions

The training core (learner, models, options, …) is imported without Raster Vision.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rastervision.pipeline.registry import Registry

_CONFIGS = (
    "FastaiChipClassificationConfig",
    "FastaiObjectDetectionConfig",
    "FastaiSemanticSegmentationConfig",
)
_OPTIONS = (
    "ClassifierOptions",
    "DataOptions",
    "DetectorOptions",
    "ModelOptions",
    "Oversample",
    "PredictSettings",
    "SolverOptions",
    "TrainSettings",
)

__all__ = [*_CONFIGS, *_OPTIONS]

#: Raised whenever the fields of a config change, with an upgrader in config.py.
CONFIG_VERSION = 0


def register_plugin(registry: Registry) -> None:
    """Raster Vision calls this when it loads its plugins."""
    registry.set_plugin_version("rastervision.fastai_backend", CONFIG_VERSION)
    importlib.import_module("rastervision.fastai_backend.config")  # registers its configs


def __getattr__(name: str) -> Any:
    """Public names, imported when they are used: the core must not pull in Raster Vision."""
    if name in _CONFIGS:
        from rastervision.fastai_backend import config

        return getattr(config, name)
    if name in _OPTIONS:
        from rastervision.fastai_backend import options

        return getattr(options, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
