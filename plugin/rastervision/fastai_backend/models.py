"""The networks: what defines one (ModelSpec), how it is built, and what it takes as input."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Size of the dummy image by which fastai finds the layers where the resolution changes. The
#: network itself takes any size.
_PROBE_SIZE = (128, 128)


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network again and to feed it.

    Args:
        arch: "unet" or "deeplabv3".
        backbone: name of a torchvision classifier.
        channels: bands of an image.
        class_names: a name for each output, in the order of the class ids.
        class_colors: a color for each class.
        null_id: id of the class of pixels without data, None where there is none.
        mean, std: for each band what is subtracted and then divided by, in the bands' own units.
        img_sz: width and height of the images that it was trained on, pixels.
        dtype: pixel type of the images that it was trained on.
        last_cross: unet: the input image is fed to the last block.
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


def build(
    spec: ModelSpec,
    *,
    pretrained: bool = False,
    backbone_state: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Build the network of a spec, in channels_last memory format and in training mode.

    It maps normalised images (N, channels, H, W) float to logits (N, classes, H, W). Weights are
    random (torch's global generator decides them).

    Args:
        pretrained: the backbone's weights are torchvision's, from ImageNet.
        backbone_state: the backbone's weights are these: state dict of torchvision's classifier,
            with or without the last layers.

    Raises:
        InputError: the backbone is unknown or can't be cut, or its weights can't be had.
    """
    if spec.arch not in ("unet", "deeplabv3"):
        raise InputError(f"arch is {spec.arch!r}", fix="use unet or deeplabv3")
    body = _body(spec, pretrained, backbone_state)
    features = _out_channels(spec, body)
    if spec.arch == "unet":
        model = _unet(spec, body)
    else:
        model = DeepLabV3(body, features, spec.num_classes)
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]


def parameter_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The backbone's parameters, then those of the rest: what freezing keeps still, and what not.

    This is a fastai splitter.
    """
    body = model.body if isinstance(model, DeepLabV3) else model[0]  # type: ignore[index]
    of_body = {id(p) for p in body.parameters()}
    groups: list[list[nn.Parameter]] = [[], []]
    for p in model.parameters():
        groups[id(p) not in of_body].append(p)
    return groups


class DeepLabV3(nn.Module):
    """torchvision's DeepLabV3 head on a backbone; logits are resized to the image's size.

    Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation".
    """

    def __init__(self, body: nn.Module, features: int, num_classes: int):
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        super().__init__()
        self.body = body
        self.head = DeepLabHead(features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> logits (N, classes, H, W)."""
        y = self.head(self.body(x))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _unet(spec: ModelSpec, body: nn.Sequential) -> nn.Module:
    from fastai.vision.models.unet import DynamicUnet

    try:
        model = DynamicUnet(body, spec.num_classes, _PROBE_SIZE, last_cross=spec.last_cross)
    except (RuntimeError, IndexError, TypeError, AttributeError) as e:
        raise _uncuttable(spec.backbone) from e
    # fastai's last layer casts its tensor subclasses back to plain tensors, and ours are plain.
    model.layers = model.layers[:-1]
    return model


def without_weights(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that `make` builds, with shapes and no weights: quick, and without memory.

    One that computes while it is built, as a regnet, is built in full.
    """
    # Not first within the block: torch's own modules compute when they are imported.
    importlib.import_module("torchvision")
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        return make()


def backbone_names(model: nn.Module) -> set[str]:
    """Keys of the state dict that belong to the backbone."""
    prefix = "body." if isinstance(model, DeepLabV3) else "layers.0."
    return {name for name in model.state_dict() if name.startswith(prefix)}


def classifier_names(spec: ModelSpec) -> set[str]:
    """Names of the weights in torchvision's classifier of this backbone."""
    network = without_weights(lambda: _classifier(spec, pretrained=False))
    return {name for name, _ in network.named_parameters()}


def _body(
    spec: ModelSpec, pretrained: bool, state: Mapping[str, torch.Tensor] | None
) -> nn.Sequential:
    """The backbone without its classifier, for images of spec.channels bands."""
    from fastai.vision.learner import create_body

    network = _classifier(spec, pretrained)
    if state is not None:
        name, _ = _first_convolution(network)
        if (weight := state.get(f"{name}.weight")) is not None and weight.ndim == 4:
            _adapt_first_convolution(network, weight.shape[1], pretrained=False)
        _load_classifier(network, state, spec)
    _adapt_first_convolution(network, spec.channels, pretrained or state is not None)
    body = create_body(network, pretrained=pretrained, cut=_cut)
    # Many backbones keep all layers in one block: the U-Net needs to see inside.
    while len(body) == 1 and isinstance(body[0], nn.Sequential):
        body = body[0]
    return body


def _cut(network: nn.Module) -> nn.Sequential:
    """The layers before the classifier: `features` where torchvision named them so, else all up to
    the last one that holds a convolution.

    fastai's own rule (up to the last pooling layer) finds no cut in, or too early a one, where the
    last pooling is a function call: mobilenet_v2, mnasnet, shufflenet.
    """
    if isinstance(features := getattr(network, "features", None), nn.Sequential):
        return features
    layers = list(network.children())
    while layers and not _has_convolution(layers[-1]):
        layers.pop()
    body = nn.Sequential(*layers)
    # A transformer's blocks are not convolutions: nearly nothing would be left of it.
    if _size(body) < _size(network) / 4:
        raise _uncuttable(type(network).__name__)
    return body


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) for m in module.modules())


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _load_classifier(
    network: nn.Module, state: Mapping[str, torch.Tensor], spec: ModelSpec
) -> None:
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    # The classifier's last layer may be of other classes; all else has to be there.
    if len(fitting) < len(own) - 2:
        raise InputError(
            f"these weights are not those of {spec.backbone}", where="model.pretrained_uri"
        )
    network.load_state_dict(fitting, strict=False)


