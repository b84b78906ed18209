"""Dubai, cell by cell: chip classification of the scenes of experiment.py.

Each cell of 96 x 96 pixels is built up, land, vegetation or water. Four scenes train, two validate.
cells_uri is the folder of the labels, which this writes:

    python -m examples.dubai.cells .rvk8s-demo/dubai-cells
    rvk8s run dubai-cells
"""

from __future__ import annotations

from os.path import join

from rastervision.core.data import (
    ChipClassificationLabelSourceConfig,
    ClassConfig,
    DatasetConfig,
    GeoJSONVectorSourceConfig,
    RasterioSourceConfig,
    SceneConfig,
)
from rastervision.core.rv_pipeline import (
    ChipClassificationConfig,
    ChipOptions,
    PredictOptions,
    WindowSamplingConfig,
)
from rastervision.fastai_backend import FastaiChipClassificationConfig

from examples.dubai.experiment import find_data

TRAIN_IDS = ("tile1", "tile3", "tile4", "tile5")
VAL_IDS = ("tile2", "tile6")
SCENES = TRAIN_IDS + VAL_IDS
CLASSES = {
    "built up": "#d1495b",
    "land": "#d9b88a",
    "vegetation": "#5fae3b",
    "water": "#2f6fd0",
}
#: The edge of a cell, pixels.
CELL = 96


def get_config(
    runner: str,
    root_uri: str,
    cells_uri: str,
    raw_uri: str | None = None,
    backbone: str = "resnet18",
    pretrained: bool = False,
    chip_sz: int = 64,
    train_stride: int = 64,
    num_epochs: int | None = None,
    batch_sz: int | None = None,
    lr: float = 2e-3,
    seed: int = 0,
    test: bool = False,
    ranks: int = 1,
) -> ChipClassificationConfig:
    """The pipeline for one experiment.

    Args:
        runner: name of the runner; given by Raster Vision.
        root_uri: where everything is written.
        cells_uri: folder of tileN_cells.geojson.
        raw_uri: folder of the scenes; default: as in experiment.py.
        chip_sz: cells are resized to this many pixels for the network.
        train_stride: pixels from one training chip to the next; those between the cells have the
            class of the one that they show most of.
        lr: the schedule's greatest learning rate.
        num_epochs: default 5; in a test 1.
        batch_sz: chips in a batch of all processes together; default 32; in a test 2 for each.
        test: one training scene, few chips, debug chips.
        ranks: how many processes train; given by rvk8s.

    The others are options of FastaiChipClassificationConfig. Values may be strings.
    """
    folder = raw_uri or find_data()
    train = TRAIN_IDS[:1] if test else TRAIN_IDS
    if num_epochs is None:
        num_epochs = 1 if test else 5
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 32
    cells = WindowSamplingConfig(size=CELL, stride=CELL, padding=0)
    denser = WindowSamplingConfig(size=CELL, stride=int(train_stride), padding=0)
    backend = FastaiChipClassificationConfig(
        model={"backbone": backbone, "pretrained": pretrained},
        # Seen from above, no direction is special.
        data={
            "img_sz": int(chip_sz),
            "dihedral": True,
            "lighting": 0.1,
            "train_count": max(64, 4 * ranks) if test else None,
            "debug": test,
        },
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
            "seed": int(seed),
        },
        predict={"tta": True},
    )
    return ChipClassificationConfig(
        root_uri=root_uri,
        dataset=DatasetConfig(
            class_config=ClassConfig(names=list(CLASSES), colors=list(CLASSES.values())),
            train_scenes=[_scene(folder, cells_uri, i) for i in train],
            validation_scenes=[_scene(folder, cells_uri, i) for i in VAL_IDS],
        ),
        backend=backend,
        chip_options=ChipOptions(
            sampling=dict.fromkeys(train, denser) | dict.fromkeys(VAL_IDS, cells)
        ),
        predict_options=PredictOptions(chip_sz=CELL, stride=CELL, batch_sz=32),
    )


def _scene(folder: str, cells_uri: str, scene_id: str) -> SceneConfig:
    squares = GeoJSONVectorSourceConfig(uris=join(cells_uri, f"{scene_id}_cells.geojson"))
    return SceneConfig(
        id=scene_id,
        raster_source=RasterioSourceConfig(uris=[join(folder, f"{scene_id}_image.tif")]),
        label_source=ChipClassificationLabelSourceConfig(
            vector_source=squares,
            use_intersection_over_cell=True,
            # A chip between four cells has the class of the one that it shows most of.
            ioa_thresh=0.25,
        ),
    )
