"""Fixtures and helpers: the tiny chip classification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cell_scenes
import cells
import numpy as np
import pytest
from once import made_once
from rastervision.core.data import Scene
from rastervision.core.rv_pipeline import ChipClassificationConfig
from rastervision.kubernetes import inputs


@pytest.fixture(scope="session")
def cell_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "cells", cell_scenes.draw)


@pytest.fixture
def own_cells(tmp_path: Path) -> Path:
    """Scenes that may be spoilt."""
    cell_scenes.draw(tmp_path)
    return tmp_path


def config_of(folder: Path, **args: Any) -> ChipClassificationConfig:
    made = cells.get_config("local", str(folder), str(folder / "runs"), stats=False, **args)
    made.update()
    made.analyzers = []
    return made


def scene_of(config: ChipClassificationConfig, **labels: Any) -> Scene:
    """The first validation scene, with other options of its labels."""
    one = config.dataset.validation_scenes[0]
    for name, value in labels.items():
        setattr(one.label_source, name, value)
    return one.build(config.dataset.class_config)


def truth(name: str) -> np.ndarray:
    """Class ids (SIDE, SIDE) as the scene was drawn."""
    return cell_scenes.scene(np.random.default_rng(cell_scenes.SCENES.index(name)))[0]


def said(config: Any) -> list[str]:
    errors, warnings = inputs.check(config, 0)
    return [*map(str, errors), *(f"warning: {text}" for text in warnings)]
