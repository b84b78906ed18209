"""What configure says of scenes and options that would end the chip stage, the training or the
prediction, or would train on labels that nobody gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import scenes
from rastervision.core.data import (
    CastTransformerConfig,
    ClassConfig,
    RasterioSourceConfig,
    ReclassTransformerConfig,
)
from rastervision.core.rv_pipeline import SemanticSegmentationConfig, WindowSamplingConfig
from rastervision.kubernetes import inputs
from said import check_lines, says

from rvk8s.errors import InputError

SIZE = scenes.SIZE
ALL = ("analyze", "chip", "train", "predict", "eval", "bundle")
NULL = {"names": ["none", "field", "house"], "null_class": "none"}


def said(config: SemanticSegmentationConfig, commands: Sequence[str] = ALL) -> list[str]:
    errors, _ = inputs.check(config, 0, 1, commands)
    return [str(error) for error in errors]


def fails(config: SemanticSegmentationConfig, folder: Path) -> str:
    """What the chip stage ends with."""
    with pytest.raises((InputError, ValueError)) as error:
        config.build(str(folder)).chip()
    return str(error.value)


def test_nothing_is_wrong_with_the_tiny_experiment(config: SemanticSegmentationConfig) -> None:
    assert said(config) == []


def test_scenes_of_other_bands_or_pixel_types(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    fix = "channel_order…CastTransformerConfig…"
    one = config.dataset.train_scenes[1].raster_source
    one.channel_order = [0, 1]
    (line,) = said(config)
    first = "…train_a…3 bands of uint8…"
    assert says(line, f"train scene train_b: {first}train_b…2 of uint8; …{fix}")
    assert says(fails(config, tmp_path), "…train_b…2 of uint8…")
    one.channel_order = [0, 1, 2]
    one.transformers = [CastTransformerConfig(to_dtype="uint16")]
    check_lines(said(config), [f"train scene train_b: {first}train_b…3 of uint16; …{fix}"])
    assert said(config, ["predict"]) == []
    # A validation scene's chips are a part of their own, but of the same training.
    one.transformers = []
    config.dataset.validation_scenes[0].raster_source.channel_order = [2]
    (line,) = said(config)
    assert says(line, f"validation scene val_a: {first}val_a…1 of uint8; …{fix}")


def test_test_scenes_need_the_bands_alone(config: SemanticSegmentationConfig) -> None:
    (*_, other) = config.dataset.validation_scenes
    test = other.model_copy(deep=True)
    test.id, config.dataset.test_scenes = "test", [test]
    test.raster_source.transformers = [CastTransformerConfig(to_dtype="uint16")]
    assert said(config) == []
    test.raster_source.channel_order = [0]
    (line,) = said(config)
    assert says(line, "test scene test: …train_a…3 bands of uint8…test…1…")


@pytest.mark.parametrize("group", ["train", "validation"])
def test_scenes_without_labels(
    config: SemanticSegmentationConfig, group: str, tmp_path: Path
) -> None:
    one = getattr(config.dataset, f"{group}_scenes")[0]
    one.label_source = None
    what = "…no label_source…semantic segmentation…"
    check_lines(said(config), [f"{group} scene {one.id}: {what}"])
    assert said(config, ["predict", "bundle"]) == []
    assert "has no label_source" in fails(config, tmp_path)


def random_windows(**options: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(method="random", size=64, max_windows=3, padding=0, **options)


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"size_lims": (64, 64)}, "size_lims", "no size…64…below 64; …(64, 65)"),
        ({"size_lims": (96, 64)}, "size_lims", "no size…96…below 64; …(64, 97)"),
        ({"h_lims": (64, 65), "w_lims": (64, 64)}, "w_lims", "no size…64…below 64; …(64, 65)"),
    ],
)
def test_random_windows_of_no_size(
    config: SemanticSegmentationConfig,
    options: dict[str, Any],
    key: str,
    message: str,
    tmp_path: Path,
) -> None:
    config.chip_options.sampling = random_windows(**options)
    check_lines(said(config), [f"sampling.{key}: {message}…"])
    assert "low >= high" in fails(config, tmp_path)
    config.chip_options.sampling = random_windows(size_lims=(64, 65))
    assert said(config) == []


def test_chips_that_do_not_go_into_one_batch(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    flat = WindowSamplingConfig(size=(48, 64), stride=64)
    config.chip_options.sampling = flat
    check_lines(said(config), ["data.img_sz: …48x64…one batch; …resized…"])
    assert "one batch" in fails(config, tmp_path)
    sizes = dict(zip(scenes.SCENES, (48, 64, 64, 64), strict=True))
    config.chip_options.sampling = {
        name: WindowSamplingConfig(size=size, stride=size) for name, size in sizes.items()
    }
    (found,) = said(config)
    assert says(found, "…48x48, 64x64…one batch…")
    del config.chip_options.sampling["val_b"]
    assert len(said(config)) == 2
    config.chip_options.sampling = flat
    config.backend.data.img_sz = 64
    assert said(config) == []


def relabel(path: Path, change: Callable[[np.ndarray], None], nodata: int | None = None) -> None:
    """Change a label's ids (height, width) in place, and write its nodata value."""
    with rasterio.open(path) as file:
        ids, profile = file.read(1), {**file.profile, "nodata": nodata}
    change(ids)
    with rasterio.open(path, "w", **profile) as file:
        file.write(ids, 1)


