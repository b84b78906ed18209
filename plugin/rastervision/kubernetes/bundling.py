"""Lets a pipeline that was built in Python, as in a notebook, save its bundle.

Raster Vision 0.31 copies pipeline-config.json into the bundle, and only its command line writes
that file.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from rastervision.core.rv_pipeline import RVPipeline
from rastervision.pipeline.config import save_pipeline_config
from rastervision.pipeline.file_system.utils import file_exists


def install() -> None:
    """Wrap Raster Vision's function."""
    bundle = RVPipeline.bundle

    @wraps(bundle)
    def bundle_with_config(self: Any) -> None:
        uri = self.config.get_config_uri()
        if not file_exists(uri):
            save_pipeline_config(self.config, uri)
        bundle(self)

    RVPipeline.bundle = bundle_with_config  # type: ignore[method-assign]
