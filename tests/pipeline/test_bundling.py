"""A pipeline that no command line has begun saves its bundle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import MethodType

import pytest
from rastervision.core.rv_pipeline import SemanticSegmentationConfig


def test_bundle_from_python_writes_the_config(
    config: SemanticSegmentationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(config.backend), "get_bundle_filenames", lambda self: [])
    (tmp_path / "tmp").mkdir()
    pipeline = config.build(str(tmp_path / "tmp"))
    assert isinstance(pipeline.bundle, MethodType)
    pipeline.bundle()
    with zipfile.ZipFile(config.get_model_bundle_uri()) as bundle:
        saved = json.loads(bundle.read("pipeline-config.json"))
    assert saved["root_uri"] == config.root_uri
    assert saved["plugin_versions"]
    there = Path(config.get_config_uri())
    there.write_text('{"kept": true}')
    pipeline.bundle()
    assert there.read_text() == '{"kept": true}', "what a command line wrote stays"
