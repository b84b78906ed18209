"""A run whose scenes are several files gives what the same scenes give as one file each; and a test
scene without labels, which is predicted and not scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import scenes
from forks import ForkLauncher, StageServer
from rasterio.windows import Window
from rastervision.core.predictor import Predictor
from said import says
from tinyrun import Reference, drive, make_plan, outputs

from rvk8s import storage
from rvk8s.contract import State
from rvk8s.plan import Plan

pytestmark = pytest.mark.slow

#: Row and column at which a scene is cut into four files; neither is at the edge of a chip.
ROW, COL = 90, 101
MODULE = f"""
import sys
sys.path.append({str(Path(__file__).parent / "tiny")!r})
import experiment


def get_config(runner, raw_uri, root_uri, **args):
    config = experiment.get_config(runner, raw_uri, root_uri, **args)
    dataset = config.dataset
    for scene in dataset.train_scenes + dataset.validation_scenes:
        for source in (scene.raster_source, scene.label_source.raster_source):
            source.uris = [source.uris.replace(".tif", f"_{{i}}.tif") for i in range(4)]
    dataset.test_scenes = [dataset.validation_scenes[0].model_copy(deep=True)]
    dataset.test_scenes[0].id = "unlabelled"
    dataset.test_scenes[0].label_source = None
    return config
"""


def cut(path: Path) -> None:
    """Write the four quarters of a GeoTIFF beside it."""
    size = scenes.SIZE
    with rasterio.open(path) as image:
        for i, (rows, cols) in enumerate(
            [(r, c) for r in ((0, ROW), (ROW, size)) for c in ((0, COL), (COL, size))]
        ):
            part = Window.from_slices(rows, cols)
            profile = {**image.profile, "transform": image.window_transform(part)}
            profile |= {"height": part.height, "width": part.width}
            with rasterio.open(path.with_stem(f"{path.stem}_{i}"), "w", **profile) as out:
                out.write(image.read(window=part))


@pytest.fixture(scope="module")
def run(
    server: StageServer, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("several")
    (folder / "several.py").write_text(MODULE)
    data = folder / "data"
    scenes.draw(data)
    for path in list(data.glob("*.tif")):
        cut(path)
        path.unlink()
    plan = make_plan(folder, data, module="several.py", project_dir=str(folder))
    launcher = ForkLauncher(plan, server, folder / "logs", {"PATH": "/usr/bin:/bin"})
    record = drive(plan, server, folder / "logs", launcher)
    assert record.state == State.SUCCEEDED, record.message
    return plan, data


def test_all_is_as_with_one_file_for_each_scene(
    run: tuple[Plan, Path], reference: Reference
) -> None:
    for stage in ("analyze", "chip", "train", "predict"):
        found = outputs(run[0].layout.at(stage))
        for name, digest in reference.outputs[stage].items():
            assert found[name] == digest, f"{stage}/{name}"
    scores = storage.read_json(run[0].layout.scores)
    assert scores == storage.read_json(reference.plan.layout.scores)
    for name in ("val_a.png", "val_b.png"):
        pictures = [plan.layout.pictures for plan in (run[0], reference.plan)]
        ours, theirs = (storage.read_bytes(f"{uri}/{name}") for uri in pictures)
        assert ours == theirs


def test_a_test_scene_without_labels(run: tuple[Plan, Path], reference: Reference) -> None:
    plan, data = run
    predicted = outputs(plan.layout.at("predict/unlabelled"))
    assert predicted == outputs(reference.plan.layout.at("predict/val_a"))
    assert sorted(storage.list_files(plan.layout.pictures)) == ["val_a.png", "val_b.png"]
    log = (data.parent / "logs" / "eval-0.txt").read_text()
    assert says(log, "…Not scored…: unlabelled…")


def test_the_bundle_predicts_scenes_of_several_files(
    run: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, data = run
    predictor = Predictor(plan.layout.at("bundle/model-bundle.zip"), str(tmp_path))
    for name in ("val_b", "val_a"):
        files = [str(data / f"image_{name}_{i}.tif") for i in range(4)]
        predictor.predict(files, str(tmp_path / name))
        found, want = (
            rasterio.open(folder / name / "labels.tif")
            for folder in (tmp_path, Path(plan.layout.at("predict")))
        )
        with found, want:
            assert found.transform == want.transform
            np.testing.assert_array_equal(found.read(), want.read())
