"""What the eval stage writes beside Raster Vision's own eval.json: scores and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rastervision.fastai_backend import pictures, scores
from rastervision.fastai_backend.backend.scene_views import read_views


def write(pipeline_config: dict[str, Any], out_dir: Path) -> dict[str, Any]:
    """Write scores.json and pictures/<scene id>.png for what Raster Vision just evaluated.

    Args:
        pipeline_config: a semantic segmentation pipeline's config, as in pipeline-config.json.
        out_dir: local folder in which eval.json files lie as <group>/eval.json.

    Returns:
        What was written to scores.json.

    Raises:
        InputError: as scores.write says.
    """
    found = scores.write(pipeline_config, out_dir)
    of_scene = scores.by_scene(found)
    legend = pictures.Legend.of(pipeline_config["dataset"]["class_config"])
    views = read_views(pipeline_config, set(of_scene), pictures.PANEL)
    pictures.write(views, legend, of_scene, out_dir / "pictures")
    return found
