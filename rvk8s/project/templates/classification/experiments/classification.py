"""Chip classification of your own GeoTIFFs: a class for every cell of a grid.

Put the scenes where data_uri in rvk8s.yaml says:

    data/images/NAME.tif        the image, or NAME.tiff: any number of bands; uint8, uint16, float32
    data/labels/NAME.geojson    its labels: polygons, each with a property class_name (or class_id)

A cell has the class of the polygon that covers most of it, and BACKGROUND's where none covers
enough. So the polygons may be the cells themselves, or outlines of what is to be found in them.

Set CLASSES below and the validation scenes in rvk8s.yaml, then

    rvk8s run classification --test    one small epoch: does it work at all?
    rvk8s run classification           the real thing

The last lines of a run say where the scores and the pictures lie.
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
from rastervision.kubernetes.image_files import image_files

# Name -> colour in the pictures. The order counts: the first class has class_id 0 in the labels.
CLASSES = {
    "no_building": "#808080",
    "building": "#d62728",
}
# The class of cells that no polygon covers.
BACKGROUND = "no_building"

# The least part of a cell that a polygon has to cover to give it its class.
COVERED = 0.1

# The bands to use, counted from 0. The pretrained backbone knows three; others are adapted.
BANDS = [0, 1, 2]

# The edge of a cell, in pixels: of a training chip, and of a prediction window.
CELL_SIZE = 128


def get_config(
    runner: str,
    root_uri: str,
    data_uri: str,
    validation: list[str] | str,
    backbone: str = "resnet18",
    pretrained: bool = True,
    num_epochs: int | None = None,
    batch_sz: int | None = None,
    lr: float = 1e-3,
    test: bool = False,
    ranks: int = 1,
) -> ChipClassificationConfig:
    """The pipeline of one run.

    The arguments come from rvk8s.yaml with the types that they have there; those given with -a on
    the command line are strings, as in `rastervision run`, and so they are converted here.

    Args:
        runner: the name of Raster Vision's runner.
        root_uri: the run's folder; rvk8s gives it.
        data_uri: the folder of images/ and labels/.
        validation: names of the scenes that score the model; with -a: "scene1,scene2".
        backbone: resnet18, resnet34, resnet50, resnet101, or another classifier of torchvision.
        pretrained: start from ImageNet's weights, which are downloaded once.
        num_epochs: how often every chip is seen; 20 unless given, in a test 1.
        batch_sz: chips in a batch, 16 unless given; halve it when memory runs out.
        lr: the greatest learning rate.
        test: set by --test: few chips, and one epoch.
        ranks: how many processes train, which share each batch; rvk8s gives it.
    """
    if num_epochs is None:
        num_epochs = 1 if test else 20
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 16
    if isinstance(validation, str):
        validation = validation.split(",")
    images = image_files(join(data_uri, "images"))
    missing = sorted(set(validation) - set(images))
    if missing:
        raise ValueError(f"no images of the validation scenes {missing} in {data_uri}/images")

    def scene(name: str) -> SceneConfig:
        return make_scene(name, images[name], join(data_uri, "labels", f"{name}.geojson"))

    dataset = DatasetConfig(
        class_config=ClassConfig(names=list(CLASSES), colors=list(CLASSES.values())),
        train_scenes=[scene(name) for name in images if name not in validation],
        validation_scenes=[scene(name) for name in validation],
    )
    # Cells side by side. For more training chips give a smaller stride.
    sampling = WindowSamplingConfig(size=CELL_SIZE, stride=CELL_SIZE)

    backend = FastaiChipClassificationConfig(
        model={"backbone": backbone, "pretrained": pretrained},
        # Seen from above, every direction is as good as another: all 8 flips and quarter turns.
        data={"dihedral": True, "train_count": max(32, 4 * ranks) if test else None, "debug": True},
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
            # Rare classes count as much as frequent ones.
            "class_weights": "balanced",
        },
    )
    return ChipClassificationConfig(
        root_uri=root_uri,
        dataset=dataset,
        backend=backend,
        chip_options=ChipOptions(sampling=sampling),
        # Scored are cells that are prediction windows: these have to be the cells of the labels.
        predict_options=PredictOptions(chip_sz=CELL_SIZE, stride=CELL_SIZE),
    )


def make_scene(name: str, image: str, label: str) -> SceneConfig:
    """An image and its labels."""
    polygons = GeoJSONVectorSourceConfig(uris=label)
    return SceneConfig(
        id=name,
        raster_source=RasterioSourceConfig(uris=[image], channel_order=BANDS),
        label_source=ChipClassificationLabelSourceConfig(
            vector_source=polygons,
            background_class_id=list(CLASSES).index(BACKGROUND),
            use_intersection_over_cell=True,
            ioa_thresh=COVERED,
            cell_sz=CELL_SIZE,
            infer_cells=True,
        ),
    )
