"""The networks: how one is built from its spec."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rastervision.fastai_backend.backbones import PROBE_SIZE, body_of, out_channels, uncuttable
from rastervision.fastai_backend.model_spec import CLASSIFIER, DETECTOR, ModelSpec
from torch import nn
from torch.nn import functional as F

from rvk8s.errors import InputError


def build(
    spec: ModelSpec,
    *,
    pretrained: bool = False,
    backbone_state: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Build the network of a spec, in channels_last memory format and in training mode.

    It maps normalised images (N, channels, H, W) float to logits: (N, classes, H, W), or
    (N, classes) if arch is CLASSIFIER, or to what detector.Detector gives. Weights are random
    (torch's global generator decides them).

    Args:
        pretrained: the backbone's weights are torchvision's, from ImageNet.
        backbone_state: the backbone's weights are these: state dict of torchvision's classifier,
            with or without the last layers.

    Raises:
        InputError: the backbone is unknown or can't be cut, or its weights can't be had.
    """
    known = ("unet", "deeplabv3", CLASSIFIER, DETECTOR)
    if spec.arch not in known:
        raise InputError(f"arch is {spec.arch!r}", fix=f"use one of {', '.join(known)}")
    body = body_of(spec, pretrained, backbone_state)
    features = out_channels(spec, body)
    if spec.arch == "unet":
        model = _unet(spec, body)
    elif spec.arch == "deeplabv3":
        model = DeepLabV3(body, features, spec.num_classes)
    elif spec.arch == CLASSIFIER:
        model = Classifier(body, features, spec.num_classes, spec.dropout)
    else:
        model = _detector(spec, body)
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


def parameter_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The backbone's parameters, then those of the rest: what freezing keeps still, and what not.

    This is a fastai splitter.
    """
    body = getattr(model, "body", None) or model[0]  # type: ignore[index]
    of_body = {id(p) for p in body.parameters()}
    groups: list[list[nn.Parameter]] = [[], []]
    for p in model.parameters():
        groups[id(p) not in of_body].append(p)
    return groups


class _OnBody(nn.Module):
    """A head on what a backbone gives."""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> what the head gives."""
        return self.head(self.body(x))


class Classifier(_OnBody):
    """fastai's head of a vision learner: mean and maximum of each feature, two linear layers.

    It maps (N, channels, H, W) to logits (N, classes).
    """

    def __init__(self, body: nn.Module, features: int, num_classes: int, dropout: float):
        from fastai.torch_core import apply_init
        from fastai.vision.learner import create_head

        head = create_head(features, num_classes, ps=dropout)
        apply_init(head, nn.init.kaiming_normal_)  # as fastai's vision_learner does
        super().__init__(body, head)


class DeepLabV3(_OnBody):
    """torchvision's DeepLabV3 head on a backbone; logits are resized to the image's size.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation".
    """

    def __init__(self, body: nn.Module, features: int, num_classes: int):
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        super().__init__(body, DeepLabHead(features, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> logits (N, classes, H, W)."""
        y = super().forward(x)
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _detector(spec: ModelSpec, body: nn.Sequential) -> nn.Module:
    from rastervision.fastai_backend.detector import Detector

    return Detector(body, spec)


def _unet(spec: ModelSpec, body: nn.Sequential) -> nn.Module:
    from fastai.vision.models.unet import DynamicUnet

    try:
        model = DynamicUnet(body, spec.num_classes, PROBE_SIZE, last_cross=spec.last_cross)
    except (RuntimeError, IndexError, TypeError, AttributeError) as e:
        raise uncuttable(spec.backbone) from e
    # fastai's last layer casts its tensor subclasses back to plain tensors, and ours are plain.
    model.layers = model.layers[:-1]
    return model


#: How the names of a backbone's weights begin: in a U-Net, in the other networks.
_IN_UNET, _IN_OTHERS = "layers.0.", "body."


def with_backbone_of(
    state: Mapping[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """A state dict with the backbone's weights named as in `model`, which may be another network
    on the same backbone."""
    own, other = _IN_OTHERS, _IN_UNET
    if not hasattr(model, "body"):
        own, other = other, own
    return {
        own + name.removeprefix(other) if name.startswith(other) else name: weight
        for name, weight in state.items()
    }


def backbone_names(model: nn.Module) -> set[str]:
    """Keys of the state dict that belong to the backbone."""
    prefix = _IN_OTHERS if hasattr(model, "body") else _IN_UNET
    return {name for name in model.state_dict() if name.startswith(prefix)}
