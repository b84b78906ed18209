"""What the eval stage writes beside Raster Vision's own eval.json: scores and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rastervision.fastai_backend import pictures, scores
from rastervision.fastai_backend.backend.scene_views import outside_areas, read_views
from rastervision.fastai_backend.picture_layout import PANEL


def write(pipeline_config: dict[str, Any], out_dir: Path) -> dict[str, Any]:
    """Write scores.json and pictures/<scene id>.png for what Raster Vision just evaluated.

    Args:
        pipeline_config: the config of a pipeline of one of scores.TASKS, as in
            pipeline-config.json.
        out_dir: local folder in which eval.json files lie as <group>/eval.json.

    Returns:
        What was written to scores.json.

    Raises:
        InputError: as scores.write says.
    """
    unscored = scores.unscored_of(pipeline_config)
    of_pixels = scores.TASKS[pipeline_config["type_hint"]].unit == "pixel"
    null_is_scored = scores.null_id_of(pipeline_config) not in unscored
    outside = outside_areas(pipeline_config) if of_pixels and null_is_scored else {}
    found = scores.write(pipeline_config, out_dir, outside)
    of_scene = scores.by_scene(found)
    legend = pictures.Legend.of(pipeline_config["dataset"]["class_config"], unscored)
    views = read_views(pipeline_config, set(of_scene), PANEL)
    pictures.write(views, legend, of_scene, out_dir / "pictures")
    return found
