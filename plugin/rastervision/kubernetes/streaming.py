"""Which imagery on S3 is read through GDAL's /vsis3, tile by tile, instead of downloaded.

A GeoTIFF in tiles gives any window for a few requests. In strips it gives whole rows only, and
other formats have to be read from their start, so those are downloaded. Only configure, which reads
a few windows of each scene, reads strips from S3 as well.

A source whose config says allow_streaming, true or false, is left as it is; Env.STREAM "0" turns
all of it off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import RasterioError, RasterioIOError
from rastervision.core.data import (
    MultiRasterSourceConfig,
    RasterioSourceConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.data.utils.rasterio import get_aws_session

from rvk8s import storage
from rvk8s.contract import Env

if TYPE_CHECKING:
    from rastervision.core.data import DatasetConfig, RasterSourceConfig, SceneConfig

log = logging.getLogger(__name__)


def stream_tiles(dataset: DatasetConfig) -> None:
    """Set allow_streaming where the imagery of a data set is tiled GeoTIFFs on S3."""
    scenes = [*dataset.train_scenes, *dataset.validation_scenes, *dataset.test_scenes]
    streamed = 0
    for source in _candidates(scenes):
        if is_geotiff(_uri(source), tiled=True):
            source.allow_streaming = True
            streamed += 1
    if streamed:
        log.info("%d tiled GeoTIFFs are read from S3 without downloading them", streamed)


def streamed_for_check(scene: SceneConfig) -> SceneConfig:
    """A copy of a scene's config whose GeoTIFFs on S3 are not downloaded, tiled or not."""
    copied: SceneConfig = scene.model_copy(deep=True)
    for source in _candidates([copied]):
        source.allow_streaming = is_geotiff(_uri(source), tiled=False)
    return copied


def is_geotiff(uri: str, *, tiled: bool) -> bool:
    """Whether a file on S3 is a GeoTIFF; with tiled, whether it is one in tiles.

    A file that cannot be opened is none: the check of the data says what is wrong with it.
    """
    try:
        with rasterio.Env(session=get_aws_session()), rasterio.open(uri) as image:
            in_tiles = all(width < image.width for _, width in image.block_shapes)
            return image.driver == "GTiff" and (in_tiles or not tiled)
    except (RasterioError, RasterioIOError):
        return False


def raster_sources(config: RasterSourceConfig) -> Iterator[RasterSourceConfig]:
    """A raster source's config, or the parts that a compound one is made of."""
    if isinstance(config, MultiRasterSourceConfig):
        for part in config.raster_sources:
            yield from raster_sources(part)
    else:
        yield config


def _candidates(scenes: list[SceneConfig]) -> Iterator[RasterioSourceConfig]:
    """The sources that are one file on S3 and about which the user has said nothing."""
    if os.environ.get(Env.STREAM) == "0":
        return
    for scene in scenes:
        sources = [*raster_sources(scene.raster_source)]
        if isinstance(scene.label_source, SemanticSegmentationLabelSourceConfig):
            sources += raster_sources(scene.label_source.raster_source)
        for source in sources:
            if (
                isinstance(source, RasterioSourceConfig)
                and "allow_streaming" not in source.model_fields_set
                and storage.is_s3(_uri(source))
            ):
                yield source


def _uri(source: RasterioSourceConfig) -> str:
    """The URI of a source that is one file; empty for one of several."""
    uris = [source.uris] if isinstance(source.uris, str) else list(source.uris)
    return uris[0] if len(uris) == 1 else ""
