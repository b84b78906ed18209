"""A chip classification on a real cluster: polygons as labels, splits, and two ranks in one pod."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cluster.sites import SiteFactory
from cluster.team import TINY, Site, gang

from rvk8s import storage

pytestmark = pytest.mark.timeout(1800)


def test_a_chip_classification(site_factory: SiteFactory, tmp_path: Path) -> None:
    import cell_scenes  # beside the tiny experiment, whose folder the site has put on the path

    site: Site = site_factory("cells")
    cell_scenes.draw(tmp_path)
    data = f"{site.root_uri}/data"
    storage.upload_dir(tmp_path, data)
    shutil.copy(TINY / "cells.py", site.folder)
    site.write_project({"cells": {"module": "cells.py", "args": {"raw_uri": data}}})
    with gang():
        run = site.submit("cells", "--gpus", "2", "--splits", "2")
        site.wait(run)
    site.check_whole(run)
    scores = site.scores(run)
    assert scores["task"] == "chip classification"
    assert scores["overall"]["cells"] == 2 * cell_scenes.SIDE**2
    assert scores["overall"]["macroF1"] > 0.9
    names = storage.list_files(f"{site.root_uri}/{run}")
    assert {"predict/val_a.json", "predict/val_b.json", "eval/pictures/val_a.png"} <= set(names)
