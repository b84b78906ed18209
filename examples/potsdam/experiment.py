"""ISPRS Potsdam, 2D semantic labelling: the 2019 plugin's experiment on Raster Vision 0.31.

The data set (https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx) has
24 labelled scenes of 6000 x 6000 pixels at 5 cm. raw_uri is the folder that holds its own folders
4_Ortho_RGBIR and 5_Labels_for_participants. examples/synthetic.py draws scenes in this layout.

    rvk8s run potsdam -a raw_uri s3://bucket/isprs-potsdam
    rvk8s run potsdam-resnet50 --test

ISPRS's labels have no coordinate reference system, or a world file (.tfw) alone: they are read as
lying on the pixels of their images.
"""

from __future__ import annotations

import math
import os
import tempfile
from os.path import basename, join
from typing import Any

import rasterio
from rasterio.windows import Window
from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    RGBClassTransformerConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
    SemanticSegmentationLabelStoreConfig,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig
from rastervision.pipeline.file_system import download_if_needed, make_dir, upload_or_copy

# The 2019 experiment's training scenes.
TRAIN_IDS = (
    *("2_10", "2_11", "3_10", "3_11", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12"),
    *("6_10", "6_11", "6_7", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9"),
)
# 2_12, 3_12 and 6_12 validated in 2019, which left one labelled scene out: 6_8. It validates here,
# so the training data stays what it was; scores.json has every scene's own scores.
VAL_IDS = ("2_12", "3_12", "6_12", "6_8")

CLASSES = {
    "Car": "#ffff00",
    "Building": "#0000ff",
    "Low Vegetation": "#00ffff",
    "Tree": "#00ff00",
    "Impervious": "#ffffff",
    "Clutter": "#ff0000",
}
#: Which of the file's bands (red, green, blue, infrared) the network sees, and in which order.
CHANNELS = {"irrg": [3, 0, 1], "rgb": [0, 1, 2], "rgbir": [0, 1, 2, 3]}
#: A test's chips for each process that trains, and the least edge of its crops in pixels.
TEST_CHIPS, TEST_CROP = 4, 600


def get_config(
    runner: str,
    raw_uri: str,
    root_uri: str,
    processed_uri: str | None = None,
    channels: str = "irrg",
    train_ids: str | list[str] | None = None,
    val_ids: str | list[str] | None = None,
    arch: str = "unet",
    backbone: str = "resnet18",
    pretrained: bool = True,
    last_cross: bool = True,
    chip_sz: int = 300,
    pred_chip_size: int = 300,
    num_epochs: int | None = None,
    batch_sz: int | None = None,
    lr: float = 1e-4,
    one_cycle: bool = True,
    flip_vert: bool = False,
    dihedral: bool = True,
    train_prop: float = 1.0,
    train_count: int | None = None,
    oversample: dict[str, Any] | None = None,
    tta: bool = False,
    precision: str = "auto",
    predict_precision: str = "fp32",
    sync_interval: int = 10,
    nochip: bool = False,
    test: bool = False,
    ranks: int = 1,
) -> SemanticSegmentationConfig:
    """The pipeline for one experiment.

    Args:
        runner: name of the runner; given by Raster Vision.
        raw_uri: folder of the data set, as it is when unpacked.
        root_uri: where everything is written.
        processed_uri: where the crops of a test are kept; default: <root_uri>/processed.
        channels: irrg (infrared, red, green: the 2019 experiment), rgb or rgbir (all four).
        train_ids, val_ids: other scenes than the standard ones: a list, or "6_10,7_10".
        pretrained: start from ImageNet weights.
        chip_sz: size of training chips in pixels, laid side by side.
        pred_chip_size: size of prediction windows in pixels.
        num_epochs: default 5; in a test 1.
        batch_sz: chips in a batch of all processes together; default 8; in a test 2 for each.
        dihedral: what flip_vert was in 2019.
        nochip: read training windows straight from the scenes; there is no chip stage then.
        test: crops, of one scene each for training and validation unless others are named; debug
            chips.
        ranks: how many processes train; given by rvk8s.

    The others are options of FastaiSemanticSegmentationConfig. Values may be strings.
    """
    if channels not in CHANNELS:
        raise ValueError(f"channels is {channels!r}; give one of {', '.join(CHANNELS)}")
    class_config = ClassConfig(names=list(CLASSES), colors=list(CLASSES.values()))
    train, val = _ids(train_ids, TRAIN_IDS), _ids(val_ids, VAL_IDS)
    if test:
        train = train[:1] if train_ids is None else train
        val = val[:1] if val_ids is None else val
    if num_epochs is None:
        num_epochs = 1 if test else 5
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 8
    crops = processed_uri or join(root_uri, "processed")
    edge = max(TEST_CROP, int(chip_sz) * math.ceil(math.sqrt(TEST_CHIPS * ranks)))
    if "://" not in raw_uri:
        raw_uri = os.path.abspath(raw_uri)

    def scene(scene_id: str) -> SceneConfig:
        image = join(raw_uri, "4_Ortho_RGBIR", f"top_potsdam_{scene_id}_RGBIR.tif")
        label = join(raw_uri, "5_Labels_for_participants", f"top_potsdam_{scene_id}_label.tif")
        if test:
            image, label = _crop(image, crops, edge), _crop(label, crops, edge)
        return _scene(scene_id, image, label, CHANNELS[channels], class_config)

    sampling = WindowSamplingConfig(size=int(chip_sz), stride=int(chip_sz))
    backend = FastaiSemanticSegmentationConfig(
        model={
            "arch": arch,
            "backbone": backbone,
            "pretrained": pretrained,
            "last_cross": last_cross,
        },
        data={
            "flip_vert": flip_vert,
            "dihedral": dihedral,
            "train_prop": float(train_prop),
            "train_count": None if train_count is None else int(train_count),
            "oversample": oversample,
            "debug": test,
        },
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
            "schedule": "one_cycle" if one_cycle else "constant",
            "precision": precision,
            "sync_interval": int(sync_interval),
        },
        predict={"tta": tta, "precision": predict_precision},
        sampling=sampling if nochip else None,
    )
    return SemanticSegmentationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=class_config,
            train_scenes=[scene(i) for i in train],
            validation_scenes=[scene(i) for i in val],
        ),
        backend=backend,
        chip_options=SemanticSegmentationChipOptions(sampling=sampling),
        predict_options=SemanticSegmentationPredictOptions(
            chip_sz=int(pred_chip_size),
            # As many pixels as in a training batch: larger windows, fewer of them.
            batch_sz=max(1, int(batch_sz) * int(chip_sz) ** 2 // int(pred_chip_size) ** 2),
        ),
    )


