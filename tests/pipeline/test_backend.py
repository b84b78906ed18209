"""The fastai backend in a pipeline: its chips and predictions equal Raster Vision's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rastervision.core.box import Box
from rastervision.core.data import (
    ClassConfig,
    DatasetConfig,
    MinMaxTransformerConfig,
    RasterioSourceConfig,
    SceneConfig,
    SemanticSegmentationDiscreteLabels,
    SemanticSegmentationLabelSourceConfig,
    SemanticSegmentationLabelStoreConfig,
    SemanticSegmentationSmoothLabels,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationChipOptions,
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
    WindowSamplingConfig,
    WindowSamplingMethod,
)
from rastervision.fastai_backend import FastaiSemanticSegmentationConfig, bundle
from rastervision.fastai_backend.backend import FastaiSemanticSegmentation
from rastervision.fastai_backend.backend.scenes import prediction_windows
from rastervision.fastai_backend.models import ModelSpec
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor
from rastervision.fastai_backend.store import StoredChips
from rastervision.pipeline.config import build_config, save_pipeline_config
from rastervision.pipeline.file_system.utils import file_to_json
from s3server import S3Server
from torch import nn

from rvk8s import storage
from rvk8s.errors import InputError

HEIGHT, WIDTH = 150, 190

#: Raster Vision's own warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(path: Path, array: np.ndarray, **profile: Any) -> str:
    """Write (bands, height, width) as a GeoTIFF."""
    bands, height, width = array.shape
    transform = from_origin(366_000, 5_808_000, 0.5, 0.5)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=array.dtype,
        crs="EPSG:32633", transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(array)
    return str(path)


def scene(
    folder: Path, name: str, seed: int, bands: int = 3, dtype: str = "uint8", **source: Any
) -> SceneConfig:
    """A scene of noise on three classes; its upper left corner holds no data."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (HEIGHT // 10, WIDTH // 10)).repeat(10, 0).repeat(10, 1)
    top = {"uint8": 255, "uint16": 4000, "float32": 1.0}[dtype]
    image = (label[None] + 1 + rng.random((bands, HEIGHT, WIDTH))) / 4 * top
    image[:, :64, :64] = 0
    uri = write(
        folder / f"{name}.tif", image.astype(dtype), tiled=True, blockxsize=64, blockysize=64
    )
    label_uri = write(folder / f"{name}-label.tif", label[None].astype(np.uint8))
    return SceneConfig(
        id=name,
        raster_source=RasterioSourceConfig(uris=uri, **source),
        label_source=SemanticSegmentationLabelSourceConfig(
            raster_source=RasterioSourceConfig(uris=label_uri)
        ),
    )


