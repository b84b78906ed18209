"""Dubai: six real satellite scenes with pixel labels; five train, the sixth validates.

Imagery of the Mohammed Bin Rashid Space Centre, labelled by Humans in the Loop ("Semantic
segmentation of aerial imagery"; credit both). raw_uri is a folder with tileN_image.tif (RGB) and
tileN_label.tif (class ids). The scenes have no coordinate reference system, so Raster Vision works
in pixels, and predictions have none either.

    rvk8s run dubai
    RVK8S_DATA=/data rvk8s run dubai-quick

The ground resolution differs from scene to scene, so chips are windows of random sizes, resized to
one. Vegetation is the rarest class and dark, next to dark water: half of the chips that are drawn
hold some, and brightness is hardly changed (with lighting 0.3 and no oversampling it was not found
at all).
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
#: Shares of the labelled pixels of tiles 1 to 5, to the power of -0.35, mean 1: between none and
#: balanced. The last one, of unlabelled pixels, is ignored.
WEIGHTS = [0.98, 0.67, 1.14, 1.45, 0.76, 0.0]
#: Size in pixels of each training scene, to draw windows evenly.
PIXELS = {"tile1": 4.6e6, "tile2": 2.5e6, "tile3": 4.0e6, "tile4": 8.4e6, "tile5": 10.7e6}


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
    windows: int | None = None,
    window_min: int = 300,
    window_max: int = 640,
    chip_sz: int = 160,
    pred_chip_size: int = 448,
    pred_stride: int = 320,
    num_epochs: int | None = None,
    batch_sz: int | None = None,
    lr: float | None = 1e-3,
    schedule: str = "one_cycle",
    weight_decay: float = 1e-2,
    label_smoothing: float = 0.0,
    lighting: float = 0.1,
    tta: bool = True,
    precision: str = "auto",
    predict_precision: str = "auto",
    seed: int = 0,
    test: bool = False,
    ranks: int = 1,
) -> SemanticSegmentationConfig:
    """The pipeline for one experiment.

    Args:
        runner: name of the runner; given by Raster Vision.
        root_uri: where everything is written.
        raw_uri: folder of the scenes; default: $RVK8S_DATA/dubai, $RVK8S_DATA, or the folder
            shared/data/dubai beside this repository, whichever is there.
        train_ids, val_ids: other scenes: a list, or "tile1,tile2".
        windows: training chips to draw, over all scenes, by their areas; default 2000; in a test 40
            or more.
        window_min, window_max: limits of the windows' sides, in the scenes' pixels.
        chip_sz: side of a chip in pixels; windows are resized to it.
        pred_chip_size, pred_stride: prediction windows, resized like chips, and their distance.
        lr: the schedule's greatest learning rate; "find": fastai's lr_find.
        num_epochs: default 4; in a test 1.
        batch_sz: chips in a batch of all processes together; default 8; in a test 2 for each.
        test: one training scene unless others are named, few chips, debug chips.
        ranks: how many processes train; given by rvk8s.

    The others are options of FastaiSemanticSegmentationConfig. Values may be strings.
    """
    folder = raw_uri or find_data()
    train, val = _ids(train_ids, TRAIN_IDS), _ids(val_ids, VAL_IDS)
    if num_epochs is None:
        num_epochs = 1 if test else 4
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 8
    if windows is None:
        windows = max(40, 4 * ranks) if test else 2000
    if test and train_ids is None:
        train = train[:1]
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
            "img_sz": int(chip_sz),
            # Seen from above, no direction is special.
            "dihedral": True,
            "lighting": float(lighting),
            "oversample": {
                "rare_class_ids": [list(CLASSES).index("vegetation")],
                "rare_target_prop": 0.5,
                "rare_min_prop": 0.08,
            },
            "debug": test,
        },
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": None if lr is None or lr == "find" else float(lr),
            "schedule": schedule,
            "weight_decay": float(weight_decay),
            "label_smoothing": float(label_smoothing),
            "class_weights": WEIGHTS,
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
            sampling=_sampling(
                train, val, int(windows), int(chip_sz), int(window_min), int(window_max)
            )
        ),
        predict_options=SemanticSegmentationPredictOptions(
            chip_sz=int(pred_chip_size), stride=int(pred_stride), crop_sz="auto", batch_sz=8
        ),
    )


def _sampling(
    train: list[str], val: list[str], windows: int, size: int, low: int, high: int
) -> dict[str, WindowSamplingConfig]:
    """Random windows of each scene: training scenes by their areas, a tenth as many to validate."""
    pixels = {i: PIXELS.get(i, 6e6) for i in train}
    counts = {i: windows * p / sum(pixels.values()) for i, p in pixels.items()}
    counts |= {i: windows / 10 / len(val) for i in val if i not in counts}
    return {
        scene_id: WindowSamplingConfig(
            method="random",
            size=size,
            size_lims=(low, high + 1),
            max_windows=max(1, round(count)),
            padding=0,
        )
        for scene_id, count in counts.items()
    }


def find_data() -> str:
    """The folder of the scenes, as raw_uri says above.

    Raises:
        FileNotFoundError: they are in none of the places.
    """
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
