"""Boxes of objects in chips: how they are held, turned, resized, and matched with others.

Boxes of a chip are an array (M, 5) float32: ymin, xmin, ymax, xmax in the chip's pixels, and the
class id. In a batch (N, M, 5) chips with fewer boxes are filled up with rows of class NO_BOX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    import torch  # seconds to import, and eval does without

#: Raster Vision's evaluator counts a box as found where they overlap more than this.
IOU = 0.5
#: The class id of rows that are no box.
NO_BOX = -1.0
#: Of a box's numbers, those that torchvision wants: x1, y1, x2, y2.
XYXY = [1, 0, 3, 2]


def padded(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Boxes (M, 5) of chips as one array (N, largest M, 5)."""
    most = max((len(one) for one in boxes), default=0)
    out = np.zeros((len(boxes), most, 5), np.float32)
    out[:, :, 4] = NO_BOX
    for row, one in zip(out, boxes, strict=True):
        row[: len(one)] = one
    return out


def turned_boxes(boxes: torch.Tensor, code: int, size: int) -> torch.Tensor:
    """augment.turned() for the boxes (N, M, 5) of chips of `size` pixels."""
    import torch

    ymin, xmin, ymax, xmax, ids = boxes.unbind(-1)
    if code & 4:
        ymin, xmin, ymax, xmax = xmin, ymin, xmax, ymax
    if code & 2:
        ymin, ymax = size - ymax, size - ymin
    if code & 1:
        xmin, xmax = size - xmax, size - xmin
    return torch.stack([ymin, xmin, ymax, xmax, ids], -1)


def scaled(boxes: torch.Tensor, factor: float) -> torch.Tensor:
    """Boxes (..., 5) of chips that are resized by a factor."""
    out = boxes.clone()
    out[..., :4] *= factor
    return out


def real(boxes: torch.Tensor) -> torch.Tensor:
    """The boxes (M, 5) of one chip without the rows that are none."""
    return boxes[boxes[:, 4] != NO_BOX]


def hits(found: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    """Which boxes that were found are true.

    The usual greedy match (Everingham et al. 2010, "The PASCAL VOC Challenge"): by falling score
    each takes the true box of its class that it overlaps most, if that is more than `iou` and
    nothing has taken that box before.

    Args:
        found: (M, 5), by falling score.
        truth: (T, 5).

    Returns:
        (M,) which of those true boxes each took, -1 where it is none.
    """
    taken = np.full(len(found), -1)
    free = np.ones(len(truth), bool)
    mine, theirs, shares = overlaps(found, truth)
    counted = (shares > iou) & (found[mine, 4] == truth[theirs, 4])
    mine, theirs, shares = mine[counted], theirs[counted], shares[counted]
    # By box that was found, the best overlap first.
    for k in np.lexsort((-shares, mine)):
        if taken[mine[k]] < 0 and free[theirs[k]]:
            taken[mine[k]], free[theirs[k]] = theirs[k], False
    return taken


def overlaps(some: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of boxes (M, 5) and others (T, 5) that overlap.

    A scene may have many thousands of both, and few of them meet.

    Returns:
        The positions of both, (P,) each, and their intersection over union, (P,).
    """
    tree = shapely.STRtree(shapely.box(*others[:, XYXY].T))
    mine, theirs = tree.query(shapely.box(*some[:, XYXY].T))
    one, other = some[mine], others[theirs]
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:4], other[:, 2:4])
    common = np.clip(high - low, 0, None).prod(1)
    area, beside = ((b[:, 2:4] - b[:, :2]).prod(1) for b in (one, other))
    union = area + beside - common
    return mine, theirs, np.divide(common, union, out=np.zeros_like(common), where=union > 0)
