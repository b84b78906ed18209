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
from noisescenes import HEIGHT, WIDTH, chips, drawn, everything, pipeline, sliding
from rastervision.core.box import Box
from rastervision.core.data import (
    MinMaxTransformerConfig,
    SemanticSegmentationDiscreteLabels,
    SemanticSegmentationLabelStoreConfig,
    SemanticSegmentationSmoothLabels,
)
from rastervision.core.rv_pipeline import (
    SemanticSegmentationConfig,
    SemanticSegmentationPredictOptions,
)
from rastervision.fastai_backend import bundle
from rastervision.fastai_backend.backend import FastaiSemanticSegmentation
from rastervision.fastai_backend.backend.scenes import missing_windows, prediction_windows
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor
from rastervision.pipeline.config import build_config, save_pipeline_config
from rastervision.pipeline.file_system.utils import file_to_json
from s3server import S3Server
from torch import nn

from rvk8s import storage
from rvk8s.errors import InputError

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


def null_beyond(size: tuple[int, int], w: Box, labels: np.ndarray) -> np.ndarray:
    """Labels of a window with the null class beyond the scene's edges; Raster Vision's are 0."""
    y, x = np.ogrid[w.ymin : w.ymax, w.xmin : w.xmax]
    return np.where((y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1]), labels, 3)


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
    pairs = [(*dataset[i], w) for i, w in enumerate(dataset.windows)]
    kept = [(x, null_beyond(built.extent.size, w, y)) for x, y, w in pairs
            if cfg.chip_options.keep_chip(x, y)]  # fmt: skip
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
    with pytest.raises(InputError, match=r"32x32, 48x48 .*one batch"):
        chips(pipeline(tmp_path, sampling), tmp_path)
    cfg = pipeline(tmp_path, sampling, backend={"data": {"img_sz": 40}})
    assert chips(cfg, tmp_path).size == 40
    del sampling["b"]
    with pytest.raises(InputError, match=r"sampling .*no entry .*scene b"):
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


@pytest.mark.parametrize("smooth", [False, True], ids=["votes", "scores"])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 20}, {"stride": 24, "crop_sz": "auto"}, {"stride": 20, "crop_sz": 6}],
    ids=["apart", "overlapping", "cropped", "cropped and overlapping"],
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
    # Pixels that Raster Vision leaves out are predicted, too; the others are equal.
    if isinstance(ours, SemanticSegmentationSmoothLabels):
        there = theirs.pixel_hits > 0
        assert ours.pixel_hits.all()
        np.testing.assert_array_equal(ours.pixel_scores[:, there], theirs.pixel_scores[:, there])
        np.testing.assert_array_equal(ours.pixel_hits[there], theirs.pixel_hits[there])
    if isinstance(ours, SemanticSegmentationDiscreteLabels):
        there = theirs.hit_mask
        assert ours.hit_mask.all()
        assert len(np.unique(ours.get_label_arr(ours.extent))) >= 3
        np.testing.assert_array_equal(ours.pixel_counts[:, there], theirs.pixel_counts[:, there])
    assert there.all() or (options["crop_sz"] == 6 and there.mean() > 0.9)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("smooth", [False, True], ids=["labels", "scores"])
def test_a_scene_without_a_crs_is_predicted(
    tmp_path: Path, network: nn.Module, smooth: bool
) -> None:
    """With neither CRS nor transform, as the label store gets it from the predict stage."""
    cfg = pipeline(tmp_path, sliding())
    for path in tmp_path.glob("v*.tif"):
        with rasterio.open(path) as file:
            pixels, profile = file.read(), {**file.profile, "crs": None, "transform": None}
        path.unlink()
        with rasterio.open(path, "w", **profile) as file:
            file.write(pixels)
    config = cfg.dataset.validation_scenes[0]
    config.label_store = SemanticSegmentationLabelStoreConfig(
        uri=str(tmp_path / "out"), smooth_output=smooth
    )
    built = config.build(cfg.dataset.class_config, str(tmp_path))
    backend = FastaiSemanticSegmentation(cfg, cfg.backend, str(tmp_path))
    names = tuple(cfg.dataset.class_config.names)
    spec = ModelSpec("unet", "resnet18", 3, names, names, 3, (0.0,) * 3, (255.0,) * 3, 48)
    backend.predictor = ScenePredictor(network, spec, PredictSettings())
    built.label_store.save(backend.predict_scene(built, cfg.predict_options))
    with rasterio.open(tmp_path / "out" / "labels.tif") as file:
        assert file.crs is None
        assert file.transform.is_identity
        assert file.shape == (HEIGHT, WIDTH)
        assert len(np.unique(file.read(1))) >= 3


@pytest.mark.parametrize("size", [(2514, 2577), (448, 640), (100, 700), (641, 641)])
def test_cropped_windows_leave_no_pixel_out(size: tuple[int, int]) -> None:
    scene: Any = SimpleNamespace(extent=Box(0, 0, *size), aoi_polygons_bbox_coords=[])
    options = SemanticSegmentationPredictOptions(chip_sz=448, stride=320, crop_sz="auto")
    covered = np.zeros(size, bool)
    windows = prediction_windows(scene, options) + missing_windows(scene, options)
    for ymin, xmin, ymax, xmax in windows:
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


@pytest.mark.parametrize(
    ("bands", "dtype"), [(5, "uint16"), pytest.param(1, "float32", marks=pytest.mark.slow)]
)
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
    with pytest.raises(InputError, match=r"model .*x, y, z, null, .*class config"):
        cfg.build(str(tmp_path)).predict()


@pytest.mark.slow
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
