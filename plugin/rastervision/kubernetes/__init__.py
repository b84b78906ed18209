"""The stages of a pipeline as processes or pods, and Raster Vision's S3 without the aws program.

Importing this package is cheap: the entry point of every stage lies in it, and a stage that finds
itself done ends before Raster Vision or torch are imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rastervision.pipeline.registry import Registry


def register_plugin(registry: Registry) -> None:
    """Called by Raster Vision when it loads its plugins."""
    from rastervision.kubernetes import bundling, corrections, mosaic
    from rastervision.kubernetes.runner import KUBERNETES, KubernetesRunner
    from rastervision.kubernetes.s3 import StorageFileSystem, correct_request_payer

    registry.set_plugin_version("rastervision.kubernetes", 0)
    registry.add_runner(KUBERNETES, KubernetesRunner)
    # The first file system that knows a URI is taken, and Raster Vision's own knows s3:// too.
    registry.file_systems.insert(0, StorageFileSystem)
    correct_request_payer()
    mosaic.install()
    corrections.install()
    bundling.install()
