"""Two classes, the background being the null class as in Raster Vision's own examples: it is
scored, and what lies outside of an area of interest is not taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import experiment
import numpy as np
import pytest
import rasterio
import scenes
from rastervision.core.data import ClassConfig
from rastervision.core.data.label import SemanticSegmentationLabels
from rastervision.fastai_backend.backend import evaluation
from rastervision.fastai_backend.backend.scene_views import read_views
from rastervision.fastai_backend.picture_layout import PANEL
from rastervision.fastai_backend.pictures import Legend
from rastervision.pipeline.config import save_pipeline_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
    # Raster Vision divides 0 by 0 for the class that is never predicted.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

#: The area of interest of val_b: top, left, bottom, right.
AREA = (20, 10, 150, 180)


def test_background_is_scored_within_areas(tmp_path: Path) -> None:
    scenes.draw(tmp_path)
    scenes.write_area(tmp_path / "area.json", tmp_path / "image_val_b.tif", AREA)
    config = experiment.get_config("local", str(tmp_path), str(tmp_path / "run"), stats=False)
    names, colors = ["field", "house"], ["green", "red"]
    config.dataset.class_config = ClassConfig(names=names, colors=colors, null_class="field")
    config.dataset.validation_scenes[1].aoi_uris = [str(tmp_path / "area.json")]
    config.update()
    save_pipeline_config(config, str(tmp_path / "pipeline-config.json"))
    saved = json.loads((tmp_path / "pipeline-config.json").read_text())
    for one in config.dataset.validation_scenes:
        scene = one.build(config.dataset.class_config)
        labels = SemanticSegmentationLabels.make_empty(scene.extent, num_classes=2)
        labels[scene.extent] = np.ones(scene.extent.size, np.uint8)
        scene.label_store.save(labels)
    config.build(str(tmp_path)).eval()

    found = evaluation.write(saved, tmp_path / "run/eval")
    top, left, bottom, right = AREA
    for name, inside in (("val_a", np.s_[:, :]), ("val_b", np.s_[top:bottom, left:right])):
        with rasterio.open(tmp_path / f"label_{name}.tif") as file:
            truth = file.read(1)[inside]
        field, house = found["scenes"][name]["classes"]
        assert house["precision"] == pytest.approx((truth == 1).mean(), abs=0.01)
        assert house["recall"] == 1
        assert (field["recall"], field["f1"]) == (0, 0)
        assert field["support"] == pytest.approx((truth == 0).sum(), rel=0.02)
    views = {view.scene_id: view for view in read_views(saved, {"val_a", "val_b"}, PANEL)}
    legend = Legend.of(saved["dataset"]["class_config"], ())
    assert not legend.hides(views["val_a"].truth).any()
    shown = ~legend.hides(views["val_b"].truth)
    assert shown.sum() == found["scenes"]["val_b"]["overall"]["pixels"]
    with rasterio.open(tmp_path / "image_val_b.tif") as file:
        assert views["val_b"].metres == pytest.approx(file.res[0], rel=2e-3), "UTM's own scale"
    assert (tmp_path / "run/eval/pictures/val_b.png").is_file()
