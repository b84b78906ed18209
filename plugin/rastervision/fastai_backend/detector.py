"""RetinaNet on any backbone that fastai can cut: the network of an object detection.

Lin et al. 2017, "Focal Loss for Dense Object Detection": a feature pyramid on the backbone, and at
each place of its levels, for each of nine anchors, logits of the classes and the offsets of a box.
The pyramid, the heads and the anchors are torchvision's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from math import log2
from typing import NamedTuple

import torch
from rastervision.fastai_backend.backbones import PROBE_SIZE, uncuttable
from rastervision.fastai_backend.boxes import XYXY
from rastervision.fastai_backend.model_spec import ModelSpec
from torch import nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, batched_nms, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

#: Levels of the backbone that the pyramid stands on: its last ones. Two more are made from it.
_LEVELS = 3
#: Channels that are normalized together: one alone would be nothing where a level is one pixel.
GROUP = 8
_RATIOS = (0.5, 1.0, 2.0)
#: At most so many boxes of a chip are looked at, the best ones.
_CANDIDATES = 1000
#: Boxes of a class that overlap more are taken for one object.
_SAME_OBJECT = 0.5


class Detector(nn.Module):
    """A RetinaNet.

    Args:
        body: the backbone.
        spec: of the network; there is no class for the background.

    Raises:
        InputError: the backbone has too few resolutions.
    """

    #: Its last convolutions, which half.py leaves in fp32.
    ends = ("head.classification_head.cls_logits", "head.regression_head.bbox_reg")

    def __init__(self, body: nn.Sequential, spec: ModelSpec):
        super().__init__()
        self.body, self.num_classes = body, spec.num_classes
        # Not modules of its own: they are the body's.
        self._layers, levels = _levels(body, spec)
        self._taps = [level.tap for level in levels]
        strides = [level.stride for level in levels]
        self._strides = [*strides, 2 * strides[-1], 4 * strides[-1]]
        extra = LastLevelP6P7(spec.features, spec.features)
        widths = [level.channels for level in levels]
        self.pyramid = FeaturePyramidNetwork(widths, spec.features, extra)
        sides = [spec.anchor_sz * 2**level for level in range(len(self._strides))]
        sizes = tuple(tuple(round(s * 2 ** (i / 3)) for i in range(3)) for s in sides)
        self.anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
        # As in torchvision's second version: without normalization it takes long to begin to learn.
        norm = partial(nn.GroupNorm, spec.features // GROUP)
        count = 3 * len(_RATIOS)
        self.head = RetinaNetHead(spec.features, count, spec.num_classes, norm_layer=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> (N, anchors, classes + 8) float32.

        Of each anchor: the classes' logits, the box's offsets (Ren et al. 2015, "Faster R-CNN":
        dx, dy, dw, dh), and the anchor itself, x1, y1, x2, y2 in pixels.
        """
        levels = list(self.pyramid(self._features(x)).values())
        out = self.head(levels)
        anchors = self._grid([level.shape[-2:] for level in levels], x.device)
        parts = (out["cls_logits"], out["bbox_regression"], anchors.expand(len(x), -1, -1))
        return torch.cat([part.float() for part in parts], -1)

    def _features(self, x: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        found: OrderedDict[str, torch.Tensor] = OrderedDict()
        for i, layer in enumerate(self._layers):
            x = layer(x)
            if i in self._taps:
                found[str(i)] = x
        return found

    def _grid(self, sizes: list[torch.Size], device: torch.device) -> torch.Tensor:
        """All anchors (A, 4) float32, level after level.

        torchvision's own call takes the image's size by the level's for the stride, which is less
        where the sides are no multiples of it, and the levels' type, in which places are rounded.
        """
        self.anchors.set_cell_anchors(torch.float32, device)
        steps = [[torch.tensor(s, device=device)] * 2 for s in self._strides]
        return torch.cat(self.anchors.grid_anchors([list(s) for s in sizes], steps))


class _Level(NamedTuple):
    """A resolution of a backbone.

    Attributes:
        tap: the position of its last layer in the backbone before the resolution changes.
        channels: that this layer gives.
        stride: pixels of the image for one of the level.
    """

    tap: int
    channels: int
    stride: int


def _levels(body: nn.Sequential, spec: ModelSpec) -> tuple[list[nn.Module], list[_Level]]:
    """The layers of a backbone, and its last resolutions."""
    layers = list(body)
    while True:
        found = _resolutions(layers, spec.channels)
        if len(found) >= _LEVELS:
            return layers, found[-_LEVELS:]
        # Some backbones keep most of their layers in one block.
        if not isinstance(layers[-1], nn.Sequential):
            raise uncuttable(spec.backbone)
        layers = [*layers[:-1], *layers[-1]]


def _resolutions(layers: list[nn.Module], channels: int) -> list[_Level]:
    shapes = []
    with torch.no_grad():
        x = torch.zeros(1, channels, *PROBE_SIZE)
        for layer in layers:
            x = layer.eval()(x)
            shapes.append(x.shape)
    last = [
        i
        for i, shape in enumerate(shapes)
        if i + 1 == len(shapes) or shapes[i + 1][2:] != shape[2:]
    ]
    # Layers without padding give a little less than a half.
    strides = [2 ** round(log2(PROBE_SIZE[0] / shapes[i][2])) for i in last]
    return [_Level(i, shapes[i][1], stride) for i, stride in zip(last, strides, strict=True)]


def decode(
    output: torch.Tensor, size: Sequence[int], score: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a Detector has found in each chip.

    Args:
        output: (N, anchors, classes + 8), as Detector gives it.
        size: height and width of the chips in pixels; boxes are clipped to them.
        score: the least that a box has to have.

    Returns:
        For each chip boxes (M, 5), as boxes.py holds them, and their scores (M,), falling.
    """
    return [_decode(one, size, score) for one in output.float()]


def _decode(
    output: torch.Tensor, size: Sequence[int], score: float
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = output[:, :-8].sigmoid().flatten()
    kept = (scores >= score).nonzero()[:, 0]
    best = scores[kept].topk(min(_CANDIDATES, len(kept))).indices
    kept = kept[best]
    anchors, ids = kept // (output.shape[1] - 8), kept % (output.shape[1] - 8)
    xyxy = _apply(output[anchors, -8:-4], output[anchors, -4:])
    xyxy = clip_boxes_to_image(xyxy, (size[0], size[1]))
    there = ((xyxy[:, 2:] - xyxy[:, :2]) > 0).all(1)
    xyxy, ids, scores = xyxy[there], ids[there], scores[kept][there]
    own = batched_nms(xyxy, scores, ids, _SAME_OBJECT)
    boxes = torch.cat([xyxy[own][:, XYXY], ids[own, None].to(xyxy.dtype)], 1)
    return boxes, scores[own]


def _apply(offsets: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """The boxes x1, y1, x2, y2 of anchors that are moved and resized by offsets."""
    return BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(offsets, anchors)