def corner(value: int) -> Callable[[np.ndarray], None]:
    def change(ids: np.ndarray) -> None:
        ids[:40, :40] = value

    return change


def test_labels_whose_nodata_value_would_be_a_class(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    label = tmp_path / "label_train_b.tif"
    where = f"train scene train_b: …nodata…{{}}…{label}…class 0 (field); "
    relabel(label, corner(255), 255)
    unset = "…`rio edit-info --unset-nodata`…"
    check_lines(said(config), [f"{where.format(255)}{unset}255…ReclassTransformer…"])
    # As the line says:
    relabel(label, corner(255))
    source = config.dataset.train_scenes[1].label_source.raster_source
    source.transformers = [ReclassTransformerConfig(mapping={255: 2})]
    assert said(config) == []
    source.transformers = []
    # A class's own id.
    relabel(label, corner(1), 1)
    (line,) = said(config)
    assert says(line, f"{where.format(1)}{unset}")
    assert "ReclassTransformer" not in line
    # It does not occur; and what is 0 anyway.
    relabel(label, corner(1), 255)
    assert said(config) == []
    relabel(label, corner(0), 0)
    assert said(config) == []


def test_a_nodata_value_that_is_read_as_no_class(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    config.dataset.class_config = ClassConfig(**NULL)
    for name in scenes.SCENES:
        relabel(tmp_path / f"label_{name}.tif", lambda ids: np.add(ids, 1, out=ids))
    relabel(tmp_path / "label_train_b.tif", corner(255), 255)
    assert said(config) == []
    config.backend.solver.ignore_class_index = 0
    assert said(config) == []
    # Of the null class are then also the pixels of another one.
    relabel(tmp_path / "label_train_b.tif", corner(2), 2)
    (line,) = said(config)
    assert says(line, "…nodata…2…label…class 0 (none)…")


def test_a_label_with_a_mask(config: SemanticSegmentationConfig, tmp_path: Path) -> None:
    label = tmp_path / "label_train_b.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(label, "r+") as file:
        file.write_mask(file.read(1) == 0)
    (line,) = said(config)
    assert says(line, f"…mask…{label}…class 0…")


def test_the_nodata_value_of_a_part_of_a_larger_label(
    config: SemanticSegmentationConfig, tmp_path: Path
) -> None:
    """Looked at where the scene is, and nowhere else."""
    one, label = config.dataset.train_scenes[1], tmp_path / "label_train_b.tif"
    relabel(label, corner(255), 255)
    image = one.raster_source
    one.raster_source = RasterioSourceConfig(
        uris=image.uris, channel_order=[0, 1, 2], bbox=(40, 0, SIZE, SIZE)
    )
    assert said(config) == []
    one.raster_source = RasterioSourceConfig(
        uris=image.uris, channel_order=[0, 1, 2], bbox=(39, 0, SIZE, SIZE)
    )
    assert len(said(config)) == 1