def sliding(size: int = 48, stride: int = 32, **kwargs: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(size=size, stride=stride, **kwargs)


def drawn(count: int = 12, **kwargs: Any) -> WindowSamplingConfig:
    return WindowSamplingConfig(
        method=WindowSamplingMethod.random, size=48, size_lims=(30, 60), max_windows=count, **kwargs
    )


def pipeline(
    folder: Path,
    sampling: Any,
    *,
    backend: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    train: tuple[str, ...] = ("a", "b"),
    **scenes: Any,
) -> SemanticSegmentationConfig:
    """A pipeline with scenes a and b to train on and v to validate, updated and validated."""
    values: dict[str, Any] = {
        "model": {"arch": "deeplabv3", "backbone": "mobilenet_v3_small", "pretrained": False},
        "solver": {"num_epochs": 1, "batch_sz": 4, "precision": "fp32", "log_tensorboard": False},
    }
    cfg = SemanticSegmentationConfig(
        root_uri=str(folder / "run"),
        dataset=DatasetConfig(
            class_config=ClassConfig(names=["x", "y", "z"], colors=["red", "#00ff00", (0, 0, 255)]),
            train_scenes=[scene(folder, name, i, **scenes) for i, name in enumerate(train)],
            validation_scenes=[scene(folder, "v", 9, **scenes)],
        ),
        backend=FastaiSemanticSegmentationConfig(**(values | (backend or {}))),
        chip_options=SemanticSegmentationChipOptions(sampling=sampling, **(options or {})),
        predict_options=SemanticSegmentationPredictOptions(chip_sz=48, batch_sz=4),
    )
    cfg.update()
    cfg.recursive_validate_config()
    return cfg


def chips(cfg: SemanticSegmentationConfig, tmp: Path, splits: int = 1) -> StoredChips:
    """Chip and return the training chips."""
    built = cfg.build(str(tmp))
    for i in range(splits):
        built.chip(split_ind=i, num_splits=splits)
    return StoredChips(Path(cfg.chip_uri), "train", [s.id for s in cfg.dataset.train_scenes])


def everything(source: StoredChips) -> tuple[np.ndarray, np.ndarray]:
    return source.read(np.arange(len(source)), 0)


def test_config_survives_its_file(tmp_path: Path) -> None:
    options = {
        "model": {"arch": "deeplabv3", "backbone": "resnet50"},
        "data": {"oversample": {"rare_class_ids": [1], "rare_target_prop": 0.5}},
        "solver": {"class_weights": [1, 2, 3, 1], "lr": None},
        "predict": {"tta": True, "precision": "bf16"},
        "sampling": {"a": drawn(), "b": sliding(), "v": sliding()},
    }
    cfg = pipeline(tmp_path, sliding(), backend=options)
    save_pipeline_config(cfg, str(tmp_path / "config.json"))
    again = build_config(file_to_json(str(tmp_path / "config.json")))
    assert again.backend == cfg.backend
    assert type(again.backend) is type(cfg.backend)
    assert again.backend.data.oversample.rare_target_prop == 0.5
    assert again.backend.settings() == cfg.backend.settings()
    assert "chip" not in again.build(str(tmp_path)).commands
    assert "chip" in pipeline(tmp_path, sliding()).build(str(tmp_path)).commands


@pytest.mark.parametrize(
    ("sampling", "source"),
    [
        (sliding(), {}),
        (sliding(48, 48, padding=0), {"channel_order": [2, 0]}),
        (sliding(48, 60, pad_direction="both", padding=10), {}),
        (sliding(), {"transformers": [MinMaxTransformerConfig()]}),
        (sliding(), {"bands": 5, "dtype": "uint16"}),
        (sliding(), {"bbox": (10, 20, 130, 150)}),
    ],
    ids=["overlapping", "two bands", "padded", "each chip scaled", "uint16", "crop of the scene"],
)
def test_chips_equal_raster_visions(tmp_path: Path, sampling: Any, source: dict[str, Any]) -> None:
    from rastervision.pytorch_learner import SemanticSegmentationSlidingWindowGeoDataset

    cfg = pipeline(tmp_path, sampling, train=("a",), **source)
    images, labels = everything(chips(cfg, tmp_path))
    built = cfg.dataset.train_scenes[0].build(cfg.dataset.class_config, str(tmp_path))
    dataset = SemanticSegmentationSlidingWindowGeoDataset(
        built,
        size=sampling.size,
        stride=sampling.stride,
        padding=sampling.padding,
        pad_direction=sampling.pad_direction,
        normalize=False,
        to_pytorch=False,
    )
    pairs = [dataset[i] for i in range(len(dataset))]
    kept = [(x, y) for x, y in pairs if cfg.chip_options.keep_chip(x, y)]
    np.testing.assert_array_equal(images, np.stack([x for x, _ in kept]))
    np.testing.assert_array_equal(labels, np.stack([y for _, y in kept]))
    assert images.dtype == kept[0][0].dtype


def test_splits_give_the_same_chips(tmp_path: Path) -> None:
    cfg = pipeline(tmp_path, drawn(), train=("a", "b", "c"))
    images, labels = everything(chips(cfg, tmp_path))
    again, again_labels = everything(chips(cfg, tmp_path, splits=2))
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, again_labels)
    parts = sorted(p.name for p in Path(cfg.chip_uri).iterdir())
    assert parts == [
        "train-0000-0002-of-0003",
        "train-0002-0003-of-0003",
        "valid-0000-0001-of-0001",
    ]


