"""The backbones: torchvision's networks without their last layers, for images of any bands."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import URLError

import torch
from rastervision.fastai_backend.model_spec import ModelSpec
from torch import nn

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Size of the dummy image by which fastai finds the layers where the resolution changes. The
#: network itself takes any size.
PROBE_SIZE = (128, 128)


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


def classifier_names(spec: ModelSpec) -> set[str]:
    """Names of the weights in torchvision's classifier of this backbone."""
    network = without_weights(lambda: _classifier(spec, pretrained=False))
    return {name for name, _ in network.named_parameters()}


def body_of(
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
        raise uncuttable(type(network).__name__)
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
            fix=_other_ways(spec.backbone),
        ) from e
    if dilate and basic:
        _dilate_basic_blocks(network)
    return network


def _other_ways(backbone: str) -> str:
    """How to train without a download; names the file that torchvision looks for."""
    from torchvision.models import get_model_weights

    ways = "set it to false (-a pretrained false, where get_config has that argument)"
    default = getattr(get_model_weights(backbone), "DEFAULT", None)
    if default is None:
        return f"{ways}, or model.pretrained_uri to a file that you have"
    place = f"{torch.hub.get_dir()}/checkpoints"
    return (
        f"{ways}, model.pretrained_uri to a file that you have, or put {default.url} into {place}"
    )


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
    raise uncuttable(type(network).__name__)


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


def out_channels(spec: ModelSpec, body: nn.Module) -> int:
    """Channels that the backbone gives; measured, since torchvision names them in many ways."""
    try:
        with torch.no_grad():
            out = body.eval()(torch.zeros(1, spec.channels, *PROBE_SIZE))
    except (RuntimeError, TypeError, AssertionError) as e:
        raise uncuttable(spec.backbone) from e
    # Transformers give tokens, or channels in the last place: neither is a feature map.
    if out.ndim != 4 or out.shape[2] != out.shape[3]:
        raise uncuttable(spec.backbone)
    return out.shape[1]


def uncuttable(backbone: str) -> InputError:
    return InputError(
        f"backbone {backbone} can't be cut into a feature pyramid",
        where="model.backbone",
        fix="use a convolutional one, such as resnet18, resnet50, densenet121 or efficientnet_b0",
    )
