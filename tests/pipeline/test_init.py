"""The experiment that `rvk8s init` writes is one that Raster Vision takes, and that runs."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
from bench import Bench
from PIL import Image
from rastervision.kubernetes import inputs
from said import check_lines
from scenes import write_area

from rvk8s.plan import make_plan
from rvk8s.project import load
from rvk8s.project.scaffold import write_templates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A new project with three tiny scenes."""
    write_templates(tmp_path, "segmentation")
    draw(tmp_path, 64)
    return tmp_path


def draw(folder: Path, size: int) -> None:
    """Three scenes where the template looks for them: of classes 1 and 0, as the pixels are."""
    pixels = np.repeat(np.arange(size) < size // 2, size).reshape(size, size).astype(np.uint8)
    form = {"driver": "GTiff", "width": size, "height": size, "dtype": "uint8", "crs": "EPSG:32633"}
    form["transform"] = rasterio.Affine(0.5, 0, 370000, 0, -0.5, 5800000)
    for name in ("scene1", "scene2", "scene3"):
        for kind, bands in (("images", 3), ("labels", 1)):
            path = folder / "data" / kind / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            with rasterio.open(path, "w", count=bands, **form) as file:
                file.write(np.stack([pixels] * bands) + (kind == "images"))


def scaffold(folder: Path, task: str = "segmentation") -> ModuleType:
    path = folder / "experiments" / f"{task}.py"
    spec = importlib.util.spec_from_file_location("scaffold", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_config_is_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (experiment,) = load(Path("rvk8s.yaml")).select("segmentation-resnet50")
    plan = make_plan(experiment)
    config = scaffold(folder).get_config("kubernetes", root_uri=plan.run_uri, **plan.args)
    config.update()
    config.recursive_validate_config()
    assert [scene.id for scene in config.dataset.train_scenes] == ["scene2", "scene3"]
    assert [scene.id for scene in config.dataset.validation_scenes] == ["scene1"]
    assert config.backend.model.backbone == "resnet50"
    assert config.backend.solver.ignore_class_index == config.dataset.class_config.null_class_id
    image = config.dataset.train_scenes[0].build(config.dataset.class_config)
    assert image.raster_source.shape == (64, 64, 3)
    assert image.label_source.get_label_arr().max() == 1


def test_two_classes_need_one_edit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of 0 and 1. With the background unlabelled, all would be building: macro F1 1."""
    monkeypatch.chdir(folder)
    path = folder / "experiments/segmentation.py"
    five = path.read_text()
    rest = five[five.index('    "road"') : five.index("# Pixels of this class teach nothing")]
    two = five.replace(rest, "}\n")
    for unlabelled, wanted in (
        ("None", []),
        ('"background"', ["class_config: only class building (1)…: UNLABELLED = None…"]),
    ):
        path.write_text(two.replace('= "unlabelled"', f"= {unlabelled}"))
        get_config = scaffold(folder).get_config
        config = get_config("kubernetes", "/runs", "data", ["scene1"], "mobilenet_v3_small", False)
        config.update()
        errors, warnings = inputs.check(config, gpus=0)
        check_lines([str(error) for error in errors], wanted)
        assert warnings == []
    path.write_text(two)
    with pytest.raises(ValueError, match="UNLABELLED"):
        scaffold(folder).get_config("kubernetes", "/runs", "data", ["scene1"])


def test_arguments_of_the_command_line_are_strings(folder: Path) -> None:
    arguments = {"validation": "scene1,scene3", "num_epochs": "7", "lr": "0.5", "batch_sz": "2"}
    get_config = scaffold(folder).get_config
    config = get_config("kubernetes", "/runs", data_uri=str(folder / "data"), **arguments)
    assert [scene.id for scene in config.dataset.train_scenes] == ["scene2"]
    solver = config.backend.solver
    assert (solver.num_epochs, solver.lr, solver.batch_sz) == (7, 0.5, 2)
    with pytest.raises(ValueError, match=r"no images .*validation .*\['scene9'\]"):
        get_config("kubernetes", "/runs", data_uri=str(folder / "data"), validation="scene9")


@pytest.mark.slow
def test_it_runs(folder: Path, table: Bench) -> None:
    """As in the README, but without weights from the network, and with a network that is quick."""
    draw(folder, 256)
    args = {"num_epochs": "1", "pretrained": "false", "backbone": "mobilenet_v3_small"}
    words = [word for pair in args.items() for word in ("-a", *pair)]
    found = table.run(folder, "run", "segmentation", *words)
    assert found.code == 0, found.text
    (run,) = (folder / "runs").iterdir()
    scores = json.loads((run / "eval" / "scores.json").read_text())
    assert scores["overall"]["pixels"] == 256 * 256
    assert len((run / "train" / "log.csv").read_text().splitlines()) == 2
    with Image.open(run / "eval" / "pictures" / "scene1.png") as picture:
        assert picture.width > 256
    assert (run / "bundle" / "model-bundle.zip").is_file()


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A new project of a chip classification: 2 x 2 cells in each scene, houses in one or two."""
    write_templates(tmp_path, "classification")
    draw(tmp_path, 256)
    (tmp_path / "data" / "labels").mkdir(exist_ok=True)
    for scene in (1, 2, 3):
        image = tmp_path / "data" / "images" / f"scene{scene}.tif"
        # 60 x 60 pixels are more than a tenth of a cell, and 20 x 20 are less.
        houses = [(30, 30, 90, 90), (200, 200, 220, 220), (140, 20, 200, 80)][:scene]
        features = []
        for area in houses:
            write_area(tmp_path / "one.json", image, area)
            feature = json.loads((tmp_path / "one.json").read_text())["features"][0]
            features.append({**feature, "properties": {"class_name": "building"}})
        path = tmp_path / "data" / "labels" / f"scene{scene}.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return tmp_path


def test_the_classification_is_valid(cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cells)
    (experiment,) = load(Path("rvk8s.yaml")).select("classification-resnet50")
    plan = make_plan(experiment)
    made = scaffold(cells, "classification")
    config = made.get_config("kubernetes", root_uri=plan.run_uri, **plan.args)
    config.update()
    config.recursive_validate_config()
    assert [scene.id for scene in config.dataset.train_scenes] == ["scene2", "scene3"]
    assert config.backend.model.backbone == "resnet50"
    labels = [
        scene.build(config.dataset.class_config).label_source.get_labels().get_class_ids()
        for scene in (*config.dataset.validation_scenes, *config.dataset.train_scenes)
    ]
    assert [sorted(ids) for ids in labels] == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]]