def _classifier(spec: ModelSpec, pretrained: bool) -> nn.Module:
    from torchvision import models

    if spec.backbone not in models.list_models(module=models):
        raise InputError(
            f"torchvision has no {spec.backbone!r}",
            where="model.backbone",
            fix="use one of its classifiers, such as resnet18, resnet50 or efficientnet_b0",
        )
    kwargs: dict[str, Any] = {}
    dilate = spec.arch == "deeplabv3" and "resne" in spec.backbone
    basic = spec.backbone in ("resnet18", "resnet34")
    if dilate and not basic:
        kwargs["replace_stride_with_dilation"] = [False, True, True]
    if spec.backbone == "googlenet":
        kwargs.update(aux_logits=False)
        if not pretrained:
            kwargs.update(init_weights=True)
    try:
        network = models.get_model(
            spec.backbone, weights="DEFAULT" if pretrained else None, **kwargs
        )
    except NotImplementedError:
        raise  # the meta device's
    except (URLError, OSError, RuntimeError) as e:
        raise InputError(
            f"the pretrained weights of {spec.backbone} can't be downloaded: {e}",
            where="model.pretrained",
            fix="set it to false, or model.pretrained_uri to a file that you have",
        ) from e
    if dilate and basic:
        _dilate_basic_blocks(network)
    return network


def _dilate_basic_blocks(network: nn.Module) -> None:
    """Keep resolution 1/8 from layer3 on, as torchvision's replace_stride_with_dilation does for
    networks of bottleneck blocks; it refuses the small ones."""
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for i, block in enumerate(layer):  # type: ignore[arg-type]
            first = dilation // 2 if i == 0 else dilation
            for conv, d in ((block.conv1, first), (block.conv2, dilation)):
                conv.stride, conv.dilation, conv.padding = (1, 1), (d, d), (d, d)
            if block.downsample is not None:
                block.downsample[0].stride = (1, 1)


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d]:
    """The layer that takes the bands, and its name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise _uncuttable(type(network).__name__)


def _adapt_first_convolution(network: nn.Module, channels: int, pretrained: bool) -> None:
    """Replace the first convolution by one of `channels` input bands, where it has others; see
    spread_bands() for its weights."""
    name, conv = _first_convolution(network)
    if conv.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(spread_bands(conv.weight, channels))
            if conv.bias is not None and new.bias is not None:
                new.bias.copy_(conv.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)


def spread_bands(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """The weights of a first convolution, (filters, bands, h, w), for images of other bands.

    The first bands keep theirs (three of an ImageNet network's: red, green and blue); bands beyond
    get their mean, and so do all where there are only one or two. All are scaled by old / new
    bands, so that activations keep their size.
    """
    old = weight.shape[1]
    mean = weight.mean(dim=1, keepdim=True)
    kept = min(old, channels) if channels > 2 else 0
    bands = torch.cat([weight[:, :kept], mean.expand(-1, channels - kept, -1, -1)], dim=1)
    log.info(
        "the images have %d bands: the pretrained first convolution is adapted (of its %d bands "
        "the first %d keep their weights, others take the mean)",
        *(channels, old, kept),
    )
    return bands * (old / channels)


def _out_channels(spec: ModelSpec, body: nn.Module) -> int:
    """Channels that the backbone gives; measured, since torchvision names them in many ways."""
    try:
        with torch.no_grad():
            out = body.eval()(torch.zeros(1, spec.channels, *_PROBE_SIZE))
    except (RuntimeError, TypeError, AssertionError) as e:
        raise _uncuttable(spec.backbone) from e
    # Transformers give tokens, or channels in the last place: neither is a feature map.
    if out.ndim != 4 or out.shape[2] != out.shape[3]:
        raise _uncuttable(spec.backbone)
    return out.shape[1]


def _uncuttable(backbone: str) -> InputError:
    return InputError(
        f"backbone {backbone} can't be cut into a feature pyramid",
        where="model.backbone",
        fix="use a convolutional one, such as resnet18, resnet50, densenet121 or efficientnet_b0",
    )
