"""What is said where a backbone's pretrained weights cannot be downloaded."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import pytest
import torch
from rastervision.fastai_backend.backbones import _classifier
from rastervision.fastai_backend.model_spec import ModelSpec
from torchvision import models

from rvk8s.errors import InputError


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0"])
def test_no_download_names_option_file_and_folder(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(models, "get_model", fail)
    shown = {"class_names": ("a", "b"), "class_colors": ("red", "blue"), "null_id": None}
    seen = {"channels": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3, "img_sz": 64}
    spec = ModelSpec.from_dict({"arch": "unet", "backbone": backbone, **shown, **seen})
    with pytest.raises(InputError) as caught:
        _classifier(spec, pretrained=True)
    said = str(caught.value)
    for part in ("-a pretrained false", "model.pretrained_uri", f"/{backbone}"):
        assert part in said
    assert f"{torch.hub.get_dir()}/checkpoints" in said
