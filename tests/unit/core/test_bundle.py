"""Model bundles: read as written, and refused with a reason when they are not right."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from rastervision.fastai_backend import bundle, models
from rastervision.fastai_backend.model_spec import ModelSpec
from torch import nn

from rvk8s.errors import InputError


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    names = ("a", "b", "null")
    return ModelSpec("unet", "resnet18", 4, names, names, 2, (1.0,) * 4, (2.0,) * 4, 64, "uint16")


@pytest.fixture(scope="module")
def network(spec: ModelSpec) -> nn.Module:
    torch.manual_seed(0)
    return models.build(spec).eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, network: nn.Module, spec: ModelSpec) -> Path:
    path = tmp_path_factory.mktemp("bundle") / bundle.NAME
    bundle.save(path, network.state_dict(), spec)
    return path


def test_round_trip(path: Path, network: nn.Module, spec: ModelSpec) -> None:
    model, read = bundle.load_model(path)
    assert read == spec
    assert not model.training
    x = torch.rand(1, 4, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), network(x))
    assert [p.name for p in path.parent.iterdir()] == [bundle.NAME]


def test_equal_weights_give_equal_bytes(
    path: Path, network: nn.Module, spec: ModelSpec, tmp_path: Path
) -> None:
    bundle.save(tmp_path / "again.zip", network.state_dict(), spec)
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


def test_raster_visions_bundle_holds_ours(path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as z:
        z.writestr("pipeline-config.json", "{}")
        z.write(path, bundle.NAME)
    assert bundle.load(tmp_path / "outer.zip")[1] == spec


def rewritten(path: Path, target: Path, **changes: bytes) -> Path:
    """A copy of a bundle with other contents of some files (dots as underscores)."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as z:
        for name in source.namelist():
            z.writestr(name, changes.get(name.replace(".", "_"), source.read(name)))
    return target


def test_bad_bundles(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.zip .*not exist; .*train stage"):
        bundle.load(tmp_path / "none.zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.zip is damaged"):
        bundle.load(cut)
    with pytest.raises(InputError, match="is damaged"):
        bundle.load(rewritten(path, tmp_path / "weights.zip", weights_pt=b"no weights"))
    with pytest.raises(InputError, match="is damaged"):
        bundle.load(rewritten(path, tmp_path / "spec.zip", model_json=b"{}"))
    newer = b'{"format": 9, "rvk8s": "7.0"}'
    with pytest.raises(InputError, match=r"format 9, .* 1; .*rvk8s 7\.0"):
        bundle.load(rewritten(path, tmp_path / "newer.zip", model_json=newer))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as z:
        z.writestr("learner-config.json", "{}")
    with pytest.raises(InputError, match=r"other\.zip .*not a model bundle"):
        bundle.load(tmp_path / "other.zip")


def test_weights_of_another_network(path: Path, spec: ModelSpec, tmp_path: Path) -> None:
    bundle.save(tmp_path / "other.zip", {"0.weight": torch.zeros(3)}, spec)
    with pytest.raises(InputError, match=r"weights .*fit .*unet/resnet18"):
        bundle.load_model(tmp_path / "other.zip")