@pytest.mark.slow
def test_the_classification_runs(cells: Path, table: Bench) -> None:
    args = {"num_epochs": "1", "pretrained": "false", "backbone": "squeezenet1_1", "batch_sz": "4"}
    words = [word for pair in args.items() for word in ("-a", *pair)]
    found = table.run(cells, "run", "classification", *words)
    assert found.code == 0, found.text
    assert "over 4 scored cells" in found.text
    (run,) = (cells / "runs").iterdir()
    assert json.loads((run / "eval" / "scores.json").read_text())["overall"]["cells"] == 4
    assert (run / "eval" / "pictures" / "scene1.png").is_file()
    assert (run / "train" / "debug" / "train-chips.png").is_file()


@pytest.fixture
def ships(tmp_path: Path) -> Path:
    """A new project of an object detection: a ship in each of three scenes."""
    write_templates(tmp_path, "detection")
    draw(tmp_path, 300)
    (tmp_path / "data" / "labels").mkdir(exist_ok=True)
    for name in ("scene1", "scene2", "scene3"):
        write_area(tmp_path / "one.json", tmp_path / f"data/images/{name}.tif", (90, 60, 150, 140))
        collection = json.loads((tmp_path / "one.json").read_text())
        collection["features"][0]["properties"] = {"class_name": "ship"}
        (tmp_path / "data" / "labels" / f"{name}.geojson").write_text(json.dumps(collection))
    return tmp_path


@pytest.mark.slow
def test_the_detection_runs(ships: Path, table: Bench) -> None:
    args = {"pretrained": "false", "backbone": "squeezenet1_1", "batch_sz": "2"}
    words = [word for pair in args.items() for word in ("-a", *pair)]
    found = table.run(ships, "run", "detection", "--test", *words)
    assert found.code == 0, found.text
    assert "over 1 scored boxes" in found.text
    (run,) = (ships / "runs").iterdir()
    assert json.loads((run / "eval" / "scores.json").read_text())["overall"]["boxes"] == 1
    assert (run / "eval" / "pictures" / "scene1.png").is_file()
    assert (run / "predict" / "scene1.json").is_file()
    log = (run / "train" / "log.csv").read_text().splitlines()
    assert "score_thresh" in log[0].split(",")
