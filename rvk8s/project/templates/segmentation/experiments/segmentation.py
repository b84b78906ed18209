"""Semantic segmentation of your own GeoTIFFs: a class for every pixel.

Put the scenes where data_uri in rvk8s.yaml says:

    data/images/NAME.tif    the image, or NAME.tiff: any number of bands; uint8, uint16 or float32
    data/labels/NAME.tif    its labels: one band of class ids, the same size as the image

Set CLASSES below and the validation scenes in rvk8s.yaml, then

    rvk8s run segmentation --test    one small epoch: does it work at all?
    rvk8s run segmentation           the real thing

The last lines of a run say where the scores and the pictures lie.
"""

from __future__ import annotations

from os.path import join

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
from rastervision.kubernetes.image_files import image_files

# Name -> colour in the pictures. The order counts: the first class has id 0 in the labels.
CLASSES = {
    "background": "#808080",
    "building": "#d62728",
    "road": "#f5f5f5",
    "vegetation": "#2ca02c",
    "unlabelled": "#000000",
}
# Pixels of this class teach nothing and are not scored. Its id also stands for missing imagery.
# None where every pixel of your labels has one of the other classes: take it out of CLASSES then.
UNLABELLED: str | None = "unlabelled"

# The bands to use, counted from 0. The pretrained backbone knows three; others are adapted.
BANDS = [0, 1, 2]

# The edge of a training chip and of a prediction window, in pixels.
CHIP_SIZE = 256


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
) -> SemanticSegmentationConfig:
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

    if UNLABELLED not in (None, *CLASSES):
        raise ValueError(f"UNLABELLED, {UNLABELLED!r}, is none of CLASSES")

    labels = image_files(join(data_uri, "labels"))

    def scene(name: str) -> SceneConfig:
        label = labels.get(name, join(data_uri, "labels", f"{name}.tif"))
        return make_scene(name, images[name], label)

    dataset = DatasetConfig(
        class_config=ClassConfig(
            names=list(CLASSES), colors=list(CLASSES.values()), null_class=UNLABELLED
        ),
        train_scenes=[scene(name) for name in images if name not in validation],
        validation_scenes=[scene(name) for name in validation],
    )
    # Windows side by side. For more chips give a smaller stride, or sample at random:
    # WindowSamplingConfig(method="random", size=CHIP_SIZE, max_windows=500)
    sampling = WindowSamplingConfig(size=CHIP_SIZE, stride=CHIP_SIZE)

    backend = FastaiSemanticSegmentationConfig(
        model={"backbone": backbone, "pretrained": pretrained},
        # Seen from above, every direction is as good as another: all 8 flips and quarter turns.
        data={"dihedral": True, "train_count": max(16, 4 * ranks) if test else None, "debug": True},
        solver={
            "num_epochs": int(num_epochs),
            "batch_sz": int(batch_sz),
            "lr": float(lr),
            "ignore_class_index": None if UNLABELLED is None else list(CLASSES).index(UNLABELLED),
        },
    )
    return SemanticSegmentationConfig(
        root_uri=root_uri,
        dataset=dataset,
        backend=backend,
        chip_options=SemanticSegmentationChipOptions(sampling=sampling),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=CHIP_SIZE),
    )


def make_scene(name: str, image: str, label: str) -> SceneConfig:
    """An image and its labels."""
    return SceneConfig(
        id=name,
        raster_source=RasterioSourceConfig(uris=[image], channel_order=BANDS),
        label_source=SemanticSegmentationLabelSourceConfig(
            raster_source=RasterioSourceConfig(uris=[label])
        ),
    )
