"""Object detection in your own GeoTIFFs: a box around every object.

Put the scenes where data_uri in rvk8s.yaml says:

    data/images/NAME.tif        the image, or NAME.tiff: any number of bands; uint8, uint16, float32
    data/labels/NAME.geojson    its labels: polygons, each with a property class_name (or class_id);
                                the box around a polygon is what counts

Set CLASSES below and the validation scenes in rvk8s.yaml, then

    rvk8s run detection --test    one small epoch: does it work at all?
    rvk8s run detection           the real thing

The last lines of a run say where the scores and the pictures lie. train/log.csv says for each epoch
with which score_thresh it does best: give that to the next run, -a score_thresh 0.3.
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
from rastervision.kubernetes.image_files import image_files

# Name -> colour in the pictures. The order counts: the first class has class_id 0 in the labels.
CLASSES = {
    "car": "#d62728",
    "ship": "#1f77b4",
}

# The side of the smallest objects, in pixels. Those of up to 25 times as much are found.
SMALLEST = 16

# The bands to use, counted from 0. The pretrained backbone knows three; others are adapted.
BANDS = [0, 1, 2]

# The edge of a training chip and of a prediction window, in pixels.
CHIP_SIZE = 300


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
    score_thresh: float = 0.3,
    test: bool = False,
    ranks: int = 1,
) -> ObjectDetectionConfig:
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
        batch_sz: chips in a batch, 8 unless given; halve it when memory runs out.
        lr: the greatest learning rate.
        score_thresh: the least score, from 0 to 1, of a box that is predicted.
        test: set by --test: few chips, and one epoch.
        ranks: how many processes train, which share each batch; rvk8s gives it.
    """
    if num_epochs is None:
        num_epochs = 1 if test else 20
    if batch_sz is None:
        batch_sz = 2 * ranks if test else 8
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
    # Windows that overlap by half, so that each object lies whole in one. For large scenes with few
    # objects draw windows around these, and half as many of the background:
    # ObjectDetectionWindowSamplingConfig(
    #     method="random", size=CHIP_SIZE, max_windows=500, neg_ratio=0.5)
    sampling = ObjectDetectionWindowSamplingConfig(size=CHIP_SIZE, stride=CHIP_SIZE // 2)

    backend = FastaiObjectDetectionConfig(
        model={"backbone": backbone, "pretrained": pretrained, "anchor_sz": SMALLEST},
        # Seen from above, every direction is as good as another: all 8 flips and quarter turns.
        data={"dihedral": True, "train_count": max(32, 4 * ranks) if test else None, "debug": True},
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
        },
    )
    return ObjectDetectionConfig(
        root_uri=root_uri,
        dataset=dataset,
        backend=backend,
        chip_options=ObjectDetectionChipOptions(sampling=sampling),
        predict_options=ObjectDetectionPredictOptions(
            chip_sz=CHIP_SIZE, stride=CHIP_SIZE // 2, score_thresh=float(score_thresh)
        ),
    )


def make_scene(name: str, image: str, label: str) -> SceneConfig:
    """An image and its labels."""
    polygons = GeoJSONVectorSourceConfig(uris=label)
    return SceneConfig(
        id=name,
        raster_source=RasterioSourceConfig(uris=[image], channel_order=BANDS),
        label_source=ObjectDetectionLabelSourceConfig(vector_source=polygons),
    )
