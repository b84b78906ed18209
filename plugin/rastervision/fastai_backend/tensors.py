"""Chips as tensors, and resized as such."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """(N, S, S, C) as a tensor; uint16 as int32, since torch can do little with uint16."""
    if images.dtype == np.uint16:
        return torch.from_numpy(images.astype(np.int32))
    return torch.from_numpy(np.ascontiguousarray(images))


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """(height, width, channels) -> (size, size, channels), its type kept; bilinear, antialiased."""
    x = as_tensor(pixels[None]).permute(0, 3, 1, 2).to(torch.float32)
    x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    out = x[0].permute(1, 2, 0).numpy()
    if np.issubdtype(pixels.dtype, np.integer):
        out = out.round()
    return out.astype(pixels.dtype)


def resized_labels(ids: np.ndarray, size: int) -> np.ndarray:
    """(height, width) uint8 -> (size, size) uint8; nearest."""
    y = torch.from_numpy(np.ascontiguousarray(ids))[None, None]
    return F.interpolate(y, size=(size, size), mode="nearest-exact")[0, 0].numpy()
