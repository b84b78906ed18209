"""The examples' pipelines, and scores and pictures of them, with Raster Vision but no training."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rastervision.core.data.label import SemanticSegmentationLabels
from rastervision.core.rv_pipeline import SemanticSegmentationConfig
from rastervision.fastai_backend.backend import evaluation
from rastervision.fastai_backend.georeference import ensure_transform
from rastervision.kubernetes import option_checks
from rastervision.pipeline.config import build_config, save_pipeline_config

from rvk8s.project import load

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    # Scenes without a CRS are one of the things that the examples are about.
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    # Raster Vision leaves its temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
    # Raster Vision divides 0 by 0 for classes that do not occur.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


def _module(path: str | Path) -> ModuleType:
    """A module of the repository, imported as configure does it."""
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    name = str(path).removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def potsdam() -> ModuleType:
    return _module("examples/potsdam/experiment.py")


@pytest.fixture(scope="module")
def dubai() -> ModuleType:
    return _module("examples/dubai/experiment.py")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw")
    draw = [sys.executable, str(REPOSITORY / "examples/synthetic.py"), str(out), "--gsd", "0.1"]
    subprocess.run([*draw, "--scenes", "6_10", "2_12", "--size", "700"], check=True)
    return out


@pytest.fixture(scope="module")
def dubai_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes in the data set's format: no CRS; class ids with an unlabelled corner."""
    out = tmp_path_factory.mktemp("dubai-raw")
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": 140, "height": 120, "dtype": "uint8"}
    for number in range(1, 7):
        with rasterio.open(out / f"tile{number}_image.tif", "w", count=3, **profile) as image:
            image.write(rng.integers(1, 255, (3, 120, 140), np.uint8))
        labels = np.repeat(np.arange(5, dtype=np.uint8), 24)[:, None].repeat(140, 1)
        labels[:10, :10] = 5
        with rasterio.open(out / f"tile{number}_label.tif", "w", count=1, **profile) as label:
            label.write(labels, 1)
    return out


def _updated(config: Any) -> Any:
    config.update()
    config.recursive_validate_config()
    return config


def _saved(config: SemanticSegmentationConfig, path: Path) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_pipeline_config(config, str(path))
    return json.loads(path.read_text())


def test_potsdam_uses_all_labelled_scenes(potsdam: ModuleType) -> None:
    # The data set's own list: the 24 scenes that come with labels for participants.
    labelled = {f"{row}_{column}" for row in range(2, 8) for column in (10, 11, 12)}
    labelled |= {f"{row}_{column}" for row in (6, 7) for column in (7, 8, 9)}
    assert len(labelled) == 24
    assert len(potsdam.TRAIN_IDS) == 20
    assert set(potsdam.TRAIN_IDS) | set(potsdam.VAL_IDS) == labelled
    assert not set(potsdam.TRAIN_IDS) & set(potsdam.VAL_IDS)


def test_potsdam_is_the_2019_experiment(potsdam: ModuleType, tmp_path: Path) -> None:
    config = _updated(potsdam.get_config("local", "s3://b/raw", str(tmp_path)))
    scene = config.dataset.train_scenes[0]
    assert scene.raster_source.uris == ["s3://b/raw/4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif"]
    assert scene.raster_source.channel_order == [3, 0, 1]
    assert config.chip_options.sampling.size == config.chip_options.sampling.stride == 300
    backend = config.backend
    assert (backend.solver.batch_sz, backend.solver.num_epochs, backend.solver.lr) == (8, 5, 1e-4)
    assert (backend.solver.schedule, backend.solver.sync_interval) == ("one_cycle", 10)
    assert (backend.data.dihedral, backend.data.flip_vert) == (True, False)
    assert (backend.model.arch, backend.model.backbone) == ("unet", "resnet18")
    saved = _saved(config, tmp_path / "pipeline-config.json")
    again = build_config(saved)
    assert again.backend.model_dump() == backend.model_dump()


def test_every_experiment_of_rvk8s_yaml_is_accepted(dubai_raw: Path, tmp_path: Path) -> None:
    experiments = load(REPOSITORY / "rvk8s.yaml").select(match="*")
    assert {
        *("potsdam", "potsdam-resnet18", "potsdam-resnet50"),
        *("dubai", "dubai-cells", "dubai-buildings"),
    } <= {e.name for e in experiments}
    for experiment in experiments:
        args = dict(experiment.args)
        if experiment.name.startswith("dubai"):
            args["raw_uri"] = str(dubai_raw)
        get_config = _module(experiment.module).get_config
        _updated(get_config("local", root_uri=str(tmp_path), **args))


