"""What a stage leaves out of Raster Vision's imports, and what makes it import all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rastervision.kubernetes.lean import can_do_without

pytestmark = pytest.mark.slow

VERSIONS = {"rastervision.pytorch_learner": 7, "rastervision.pytorch_backend": 2}
OURS = {"type_hint": "fastai_semantic_segmentation_backend"}
THEIRS = {"type_hint": "pytorch_semantic_segmentation_backend"}
LEFT_OUT = {"torch", "torchvision", "rastervision.pytorch_backend", "rastervision.pytorch_learner"}
CODE = """
import json, sys
from rastervision.kubernetes.lean import import_raster_vision
stage, config = json.loads(sys.argv[1])
import_raster_vision(stage, config)
from rastervision.pipeline import registry_
found = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
import torch, rastervision.pytorch_backend, rastervision.core.rv_pipeline
versions = registry_.plugin_versions
print(json.dumps([
    found,
    {name: versions[name] for name in versions if "pytorch" in name},
    registry_.get_config("pytorch_semantic_segmentation_backend").__name__,
    registry_.get_config("fastai_semantic_segmentation_backend").__name__,
    len(registry_.runners) > 1,
    torch.zeros(2).shape[0],
]))
"""


def imported(stage: str, config: dict[str, Any]) -> list[str]:
    """What of LEFT_OUT a stage has imported; that it can be imported later is asserted."""
    command = [sys.executable, "-c", CODE, json.dumps([stage, config]), json.dumps([*LEFT_OUT])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, versions, *others = json.loads(done.stdout.splitlines()[-1])
    assert versions == VERSIONS
    names = ["PyTorchSemanticSegmentationConfig", "FastaiSemanticSegmentationConfig"]
    assert others == [*names, True, 2]
    assert isinstance(found, list)
    return found


def test_no_torch_where_no_model_is() -> None:
    config = {"plugin_versions": VERSIONS, "backend": OURS, "dataset": {"scenes": [{}]}}
    assert imported("chip", config) == []


def test_torch_alone_where_a_model_is() -> None:
    assert imported("predict", {"plugin_versions": VERSIONS, "backend": OURS}) == ["torch"]


def test_all_where_a_type_is_of_theirs() -> None:
    config = {"plugin_versions": VERSIONS, "backend": OURS, "x": [{"y": THEIRS}]}
    assert imported("eval", config) == sorted(LEFT_OUT)


def test_all_where_it_may_be_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a config, with another backend, with somebody else's plugin."""
    assert can_do_without({"backend": OURS})
    assert not can_do_without({})
    assert not can_do_without({"backend": THEIRS})
    plugin = tmp_path / "rastervision" / "acme"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not can_do_without({"backend": OURS})
