"""Pictures for people: what the network sees in training, and how lr_find chose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rastervision.fastai_backend.checkpoint import whole
from rastervision.fastai_backend.chips import Classes

_MOST = 8  # chips in a picture


def chips_picture(
    path: Path, images: torch.Tensor, labels: torch.Tensor, classes: Classes, title: str
) -> None:
    """Save a PNG: a column for each chip, the image above its labels, and the classes' colors.

    Where a chip has one class, its name stands above it; boxes are drawn in it.

    Args:
        images: (N, C, H, W) as the network gets them, normalised. Shown are the first three bands,
            or the first one in grey, each stretched from its 2nd to its 98th percentile.
        labels: as the loader gives them.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    n = min(len(images), _MOST)
    colors = ListedColormap(list(classes.colors))
    norm = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
    of_boxes = labels.is_floating_point()
    rows = 1 if of_boxes or labels.ndim == 1 else 2
    figure = Figure(figsize=(1 + 2 * n, 1 + 2 * rows))
    for i in range(n):
        above = figure.add_subplot(rows, n, i + 1)
        above.imshow(stretched(images[i].float().cpu().numpy()))
        above.axis("off")
        if of_boxes:
            _draw_boxes(above, labels[i].cpu().numpy(), classes)
            continue
        if rows == 1:
            above.set_title(classes.names[int(labels[i])], fontsize=9)
            continue
        below = figure.add_subplot(rows, n, n + i + 1)
        below.imshow(labels[i].cpu().numpy(), cmap=colors, norm=norm, interpolation="nearest")
        below.axis("off")
    handles = [Patch(color=c, label=n) for n, c in zip(classes.names, classes.colors, strict=True)]
    if of_boxes or rows == 2:
        figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def _draw_boxes(axes: Any, boxes: np.ndarray, classes: Classes) -> None:
    from matplotlib.patches import Rectangle

    for ymin, xmin, ymax, xmax, class_id in boxes[boxes[:, 4] >= 0]:
        color = classes.colors[int(class_id)]
        size = xmax - xmin, ymax - ymin
        axes.add_patch(Rectangle((xmin, ymin), *size, fill=False, edgecolor=color, linewidth=1.2))


def stretched(image: np.ndarray) -> np.ndarray:
    """(C, H, W) in any unit -> (H, W, 3) in [0, 1] for showing."""
    bands = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    low, high = np.percentile(bands, (2, 98), axis=(1, 2), keepdims=True)
    return np.clip((bands - low) / np.maximum(high - low, 1e-6), 0, 1).transpose(1, 2, 0)


def lr_picture(path: Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> None:
    """Save a PNG of the losses over the learning rates that lr_find tried."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    axes.plot(rates, losses)
    axes.axvline(chosen, color="tab:orange", label=f"chosen: {chosen:.2e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title="lr_find")
    axes.legend()
    _save(figure, path)


def _save(figure: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)  # type: ignore[attr-defined]