def test_values_may_be_strings(potsdam: ModuleType, dubai: ModuleType, tmp_path: Path) -> None:
    config = potsdam.get_config(
        "local", "raw", str(tmp_path), lr="0.01", num_epochs="2", val_ids="6-10, 7_10"
    )
    assert config.backend.solver.lr == 0.01
    assert [s.id for s in config.dataset.validation_scenes] == ["6_10", "7_10"]
    assert Path(config.dataset.train_scenes[0].raster_source.uris[0]).is_absolute()
    found = dubai.get_config("local", str(tmp_path), raw_uri="raw", lr="find", val_ids="tile1")
    assert found.backend.solver.lr is None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"channels": "rgbx"}, "give one of irrg, rgb, rgbir"),
        ({"train_ids": [210]}, "quote them"),
    ],
)
def test_potsdam_refuses(potsdam: ModuleType, tmp_path: Path, args: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        potsdam.get_config("local", "raw", str(tmp_path), **args)


def test_dubai_says_where_it_looked(
    dubai: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RVK8S_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set RVK8S_DATA or give -a raw_uri FOLDER"):
        dubai.get_config("local", str(tmp_path))


def test_dubai_finds_its_data(
    dubai: ModuleType, dubai_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dubai").symlink_to(dubai_raw)
    for folder in (tmp_path, dubai_raw):
        monkeypatch.setenv("RVK8S_DATA", str(folder))
        config = dubai.get_config("local", str(tmp_path))
        (image,) = config.dataset.validation_scenes[0].raster_source.uris
        assert image == str(dubai_raw / "tile6_image.tif")
    assert config.dataset.class_config.null_class_id == 5
    assert config.backend.solver.ignore_class_index == 5


def test_potsdam_test_takes_a_crop(potsdam: ModuleType, raw: Path, tmp_path: Path) -> None:
    config = potsdam.get_config(
        "local", str(raw), str(tmp_path), train_ids="6_10", val_ids="2_12", test=True
    )
    scene = config.dataset.train_scenes[0]
    for source, folder in (
        (scene.raster_source, "4_Ortho_RGBIR"),
        (scene.label_source.raster_source, "5_Labels_for_participants"),
    ):
        (copy,) = source.uris
        assert Path(copy).parent == tmp_path / "processed/crops"
        with rasterio.open(copy) as crop, rasterio.open(raw / folder / Path(copy).name) as whole:
            assert crop.shape == (600, 600)
            assert (crop.crs, crop.transform) == (whole.crs, whole.transform)
            assert crop.colorinterp == whole.colorinterp
            np.testing.assert_array_equal(crop.read(), whole.read()[:, :600, :600])
    assert config.backend.solver.num_epochs == 1
    assert config.backend.data.debug


def _predict_shifted(config: SemanticSegmentationConfig, pixels: int) -> None:
    """Save as prediction what the truth is some pixels further up."""
    classes = config.dataset.class_config
    for scene_config in config.dataset.validation_scenes:
        scene = scene_config.build(classes)
        labels = SemanticSegmentationLabels.make_empty(scene.extent, num_classes=len(classes))
        labels[scene.extent] = np.roll(scene.label_source.get_label_arr(), pixels, 0)
        ensure_transform(scene)
        scene.label_store.save(labels)


def test_scores_and_pictures_of_potsdam(potsdam: ModuleType, raw: Path, tmp_path: Path) -> None:
    config = _updated(
        potsdam.get_config("local", str(raw), str(tmp_path), train_ids="6_10", val_ids="2_12")
    )
    saved = _saved(config, tmp_path / "pipeline-config.json")
    _predict_shifted(config, 4)
    config.build(str(tmp_path)).eval()
    found = evaluation.write(saved, tmp_path / "eval")
    assert json.loads((tmp_path / "eval/scores.json").read_text()) == found
    assert [entry["name"] for entry in found["classes"]] == list(potsdam.CLASSES)
    overall = found["overall"]
    assert overall["pixels"] == 700 * 700
    assert 0.6 < overall["macroF1"] < 1
    # Nothing is unlabelled here, so ours and Raster Vision's own figure are one.
    assert overall["pixelWeightedF1"] == pytest.approx(overall["rasterVisionAverageF1"], abs=1e-5)
    report = json.loads((tmp_path / "eval/validation_scenes/eval.json").read_text())
    for entry, theirs in zip(found["classes"], report["overall"], strict=False):
        assert entry["name"] == theirs["class_name"]
        assert entry["f1"] == pytest.approx(theirs["metrics"]["f1"], abs=1e-5)
    assert sorted(p.name for p in (tmp_path / "eval/pictures").iterdir()) == ["2_12.png"]
    with Image.open(tmp_path / "eval/pictures/2_12.png") as picture:
        assert 1200 < picture.width <= 1600
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    # The errors panel shows wrong pixels in the pure colours of the classes.
    assert {(255, 255, 0), (0, 0, 255), (0, 255, 0)} <= colours


def test_labels_with_and_without_a_crs_score_the_same(potsdam: ModuleType, tmp_path: Path) -> None:
    """To the last digit, and so do the pictures look."""
    found = set()
    for labels in ("none", "tfw", "crs"):
        raw, root = tmp_path / labels / "raw", tmp_path / labels / "run"
        draw = [sys.executable, str(REPOSITORY / "examples/synthetic.py"), str(raw)]
        scenes = ["--scenes", "2_12", "--size", "256", "--gsd", "0.2", "--labels", labels]
        subprocess.run([*draw, *scenes], check=True)
        config = _updated(
            potsdam.get_config("local", str(raw), str(root), train_ids="2_12", val_ids="2_12")
        )
        saved = _saved(config, root / "pipeline-config.json")
        _predict_shifted(config, 4)
        config.build(str(root)).eval()
        evaluation.write(saved, root / "eval")
        files = ("scores.json", "pictures/2_12.png", "validation_scenes/eval.json")
        found.add(tuple((root / "eval" / name).read_bytes() for name in files))
    assert len(found) == 1


def test_scores_of_scenes_without_crs_and_with_unlabelled_pixels(
    dubai: ModuleType, dubai_raw: Path, tmp_path: Path
) -> None:
    config = _updated(dubai.get_config("local", str(tmp_path), raw_uri=str(dubai_raw)))
    saved = _saved(config, tmp_path / "pipeline-config.json")
    _predict_shifted(config, 6)
    config.build(str(tmp_path)).eval()
    found = evaluation.write(saved, tmp_path / "eval")
    assert [entry["name"] for entry in found["classes"]] == list(dubai.CLASSES)[:5]
    assert found["overall"]["pixels"] == 140 * 120 - 100
    # 6 of 24 rows of each class are the class above's, and the corner's shadow is no class at all.
    assert found["classes"][2]["recall"] == pytest.approx(18 / 24)
    assert found["classes"][0]["recall"] < 18 / 24
    assert (tmp_path / "eval/pictures/tile6.png").is_file()
    assert not list(tmp_path.rglob(".*")), "nothing half-written"


@pytest.mark.slow
def test_cells_of_dubai(dubai_raw: Path, tmp_path: Path) -> None:
    """What cells are: built up from a tenth of buildings on; nothing where most is unlabelled."""
    command = [sys.executable, "-m", "examples.dubai.cells", str(tmp_path), "--raw", str(dubai_raw)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"{tmp_path}/tile6_cells.geojson: 1 cells" in done.stdout
    labels = np.full((200, 300), 4, np.uint8)
    labels[:60, :96] = 2
    labels[:60, 96:192] = 5
    labels[100:140, 100:130] = 0
    labels[100:120, 200:220] = 0
    labels[120:180, 192:280] = 3
    features = list(_module("examples/dubai/cells.py").cells(labels))
    found = {
        tuple(f["geometry"]["coordinates"][0][0]): f["properties"]["class_name"] for f in features
    }
    assert found == {
        **{(0, 0): "land", (192, 0): "water", (0, 96): "water"},
        **{(96, 96): "built up", (192, 96): "vegetation"},
    }
    experiment = _module("examples/dubai/cells_experiment.py")
    config = _updated(
        experiment.get_config("local", str(tmp_path), str(tmp_path), raw_uri=str(dubai_raw))
    )
    scene = config.dataset.validation_scenes[0].build(config.dataset.class_config)
    ((box, (class_id, _)),) = scene.label_source.get_labels().cell_to_label.items()
    assert (*box, class_id) == (0, 0, 96, 96, 0)


def test_buildings_of_dubai(tmp_path: Path) -> None:
    """Pixels that touch are one; small and large ones are left out."""
    labels = np.ones((400, 400), np.uint8)
    labels[10:40, 10:30] = 0
    labels[30:50, 30:60] = 0
    labels[100:105, 100:140] = 0
    labels[150:390, 150:180] = 0
    (found,) = _module("examples/dubai/buildings.py").buildings(labels)
    assert found["properties"] == {"class_name": "building"}
    xs, ys = zip(*found["geometry"]["coordinates"][0], strict=True)
    assert (min(xs), min(ys), max(xs), max(ys)) == (10, 10, 60, 50)
    path = tmp_path / "tile2_buildings.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [found]}))
    config = _updated(
        _module("examples/dubai/buildings_experiment.py").get_config(
            "local", str(tmp_path), str(tmp_path), raw_uri=str(tmp_path)
        )
    )
    with rasterio.open(
        *(tmp_path / "tile2_image.tif", "w"),
        **{"driver": "GTiff", "width": 400, "height": 400, "count": 3, "dtype": "uint8"},
    ) as image:
        image.write(np.ones((3, 400, 400), np.uint8))
    scene = config.dataset.validation_scenes[0].build(config.dataset.class_config)
    assert scene.label_source.get_labels().get_npboxes().tolist() == [[10, 10, 50, 60]]


#: Where each example's scenes are read from, and what they are called with beside.
TESTS = {
    "potsdam": ("examples/potsdam/experiment.py", {"train_ids": None}),
    "dubai": ("examples/dubai/experiment.py", {}),
    "cells": ("examples/dubai/cells_experiment.py", {"cells_uri": "cells"}),
    "buildings": ("examples/dubai/buildings_experiment.py", {"boxes_uri": "boxes"}),
    **{
        task: (f"rvk8s/project/templates/{task}/experiments/{task}.py", {"validation": "6_10"})
        for task in ("segmentation", "classification", "detection")
    },
}


@pytest.fixture(scope="module")
def potsdam_of_one_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first scenes of training and validation, large enough for crops of any test."""
    out = tmp_path_factory.mktemp("potsdam")
    form = {"driver": "GTiff", "width": 2400, "height": 2400, "dtype": "uint8", "tiled": True}
    for scene in ("2_10", "2_12"):
        for kind, count in (
            ("4_Ortho_RGBIR/{}_RGBIR", 4),
            ("5_Labels_for_participants/{}_label", 3),
        ):
            path = out / f"{kind.format(f'top_potsdam_{scene}')}.tif"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(path, "w", count=count, sparse_ok=True, **form):
                pass
    return out


@pytest.mark.parametrize("name", TESTS)
def test_a_test_is_small_but_for_what_is_given(
    name: str, potsdam_of_one_size: Path, dubai_raw: Path, tmp_path: Path
) -> None:
    path, more = TESTS[name]
    get_config = _module(path).get_config
    if name == "potsdam":
        more = {"raw_uri": str(potsdam_of_one_size)}
    elif "examples" in path:
        more = {**more, "raw_uri": str(dubai_raw)}
    else:
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir()
            for scene in ("6_10", "7_10"):
                (tmp_path / kind / f"{scene}.tif").touch()
        more = {**more, "data_uri": str(tmp_path)}
    for ranks in (1, 2, 3, 4, 8, 12):
        config = get_config("local", root_uri=str(tmp_path), test=True, ranks=ranks, **more)
        assert config.backend.solver.num_epochs == 1
        assert option_checks.check_backend(config, 0, ranks) == []
        if name == "potsdam":
            (image,) = config.dataset.train_scenes[0].raster_source.uris
            with rasterio.open(image) as crop:
                side = config.chip_options.sampling.size
                assert (crop.width // side) * (crop.height // side) >= 2 * ranks
    given = {"num_epochs": "3", "batch_sz": "4"}
    solver = get_config(
        "local", root_uri=str(tmp_path), test=True, ranks=4, **more, **given
    ).backend.solver
    assert (solver.num_epochs, solver.batch_sz) == (3, 4)


def test_a_test_takes_the_scenes_that_are_given(
    potsdam: ModuleType, potsdam_of_one_size: Path, tmp_path: Path
) -> None:
    config = potsdam.get_config(
        "local", str(potsdam_of_one_size), str(tmp_path), train_ids="2_10,2_12", test=True
    )
    assert [scene.id for scene in config.dataset.train_scenes] == ["2_10", "2_12"]
    assert len(config.dataset.validation_scenes) == 1