def test_chip_options_drop_chips(tmp_path: Path) -> None:
    cfg = pipeline(tmp_path, sliding(), options={"nodata_threshold": 0.1})
    images, _ = everything(chips(cfg, tmp_path))
    assert (images.any(axis=3).mean(axis=(1, 2)) > 0.9).all()
    target = {"target_class_ids": [0], "target_count_threshold": 700}
    seldom = target | {"negative_survival_prob": 0.3}
    counts = chips(pipeline(tmp_path, sliding(), options=target | {"negative_survival_prob": 0}),
                   tmp_path).class_pixels()  # fmt: skip
    assert (counts[:, 0] >= 700).all()
    some = chips(pipeline(tmp_path, sliding(), options=seldom), tmp_path)
    np.random.seed(99)  # chipping again draws the same
    assert len(some) == len(chips(pipeline(tmp_path, sliding(), options=seldom), tmp_path))
    assert len(counts) < len(some)


def test_sampling_by_scene(tmp_path: Path) -> None:
    sampling = {"a": sliding(48), "b": sliding(32), "v": drawn()}
    with pytest.raises(InputError, match="chips of 32x32, 48x48 pixels don't go into one batch"):
        chips(pipeline(tmp_path, sampling), tmp_path)
    cfg = pipeline(tmp_path, sampling, backend={"data": {"img_sz": 40}})
    assert chips(cfg, tmp_path).size == 40
    del sampling["b"]
    with pytest.raises(InputError, match="sampling has no entry for scene b"):
        chips(pipeline(tmp_path, sampling), tmp_path)


def test_pixels_that_are_no_number_are_no_data(tmp_path: Path) -> None:
    cfg = pipeline(tmp_path, sliding(), train=("a",), dtype="float32")
    with rasterio.open(cfg.dataset.train_scenes[0].raster_source.uris, "r+") as file:
        image = file.read()
        image[:, 64:80, 64:80] = np.nan
        file.write(image)
    images, _ = everything(chips(cfg, tmp_path))
    assert images.dtype == np.float32
    assert np.isfinite(images).all()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network whose predictions have structure: it has normalisation and overlapping views."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, padding=3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 4, 9, padding=4),
    )
    model(torch.rand(8, 3, 48, 48))
    return model.eval()


def raster_vision_labels(network: nn.Module, built: Any, options: Any) -> Any:
    """What Raster Vision predicts with a network on imagery scaled to [0, 1]."""
    from rastervision.pytorch_learner import (
        SemanticSegmentationGeoDataConfig,
        SemanticSegmentationLearner,
        SemanticSegmentationLearnerConfig,
    )
    from rastervision.pytorch_learner.utils import predict_scene_ss

    data = SemanticSegmentationGeoDataConfig(
        class_config=built.label_store.class_config, num_workers=0, img_sz=48
    )
    learner = SemanticSegmentationLearner(
        SemanticSegmentationLearnerConfig(data=data), model=network, training=False
    )
    return predict_scene_ss(learner, built, options)


@pytest.mark.parametrize(
    ("options", "smooth"),
    [
        ({}, False),
        ({"stride": 20}, False),
        ({"stride": 20}, True),
        ({"stride": 24, "crop_sz": "auto"}, False),
        ({"stride": 24, "crop_sz": "auto"}, True),
    ],
    ids=["apart", "votes", "scores", "cropped votes", "cropped scores"],
)
def test_every_pixel_equals_raster_visions(
    tmp_path: Path, network: nn.Module, options: dict[str, Any], smooth: bool
) -> None:
    cfg = pipeline(tmp_path, sliding())
    config = cfg.dataset.validation_scenes[0]
    config.label_store = SemanticSegmentationLabelStoreConfig(
        uri=str(tmp_path / "out"), smooth_output=smooth
    )
    built = config.build(cfg.dataset.class_config, str(tmp_path))
    predict = SemanticSegmentationPredictOptions(chip_sz=48, batch_sz=4, **options)
    theirs = raster_vision_labels(network, built, predict)
    names = tuple(cfg.dataset.class_config.names)
    spec = ModelSpec("unet", "resnet18", 3, names, names, 3, (0.0,) * 3, (255.0,) * 3, 48)
    backend = FastaiSemanticSegmentation(cfg, cfg.backend, str(tmp_path))
    backend.predictor = ScenePredictor(network, spec, PredictSettings())
    ours = backend.predict_scene(built, predict)
    assert type(ours) is type(theirs)
    if isinstance(ours, SemanticSegmentationSmoothLabels):
        np.testing.assert_array_equal(ours.pixel_scores, theirs.pixel_scores)
        np.testing.assert_array_equal(ours.pixel_hits, theirs.pixel_hits)
    if isinstance(ours, SemanticSegmentationDiscreteLabels):
        assert len(np.unique(ours.get_label_arr(ours.extent))) >= 3
        assert ours == theirs


