"""Which imagery on S3 is read through GDAL's /vsis3, tile by tile, instead of downloaded.

A GeoTIFF in tiles gives any window for a few requests. In strips it gives whole rows only, and
other formats have to be read from their start, so those are downloaded. Only configure, which reads
a few windows of each scene, reads strips from S3 as well.

Only scenes that one process reads are streamed, so a pipeline needs our backend and chips:

- Where windows are trained on without chips, every epoch reads the imagery again.
- Processes that a data loader forks share GDAL's connections with each other, and then get each
  other's pixels, without an error. Raster Vision's own backends chip and predict with such ones.

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
from rastervision.fastai_backend.config import FastaiConfig

from rvk8s import storage
from rvk8s.contract import Env
from rvk8s.errors import InputError

if TYPE_CHECKING:
    from rastervision.core.data import RasterSourceConfig, SceneConfig
    from rastervision.core.rv_pipeline import RVPipelineConfig

log = logging.getLogger(__name__)


def stream_tiles(config: RVPipelineConfig) -> None:
    """Set allow_streaming where the imagery of a pipeline is tiled GeoTIFFs on S3."""
    backend = config.backend
    if not isinstance(backend, FastaiConfig) or backend.sampling is not None:
        return
    streamed = 0
    for source in _candidates(_scenes(config)):
        uris = _uris(source)
        if all(is_geotiff(uri, tiled=True) for uri in uris):
            source.allow_streaming = True
            streamed += len(uris)
    if streamed:
        log.info("%d tiled GeoTIFFs are read from S3 without downloading them", streamed)


def check(config: RVPipelineConfig) -> list[InputError]:
    """What would give wrong pixels: streamed scenes that forked processes read."""
    backend = config.backend
    if isinstance(backend, FastaiConfig) and backend.sampling is None:
        return []  # its workers read chips
    # Raster Vision's own chip and predict with such processes, too.
    workers = getattr(getattr(backend, "data", None), "num_workers", 0)
    sources = [source for scene in _scenes(config) for source in _sources(scene)]
    if not workers or not any(source.allow_streaming for source in sources):
        return []
    what = f"data.num_workers is {workers} and scenes have allow_streaming"
    fix = "set num_workers to 0, or leave out allow_streaming: they would share connections"
    return [InputError(what, fix=fix)]


def streamed_for_check(scene: SceneConfig) -> SceneConfig:
    """A copy of a scene's config whose GeoTIFFs on S3 are not downloaded, tiled or not."""
    copied: SceneConfig = scene.model_copy(deep=True)
    for source in _candidates([copied]):
        source.allow_streaming = all(is_geotiff(uri, tiled=False) for uri in _uris(source))
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
    """The sources that are files on S3 and about which the user has said nothing."""
    if os.environ.get(Env.STREAM) == "0":
        return
    for source in (source for scene in scenes for source in _sources(scene)):
        if "allow_streaming" not in source.model_fields_set and all(
            map(storage.is_s3, _uris(source))
        ):
            yield source


def _scenes(config: RVPipelineConfig) -> list[SceneConfig]:
    dataset = config.dataset
    return [*dataset.train_scenes, *dataset.validation_scenes, *dataset.test_scenes]


def _sources(scene: SceneConfig) -> Iterator[RasterioSourceConfig]:
    """The files of a scene's image and label."""
    sources = [*raster_sources(scene.raster_source)]
    if isinstance(scene.label_source, SemanticSegmentationLabelSourceConfig):
        sources += raster_sources(scene.label_source.raster_source)
    yield from (source for source in sources if isinstance(source, RasterioSourceConfig))


def _uris(source: RasterioSourceConfig) -> list[str]:
    return [source.uris] if isinstance(source.uris, str) else list(source.uris)