def _ids(given: str | list[str] | None, standard: tuple[str, ...]) -> list[str]:
    if given is None:
        return list(standard)
    parts = given.split(",") if isinstance(given, str) else given
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"scene ids {parts} are no text; quote them (YAML reads 2_10 as 210)")
    return [part.strip().replace("-", "_") for part in parts]


def _scene(
    scene_id: str, image: str, label: str, channel_order: list[int], class_config: ClassConfig
) -> SceneConfig:
    # The labels are colours; predictions are written in the same colours.
    colours = RGBClassTransformerConfig(class_config=class_config)
    return SceneConfig(
        id=scene_id,
        raster_source=RasterioSourceConfig(uris=[image], channel_order=channel_order),
        label_source=SemanticSegmentationLabelSourceConfig(
            raster_source=RasterioSourceConfig(uris=[label], transformers=[colours])
        ),
        label_store=SemanticSegmentationLabelStoreConfig(rgb=True),
    )


def _crop(uri: str, folder: str, edge: int) -> str:
    """Copy the upper left corner of a scene into `folder`; returns the copy's URI."""
    target = join(folder, "crops", basename(uri))
    with tempfile.TemporaryDirectory() as tmp:
        with rasterio.open(download_if_needed(uri)) as source:
            side = Window(0, 0, min(edge, source.width), min(edge, source.height))
            profile = source.profile | {
                "width": side.width,
                "height": side.height,
                "transform": source.window_transform(side),
            }
            small = join(tmp, basename(uri))
            with rasterio.open(small, "w", **profile) as out:
                out.colorinterp = source.colorinterp
                out.write(source.read(window=side))
        if "://" in target:
            upload_or_copy(small, target)
        else:
            make_dir(target, use_dirname=True)
            upload_or_copy(small, f"{target}.part")
            os.replace(f"{target}.part", target)
    return target