@pytest.mark.parametrize("size", [(2514, 2577), (448, 640), (100, 700), (641, 641)])
def test_cropped_windows_leave_no_pixel_out(size: tuple[int, int]) -> None:
    scene: Any = SimpleNamespace(extent=Box(0, 0, *size), aoi_polygons_bbox_coords=[])
    options = SemanticSegmentationPredictOptions(chip_sz=448, stride=320, crop_sz="auto")
    covered = np.zeros(size, bool)
    for ymin, xmin, ymax, xmax in prediction_windows(scene, options):
        covered[max(ymin + 64, 0) : max(ymax - 64, 0), max(xmin + 64, 0) : max(xmax - 64, 0)] = True
    assert covered.all()


def run(cfg: SemanticSegmentationConfig, tmp: Path) -> np.ndarray:
    """Run all commands of the pipeline; returns the predicted labels of scene v."""
    save_pipeline_config(cfg, cfg.get_config_uri())
    built = cfg.build(str(tmp))
    for command in built.commands:
        getattr(built, command)()
    with rasterio.open(Path(cfg.predict_uri) / "v" / "labels.tif") as file:
        return file.read(1)


def test_training_from_windows_needs_no_chips(tmp_path: Path) -> None:
    cfg = pipeline(
        tmp_path, sliding(), backend={"sampling": drawn(8)}, options={"nodata_threshold": 0.5}
    )
    assert run(cfg, tmp_path).shape == (HEIGHT, WIDTH)
    assert not Path(cfg.chip_uri).exists()
    assert (Path(cfg.bundle_uri) / "model-bundle.zip").exists()


@pytest.mark.parametrize(("bands", "dtype"), [(5, "uint16"), (1, "float32")])
def test_bands_and_pixel_types(tmp_path: Path, bands: int, dtype: str) -> None:
    cfg = pipeline(tmp_path, sliding(64, 64), bands=bands, dtype=dtype, train=("a",))
    assert run(cfg, tmp_path).shape == (HEIGHT, WIDTH)
    spec = bundle.load(Path(cfg.train_uri) / bundle.NAME)[1]
    assert (spec.channels, spec.dtype, spec.null_id) == (bands, dtype, 3)
    assert spec.class_colors[:3] == ("#ff0000", "#00ff00", "#0000ff")


def test_classes_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    cfg = pipeline(tmp_path, sliding(64, 64), train=("a",))
    built = cfg.build(str(tmp_path))
    built.chip()
    built.train()
    cfg.dataset.class_config.names[0] = "other"
    with pytest.raises(InputError, match="the model predicts x, y, z, null, the class config says"):
        cfg.build(str(tmp_path)).predict()


def test_chips_and_training_on_s3(tmp_path: Path, s3: S3Server) -> None:
    cfg = pipeline(tmp_path, drawn())
    cfg.chip_uri, cfg.train_uri = f"{s3.bucket('backend')}/chip", "s3://backend/train"
    built = cfg.build(str(tmp_path))
    built.chip(split_ind=0, num_splits=2)
    built.chip(split_ind=1, num_splits=2)
    built.chip()
    parts = ["train-0000-0002-of-0002", "valid-0000-0001-of-0001"]
    assert storage.list_dirs(cfg.chip_uri) == parts
    built.train()
    before = storage.read_bytes("s3://backend/train/model-bundle.zip")
    cfg.build(str(tmp_path)).train()  # found finished
    assert storage.read_bytes("s3://backend/train/model-bundle.zip") == before
    built.predict()
    assert (Path(cfg.predict_uri) / "v" / "labels.tif").exists()
