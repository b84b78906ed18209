"""Progress files of a stage's splits -> one line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rvk8s.times import duration, seconds_since


@dataclass(frozen=True)
class Progress:
    """How far a stage is, over all its splits.

    Attributes:
        values: the keys that rastervision.fastai_backend.progress writes, of the split that wrote
            last.
        elapsed: seconds since the stage started.
        shares: by split, the share of its pixels that are done; None where it counts none.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    elapsed: float = 0.0
    shares: tuple[float | None, ...] = ()

    @classmethod
    def of_splits(cls, files: Sequence[Mapping[str, Any] | None], started: str | None) -> Progress:
        """Put the progress files of the splits together; None for one that is not there yet.

        Files of an attempt before this one are passed over.
        """
        files = [_known(file) for file in files]
        files = [
            file if file and str(file.get("updated") or started) >= str(started or "") else None
            for file in files
        ]
        there = sorted((file for file in files if file), key=lambda file: str(file.get("updated")))
        values: dict[str, Any] = {key: value for file in there for key, value in file.items()}
        return cls(values, seconds_since(started), tuple(_share(file or {}) for file in files))

    @property
    def share(self) -> float | None:
        """The share of the pixels that are done, 0 to 1; None where nothing counts pixels.

        Scenes count alike, whatever their size, and so do splits.
        """
        known = [share for share in self.shares if share is not None]
        return sum(known) / len(self.shares) if known else None

    def milestone(self) -> tuple[str, int] | None:
        """Changes when a plain line is due: at each epoch that ended and each tenth of pixels."""
        if self.share is not None:
            return ("tenth", int(self.share * 10))
        epoch = self.values.get("epoch")
        # The score comes with the end of an epoch.
        return ("epoch", int(epoch)) if epoch and "macroF1" in self.values else None

    def text(self) -> str:
        """One line: epoch 3/10  batch 5/40  loss 0.412  61 images/s."""
        values, parts = self.values, []
        if values.get("epochs"):
            parts.append(f"epoch {values.get('epoch', 0)}/{values['epochs']}")
        if values.get("batches"):
            parts.append(f"batch {values.get('batch', 0)}/{values['batches']}")
        if values.get("loss") is not None:
            parts.append(f"loss {values['loss']:.4f}")
        if values.get("macroF1") is not None:
            parts.append(f"macro F1 {values['macroF1']:.3f}")
        if values.get("imagesPerSecond"):
            parts.append(f"{values['imagesPerSecond']:.3g} images/s")
        share = self.share
        if share is not None:
            parts.append(f"{share:.0%} of pixels")
            if 0.02 < share < 1:
                parts.append(f"{duration(self.elapsed * (1 - share) / share)} left")
        if values.get("scene"):
            parts.append(f"scene {values['scene']}")
        if values.get("message"):
            parts.append(str(values["message"]))
        return "  ".join(parts)


#: Values that are numbers; the others are texts.
_NUMBERS = {
    *("epoch", "epochs", "batch", "batches", "loss", "macroF1", "imagesPerSecond"),
    *("pixelsDone", "pixelsTotal", "scenes", "scenesDone"),
}


def _known(file: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A progress file without values of another kind: nothing but what is shown depends on it."""

    def is_right(key: str, value: Any) -> bool:
        if key not in _NUMBERS:
            return value is None or isinstance(value, str | int | float)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value is None or (is_number and (key == "loss" or math.isfinite(value)))

    return file and {key: value for key, value in file.items() if is_right(key, value)}


def _share(file: Mapping[str, Any]) -> float | None:
    """Of one split: scenes that are done, and the part of the present one."""
    total = file.get("pixelsTotal")
    present = min((file.get("pixelsDone") or 0) / total, 1.0) if total else None
    scenes = file.get("scenes")
    if not scenes:
        return present
    return min(((file.get("scenesDone") or 0) + (present or 0.0)) / scenes, 1.0)
