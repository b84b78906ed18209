"""What defines a network (ModelSpec), and what it takes as input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from rastervision.fastai_backend.chips import LabelKind

from rvk8s.errors import InputError

#: The arch of a network that gives a class to a chip, and of one that finds boxes; the others give
#: a class to each pixel.
CLASSIFIER, DETECTOR = "classifier", "retinanet"


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network again and to feed it.

    Args:
        arch: "unet", "deeplabv3", CLASSIFIER or DETECTOR.
        backbone: name of a torchvision classifier.
        channels: bands of an image.
        class_names: a name for each output, in the order of the class ids.
        class_colors: a color for each class.
        null_id: id of the class of pixels without data, None where there is none.
        mean, std: for each band what is subtracted and then divided by, in the bands' own units.
        img_sz: width and height of the images that it was trained on, pixels.
        dtype: pixel type of the images that it was trained on.
        last_cross: unet: the input image is fed to the last block.
        dropout: classifier: share of the features that a training leaves out.
        anchor_sz, features: detector: see detector.Detector.
    """

    arch: str
    backbone: str
    channels: int
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    null_id: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_sz: int
    dtype: str = "uint8"
    last_cross: bool = True
    dropout: float = 0.5
    anchor_sz: int = 16
    features: int = 256

    @property
    def label_kind(self) -> LabelKind:
        """What the labels of its training are."""
        kinds: dict[str, LabelKind] = {CLASSIFIER: "chip", DETECTOR: "boxes"}
        return kinds.get(self.arch, "pixels")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON holds it; from_dict() turns it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelSpec:
        """Raises InputError where keys are missing or unknown."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise InputError(f"model spec has unknown keys {unknown}", fix="use a newer rvk8s")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        try:
            return cls(**values)
        except TypeError as e:
            raise InputError(f"model spec is incomplete: {e}") from e


def normalize(spec: ModelSpec, images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn chips into the network's input.

    Args:
        spec: gives mean and deviation of each band.
        images: (N, H, W, C), any pixel type, as ChipSource.read gives them.

    Returns:
        (N, C, H, W) float32 on the images' device, in channels_last memory format: the layout of
        the chips, so nothing is moved.
    """
    x = torch.as_tensor(images)
    if x.ndim != 4 or x.shape[3] != spec.channels:
        raise InputError(
            f"images of shape {tuple(x.shape)}; the model takes (N, H, W, {spec.channels})"
        )
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=x.device)
    std = torch.tensor(spec.std, dtype=torch.float32, device=x.device)
    x = x.to(torch.float32, copy=True).sub_(mean).div_(std)
    return x.permute(0, 3, 1, 2)
