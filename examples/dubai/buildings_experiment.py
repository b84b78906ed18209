"""Dubai's buildings: object detection in the scenes of experiment.py.

Four scenes train, the fifth validates; tile4, where most buildings touch each other, is left out.
It wants a GPU: what minutes on a CPU came to is in docs/benchmarks.md.
boxes_uri is the folder of the labels, which this writes:

    python -m examples.dubai.buildings .rvk8s-demo/dubai-buildings
    rvk8s run dubai-buildings
"""

from __future__ import annotations

from os.path import join

from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    GeoJSONVectorSourceConfig,
    ObjectDetectionLabelSourceConfig,
    RasterioSourceConfig,
    SceneConfig,
)
from rastervision.core.rv_pipeline import (
    ObjectDetectionChipOptions,
    ObjectDetectionConfig,
    ObjectDetectionPredictOptions,
    ObjectDetectionWindowSamplingConfig,
)
from rastervision.fastai_backend import FastaiObjectDetectionConfig

from examples.dubai.experiment import find_data

TRAIN_IDS = ("tile1", "tile3", "tile5", "tile6")
VAL_IDS = ("tile2",)
SCENES = TRAIN_IDS + VAL_IDS
#: The edge of a chip, and the least side of a building, pixels.
CHIP, SMALLEST = 192, 12


def get_config(
    runner: str,
    root_uri: str,
    boxes_uri: str,
    raw_uri: str | None = None,
    backbone: str = "resnet18",
    pretrained: bool = False,
    features: int = 64,
    windows: int | None = None,
    num_epochs: int | None = None,
    batch_sz: int | None = None,
    lr: float = 1e-3,
    score_thresh: float = 0.3,
    seed: int = 0,
    test: bool = False,
    ranks: int = 1,
) -> ObjectDetectionConfig:
    """The pipeline for one experiment.

    Args:
        runner: name of the runner; given by Raster Vision.
        root_uri: where everything is written.
        boxes_uri: folder of tileN_buildings.geojson.
        raw_uri: folder of the scenes; default: as in experiment.py.
        windows: chips of each training scene, three of four around a building; default 250; in a
            test 40 or more.
        lr: the schedule's greatest learning rate.
        score_thresh: the least score of a box that is predicted.
        num_epochs: default 10; in a test 1.
        batch_sz: chips in a batch of all processes together; default 8; in a test 2 for each.
        test: one training scene, few chips, debug chips.
        ranks: how many processes train; given by rvk8s.

    The others are options of FastaiObjectDetectionConfig. Values may be strings.
    """
    folder = raw_uri or find_data()
    train = TRAIN_IDS[:1] if test else TRAIN_IDS
    if num_epochs is None:
        num_epochs = 1 if test else 10
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 8
    if windows is None:
        windows = max(40, 4 * ranks) if test else 250
    backend = FastaiObjectDetectionConfig(
        model={
            "backbone": backbone,
            "pretrained": pretrained,
            "anchor_sz": SMALLEST,
            "features": int(features),
        },
        # Seen from above, no direction is special.
        data={"dihedral": True, "lighting": 0.1, "debug": test},
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
            "seed": int(seed),
        },
    )
    sampling = ObjectDetectionWindowSamplingConfig(
        method="random",
        size=CHIP,
        max_windows=int(windows),
        neg_ratio=1 / 3,
        padding=0,
        ioa_thresh=0.5,
        clip=True,
    )
    return ObjectDetectionConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["building"], colors=["#d1495b"]),
            train_scenes=[_scene(folder, boxes_uri, i) for i in train],
            validation_scenes=[_scene(folder, boxes_uri, i) for i in VAL_IDS],
        ),
        backend=backend,
        chip_options=ObjectDetectionChipOptions(sampling=sampling),
        predict_options=ObjectDetectionPredictOptions(
            chip_sz=CHIP, stride=CHIP // 2, score_thresh=float(score_thresh), batch_sz=16
        ),
    )


def _scene(folder: str, boxes_uri: str, scene_id: str) -> SceneConfig:
    polygons = GeoJSONVectorSourceConfig(uris=join(boxes_uri, f"{scene_id}_buildings.geojson"))
    return SceneConfig(
        id=scene_id,
        raster_source=RasterioSourceConfig(uris=[join(folder, f"{scene_id}_image.tif")]),
        label_source=ObjectDetectionLabelSourceConfig(vector_source=polygons),
    )
