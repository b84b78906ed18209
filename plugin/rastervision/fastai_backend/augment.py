"""Augmentation of whole batches on the device, a function of (seed, epoch, batch)."""

from __future__ import annotations

import numpy as np
import torch
from rastervision.fastai_backend.boxes import turned_boxes
from rastervision.fastai_backend.options import DataOptions

_AUGMENT = 3  # first word of the generator's seed; see sampling.py


class Augment:
    """Random flips, quarter turns and lighting, drawn for each chip of a batch.

    Args:
        options: flip_horiz, flip_vert, dihedral, lighting.
        seed: with epoch and batch it decides what is drawn.
        share: (rank, ranks): the chips are this part of the batch that all ranks have together,
            and get what they would get in the whole of it.
    """

    def __init__(self, options: DataOptions, seed: int, share: tuple[int, int] = (0, 1)):
        self.options, self.seed, self.share = options, seed, share

    def _uniform(self, epoch: int, batch: int, kind: int, rows: int, n: int) -> np.ndarray:
        """(rows, n) numbers in [0, 1), drawn for the batch of all ranks."""
        rank, ranks = self.share
        rng = np.random.default_rng([_AUGMENT, self.seed, epoch, batch, kind])
        return rng.random((rows, n * ranks))[:, rank * n : (rank + 1) * n]

    def turn(
        self, images: torch.Tensor, labels: torch.Tensor, epoch: int, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flip and turn chips and their labels alike.

        Args:
            images: (N, S, S, C), any type.
            labels: (N, S, S), or boxes (N, M, 5); (N,), of whole chips, are left as they are.

        Returns:
            The same shapes; new tensors where anything was turned.
        """
        o, n = self.options, len(images)
        draws = self._uniform(epoch, batch, 0, 3, n) < 0.5
        wanted = np.array([[o.dihedral], [o.flip_vert or o.dihedral], [o.flip_horiz or o.dihedral]])
        codes = (draws & wanted).T @ np.array([4, 2, 1])
        if not codes.any():
            return images, labels
        images, labels = images.clone(), labels.clone()
        for code in np.unique(codes[codes > 0]):
            chosen = torch.from_numpy(np.flatnonzero(codes == code)).to(images.device)
            images[chosen] = turned(images[chosen], int(code))
            if labels.is_floating_point():
                labels[chosen] = turned_boxes(labels[chosen], int(code), images.shape[1])
            elif labels.ndim == 3:
                labels[chosen] = turned(labels[chosen], int(code))
        return images, labels

    def light(self, images: torch.Tensor, epoch: int, batch: int) -> torch.Tensor:
        """Change brightness and contrast of normalised images (N, C, H, W), in place.

        Contrast is multiplied by exp(u) and brightness moved by v of the bands' deviations, u and
        v uniform in [-lighting, lighting], alike for all bands of a chip.
        """
        if self.options.lighting == 0:
            return images
        draws = 2 * self._uniform(epoch, batch, 1, 2, len(images)).reshape(2, -1, 1, 1, 1) - 1
        u, v = torch.from_numpy(draws * self.options.lighting).to(images.device, torch.float32)
        return images.mul_(u.exp()).add_(v)


def turned(x: torch.Tensor, code: int) -> torch.Tensor:
    """One of the 8 symmetries of the square, applied to dimensions 1 and 2 of (N, S, S, ...).

    Args:
        code: 0 to 7; its bits say: 4 transpose, then 2 top to bottom, then 1 left to right.
    """
    if code & 4:
        x = x.transpose(1, 2)
    dims = [d for bit, d in ((2, 1), (1, 2)) if code & bit]
    return x.flip(dims) if dims else x
