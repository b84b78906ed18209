from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rastervision.core.rv_pipeline import SemanticSegmentationConfig

# What the tests of the tiny experiment share lies beside it.
sys.path.insert(0, str(Path(__file__).parent / "tiny"))
sys.path.insert(0, str(Path(__file__).parent / "bad"))

from bench import table
from cellrun import cell_data, own_cells
from tinyrun import reference, server, tiny_data

__all__ = ["cell_data", "own_cells", "reference", "server", "table", "tiny_data"]


@pytest.fixture
def config(tmp_path: Path) -> SemanticSegmentationConfig:
    """The tiny experiment, with scenes of its own."""
    import scenes
    from experiment import get_config

    scenes.draw(tmp_path)
    made = get_config("local", str(tmp_path), str(tmp_path / "runs"), stats=False)
    made.update()
    made.analyzers = []
    return made
