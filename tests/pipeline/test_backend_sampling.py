"""Which chips the fastai backend makes of scenes: areas of interest, sizes, what is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from noisescenes import HEIGHT, WIDTH, chips, everything, pipeline, sliding
from pyproj import Transformer
from rastervision.core.rv_pipeline import SemanticSegmentationConfig, WindowSamplingConfig
from rastervision.fastai_backend.backend.scenes import RasterVisionScene
from rastervision.fastai_backend.chips import ChipSource
from rastervision.fastai_backend.store import StoredChips
from rastervision.fastai_backend.windows import Window
from shapely.geometry import box

from rvk8s.errors import InputError

Boxes = list[tuple[int, int, int, int]]


def area(path: Path, scene: str, boxes: Boxes) -> list[str]:
    """A GeoJSON file of boxes (ymin, xmin, ymax, xmax), pixels of a scene's image."""
    with rasterio.open(scene) as image:
        to_degrees = Transformer.from_crs(image.crs, "EPSG:4326", always_xy=True).transform
        rings = [
            [to_degrees(*(image.transform * p)) for p in box(x0, y0, x1, y1).exterior.coords]
            for y0, x0, y1, x1 in boxes
        ]
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [r]}}
        for r in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return [str(path)]


def with_area(tmp: Path, boxes: Boxes, sampling: Any) -> SemanticSegmentationConfig:
    cfg = pipeline(tmp, sampling)
    for scene in (*cfg.dataset.train_scenes, *cfg.dataset.validation_scenes):
        scene.aoi_uris = area(tmp / f"{scene.id}.json", scene.raster_source.uris, boxes)
    return cfg


def drawn(low: int = 48, high: int = 49, **kwargs: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(
        method="random", size=48, size_lims=(low, high), max_windows=20, **kwargs
    )


def without_store(
    cfg: SemanticSegmentationConfig, sampling: Any, tmp: Path, group: str = "train"
) -> ChipSource:
    """The chips as training reads them where there is no chip stage."""
    cfg.backend.sampling = sampling
    source: ChipSource = cfg.backend.build(cfg, str(tmp))._chips(group)
    return source


@pytest.mark.parametrize(
    ("boxes", "sampling"),
    [
        ([(-1000, -1000, 1500, 1500)], drawn(padding=0)),
        ([(20, 20, 120, 120)], drawn(40, 120)),
        ([(64, 64, 114, 114), (100, 140, 150, 190), (150, 150, 200, 200)], drawn(padding=0)),
    ],
    ids=["larger than the scene", "smaller than the largest window", "two far apart, one beyond"],
)
def test_random_windows_fill_the_area_of_interest(
    tmp_path: Path, boxes: Boxes, sampling: WindowSamplingConfig
) -> None:
    cfg = with_area(tmp_path, boxes, sampling)
    images, labels = everything(chips(cfg, tmp_path, splits=2))
    assert len(images) == 40
    assert (labels < 3).all()  # nothing beyond the scene's edges
    direct = without_store(cfg, sampling, tmp_path).read(np.arange(40), 0)
    np.testing.assert_array_equal(images, direct[0])
    np.testing.assert_array_equal(labels, direct[1])


def test_an_area_without_room_for_a_window_is_an_error(tmp_path: Path) -> None:
    cfg = with_area(tmp_path, [(20, 20, 120, 60)], drawn())
    with pytest.raises(InputError, match=r"no window of 48x48 .*area of interest"):
        chips(cfg, tmp_path)


@pytest.mark.parametrize(
    "sampling",
    [drawn(96, 97, padding=0), {"a": sliding(96, 16), "b": sliding(80, 16), "v": sliding()}],
    ids=["random", "sliding"],
)
def test_chips_are_dropped_for_their_pixels_and_not_for_the_windows(
    tmp_path: Path, sampling: Any
) -> None:
    # Not all chips of 48 x 48 have 720 pixels of class 0; all windows of 80 x 80 and more do.
    options = {"target_class_ids": [0], "target_count_threshold": 720, "negative_survival_prob": 0}
    cfg = pipeline(tmp_path, sampling, options=options, backend={"data": {"img_sz": 48}})
    stored = chips(cfg, tmp_path)
    assert len(stored)
    direct = without_store(cfg, sampling, tmp_path)
    for labels in everything(stored)[1], direct.read(np.arange(len(direct)), 0)[1]:
        assert labels.shape[1:] == (48, 48)
        assert ((labels == 0).sum((1, 2)) >= 720).all()


def test_chips_of_all_groups_and_splits_have_one_size(tmp_path: Path) -> None:
    sampling = {"a": sliding(48), "b": sliding(48), "c": sliding(56), "v": sliding(64)}
    train = ("a", "b", "c")
    cfg = pipeline(tmp_path, sampling, backend={"data": {"img_sz": 40}}, train=train)
    assert chips(cfg, tmp_path, splits=2).size == 40
    assert StoredChips(Path(cfg.chip_uri), "valid", ["v"]).size == 40
    assert {without_store(cfg, sampling, tmp_path, g).size for g in ("train", "valid")} == {40}
    cfg = pipeline(tmp_path, sampling, train=train)
    with pytest.raises(InputError, match=r"48x48, 56x56, 64x64 .*one batch"):
        chips(cfg, tmp_path, splits=3)


@pytest.mark.parametrize(
    "window",
    [(-10, -20, 38, 28), (130, 170, 178, 218), (20, -9, 40, 200), (160, 0, 200, 9), (0, 0, 48, 48)],
)
def test_labels_beyond_the_scene_are_the_null_class(
    tmp_path: Path, window: tuple[int, int, int, int]
) -> None:
    cfg = pipeline(tmp_path, sliding())
    classes = cfg.dataset.class_config
    scene = RasterVisionScene(cfg.dataset.train_scenes[0].build(classes, str(tmp_path)))
    w = Window(*window)
    whole = np.pad(scene.labels(Window(0, 0, HEIGHT, WIDTH)), 60, constant_values=3)
    expected = whole[w.ymin + 60 : w.ymax + 60, w.xmin + 60 : w.xmax + 60]
    np.testing.assert_array_equal(scene.labels(w), expected)
    assert classes.null_class_id == 3
