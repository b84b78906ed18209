"""Dubai: six real satellite scenes with pixel labels; five train, the sixth validates.

Imagery of the Mohammed Bin Rashid Space Centre, labelled by Humans in the Loop ("Semantic
segmentation of aerial imagery"; credit both). raw_uri is a folder with tileN_image.tif (RGB) and
tileN_label.tif (class ids). The scenes have no coordinate reference system, so Raster Vision works
in pixels, and predictions have none either.

    rvk8s run dubai
    RVK8S_DATA=/data rvk8s run dubai-quick
"""

from __future__ import annotations

import os
from os.path import join
from pathlib import Path

from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationLabelSourceConfig,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig

TRAIN_IDS = ("tile1", "tile2", "tile3", "tile4", "tile5")
VAL_IDS = ("tile6",)
CLASSES = {
    "building": "#d1495b",
    "land": "#d9b88a",
    "road": "#f4e04d",
    "vegetation": "#5fae3b",
    "water": "#2f6fd0",
    "unlabelled": "#9b9b9b",
}
UNLABELLED = "unlabelled"


def get_config(
    runner: str,
    root_uri: str,
    raw_uri: str | None = None,
    train_ids: str | list[str] | None = None,
    val_ids: str | list[str] | None = None,
    arch: str = "unet",
    backbone: str = "resnet18",
    pretrained: bool = False,
    last_cross: bool = False,
    chip_sz: int = 256,
    stride: int = 192,
    img_sz: int | None = None,
    pred_chip_size: int = 512,
    num_epochs: int = 12,
    batch_sz: int = 8,
    lr: float | str | None = 1e-3,
    schedule: str = "one_cycle",
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    balanced: bool = False,
    lighting: float = 0.2,
    train_prop: float = 1.0,
    tta: bool = False,
    precision: str = "auto",
    predict_precision: str = "fp32",
    seed: int = 0,
    test: bool = False,
) -> SemanticSegmentationConfig:
    """The pipeline for one experiment.

    Args:
        runner: name of the runner; given by Raster Vision.
        root_uri: where everything is written.
        raw_uri: folder of the scenes; default: $RVK8S_DATA/dubai, $RVK8S_DATA, or the folder
            shared/data/dubai beside this repository, whichever is there.
        train_ids, val_ids: other scenes: a list, or "tile1,tile2".
        chip_sz, stride: size of training chips and the distance between them, in pixels.
        img_sz: resize chips to this many pixels for training; default: as they are.
        pred_chip_size: size of prediction windows in pixels.
        lr: the schedule's greatest learning rate; "find": fastai's lr_find.
        balanced: weight classes in the loss by the inverse of their share of the pixels.
        test: one training scene, one epoch, debug chips.

    The others are options of FastaiSemanticSegmentationConfig. Values may be strings.
    """
    folder = raw_uri or _find_data()
    train, val = _ids(train_ids, TRAIN_IDS), _ids(val_ids, VAL_IDS)
    if test:
        train, num_epochs = train[:1], 1
    class_config = ClassConfig(
        names=list(CLASSES), colors=list(CLASSES.values()), null_class=UNLABELLED
    )
    backend = FastaiSemanticSegmentationConfig(
        model={
            "arch": arch,
            "backbone": backbone,
            "pretrained": pretrained,
            "last_cross": last_cross,
        },
        data={
            "img_sz": None if img_sz is None else int(img_sz),
            # Seen from above, no direction is special.
            "dihedral": True,
            "lighting": float(lighting),
            "train_prop": float(train_prop),
            "debug": test,
        },
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": None if lr is None or lr == "find" else float(lr),
            "schedule": schedule,
            "weight_decay": float(weight_decay),
            "label_smoothing": float(label_smoothing),
            "class_weights": "balanced" if balanced else None,
            "ignore_class_index": list(CLASSES).index(UNLABELLED),
            "precision": precision,
            "seed": int(seed),
        },
        predict={"tta": tta, "precision": predict_precision},
    )
    return SemanticSegmentationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=class_config,
            train_scenes=[_scene(folder, i) for i in train],
            validation_scenes=[_scene(folder, i) for i in val],
        ),
        backend=backend,
        chip_options=SemanticSegmentationChipOptions(
            sampling=WindowSamplingConfig(size=int(chip_sz), stride=int(stride))
        ),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=int(pred_chip_size), batch_sz=4),
    )


def _find_data() -> str:
    given = os.environ.get("RVK8S_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "dubai"
    places = [Path(given, "dubai"), Path(given)] if given else [beside]
    for place in places:
        if (place / "tile1_image.tif").is_file():
            return str(place.resolve())
    looked = " or ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"no tile1_image.tif in {looked}; set RVK8S_DATA or give -a raw_uri FOLDER"
    )


def _ids(given: str | list[str] | None, standard: tuple[str, ...]) -> list[str]:
    if given is None:
        return list(standard)
    parts = given.split(",") if isinstance(given, str) else given
    return [part.strip() for part in parts]


def _scene(folder: str, scene_id: str) -> SceneConfig:
    return SceneConfig(
        id=scene_id,
        raster_source=RasterioSourceConfig(uris=[join(folder, f"{scene_id}_image.tif")]),
        label_source=SemanticSegmentationLabelSourceConfig(
            raster_source=RasterioSourceConfig(uris=[join(folder, f"{scene_id}_label.tif")])
        ),
    )
