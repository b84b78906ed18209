"""Predict a scene by sliding windows, in batches, read ahead in a thread.

What is predicted, and how overlapping windows add up, is what Raster Vision's own prediction does
(rastervision.pytorch_learner.utils.prediction and its SemanticSegmentationLabels); in fp32 every
pixel is equal. A classifier gives each window a class of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from rastervision.fastai_backend import precision, progress
from rastervision.fastai_backend.augment import turned
from rastervision.fastai_backend.devices import device_of
from rastervision.fastai_backend.fold import fold_batch_norms
from rastervision.fastai_backend.half import halve
from rastervision.fastai_backend.heap import keep_freed_memory
from rastervision.fastai_backend.model_spec import ModelSpec, normalize
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.tensors import as_tensor
from rastervision.fastai_backend.windows import RowReader, SceneReader, Window
from torch import nn
from torch.nn import functional as F

from rvk8s.errors import InputError

log = logging.getLogger(__name__)

#: Batches that are read while one is predicted.
_READ_AHEAD = 4


@dataclass(frozen=True)
class Votes:
    """How often each pixel was given each class.

    Args:
        counts: (classes, height, width) uint8.
        hits: (height, width) bool, pixels that any window covered.
    """

    counts: np.ndarray
    hits: np.ndarray
    dtype: ClassVar[torch.dtype] = torch.uint8

    def add(self, window: Window, crop: int, values: np.ndarray, *, fill: bool = False) -> None:
        """Count the class ids (height, width) of a window, without `crop` pixels at its edges.

        Args:
            fill: only where no window was counted before.
        """
        inner, source = _overlap(window, crop, self.hits.shape)
        ids = values[source]
        if fill:
            ids = np.where(self.hits[inner], 255, ids)  # no class
        counts = self.counts[:, inner[0], inner[1]]
        for class_id, count in enumerate(counts):
            count += ids == class_id
        self.hits[inner] = True


@dataclass(frozen=True)
class Scores:
    """Sums of the classes' probabilities.

    Args:
        sums: (classes, height, width) float16.
        hits: (height, width) uint8, windows that covered each pixel.
    """

    sums: np.ndarray
    hits: np.ndarray
    dtype: ClassVar[torch.dtype] = torch.float16

    def add(self, window: Window, crop: int, values: np.ndarray, *, fill: bool = False) -> None:
        """Add a window's probabilities, without `crop` pixels.

        Args:
            values: (classes, height, width) float16.
            fill: only where no window was added before.
        """
        inner, source = _overlap(window, crop, self.hits.shape)
        sums, hits = self.sums[:, inner[0], inner[1]], self.hits[inner]
        where = hits == 0 if fill else True
        np.add(sums, values[:, source[0], source[1]], out=sums, where=where)
        np.add(hits, 1, out=hits, where=where)


@dataclass(frozen=True)
class Cells:
    """The classes' probabilities of whole windows.

    Args:
        probabilities: (classes,) float32 of each window, in the order of the windows.
    """

    probabilities: list[np.ndarray] = field(default_factory=list)
    dtype: ClassVar[torch.dtype] = torch.float32

    def add(self, window: Window, crop: int, values: np.ndarray, *, fill: bool = False) -> None:
        """Append a window's probabilities (classes,) float32."""
        self.probabilities.append(values)


@dataclass(frozen=True)
class Boxes:
    """What a detector has found, in the scene's pixels.

    Args:
        least: score that a box has to have.
        boxes: (M, 5) float32 of each window, as boxes.py holds them.
        scores: (M,) float32 of each window.
    """

    least: float
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)

    def add(self, window: Window, values: np.ndarray) -> None:
        """Append a window's boxes with their scores, (M, 6) float32, in the window's pixels."""
        place = np.array([window.ymin, window.xmin, window.ymin, window.xmin, 0], np.float32)
        self.boxes.append(values[:, :5] + place)
        self.scores.append(values[:, 5])


#: What takes the windows' values; `dtype` says which: class ids (uint8), or probabilities.
Output = Votes | Scores | Cells


class ScenePredictor:
    """A network, ready to predict scenes.

    Args:
        model: maps normalised images to logits; it is changed to suit the precision.
        spec: how images are normalised.
        settings: precision and test-time augmentation.
        img_sz: windows are resized to this many pixels for the network, as in training; None
            leaves them.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        settings: PredictSettings,
        img_sz: int | None = None,
        device: torch.device | None = None,
    ):
        self.device = device or device_of()
        self.spec, self.settings, self.img_sz = spec, settings, img_sz
        chosen = precision.choose(settings.precision, self.device, "predict.precision")
        self.dtype = {
            "fp32": torch.float32,
            "fp16": torch.float16,
            "bf16": torch.bfloat16,
        }[chosen]
        if self.device.type == "cpu":
            keep_freed_memory()
        # NVIDIA's fp32 convolutions round to TF32 by default, which has fp16's mantissa.
        torch.backends.cudnn.allow_tf32 = False
        model = model.eval().to(self.device)
        if self.dtype == torch.float32 and settings.exact:
            # Raster Vision's layout: another one sums in another order, and pixels would differ.
            self.layout = torch.contiguous_format
        else:
            self.layout = torch.channels_last
            model = fold_batch_norms(model, self._probe())
            if self.dtype != torch.float32:
                model = halve(model, self._probe(), self.dtype)
        self.model = model.to(memory_format=self.layout)  # type: ignore[call-overload]
        log.info("predicting on %s in %s", self.device.type, chosen)

    def predict(
        self,
        scene: SceneReader,
        windows: Sequence[Window],
        out: Output,
        *,
        batch_sz: int,
        crop_sz: int | None = None,
        fill: Sequence[Window] = (),
    ) -> None:
        """Predict all windows of a scene and add them up.

        Args:
            scene: where to read.
            windows: squares of one size, in the order in which they are added.
            out: takes votes or probabilities, whichever it is for; of the scene's size. A
                classifier's are Cells.
            batch_sz: windows at a time.
            crop_sz: pixels at the edges of every window that are thrown away.
            fill: more windows; a pixel that has a prediction by then keeps it.

        Raises:
            InputError: the scene has other bands than the network takes.
        """
        smooth = out.dtype != torch.uint8
        every = [*windows, *fill]
        for start, images in self._images(scene, every, batch_sz):
            # Cast before it is copied from a GPU: that is half as much for Scores.
            values = self.predict_batch(images, smooth).to(out.dtype)
            for i, value in enumerate(values.cpu().numpy(), start):
                out.add(every[i], crop_sz or 0, value, fill=i >= len(windows))

    def detect(
        self, scene: SceneReader, windows: Sequence[Window], out: Boxes, *, batch_sz: int
    ) -> None:
        """Find the objects in all windows of a scene; see predict()."""
        for start, images in self._images(scene, windows, batch_sz):
            for i, values in enumerate(self.detect_batch(images, out.least), start):
                out.add(windows[i], values)

    def _images(
        self, scene: SceneReader, windows: Sequence[Window], batch_sz: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The scene's windows in batches; how far it has come is reported after each."""
        self._check(scene)
        total, done = scene.height * scene.width, 0
        progress.report(scene=scene.id, pixelsDone=0, pixelsTotal=total, flush=True)
        for start, images in _read_ahead(_batches(scene, windows, batch_sz)):
            yield start, images
            done += len(images)
            progress.report(scene=scene.id, pixelsDone=total * done // len(windows))
        progress.report(scene=scene.id, pixelsDone=total, flush=True)

    @torch.inference_mode()
    def predict_batch(self, images: np.ndarray, smooth: bool) -> torch.Tensor:
        """Predict a batch of windows.

        Args:
            images: (N, H, W, channels) in the scene's pixel type.
            smooth: give probabilities.

        Returns:
            Class ids (N, H, W) uint8, or probabilities (N, classes, H, W) float32; of a classifier
            those of the windows, (N,) or (N, classes). On the device.
        """
        p = self._probabilities(self._input(images))
        if p.ndim == 4 and p.shape[-2:] != images.shape[1:3]:
            p = F.interpolate(p, size=images.shape[1:3], mode="bilinear", align_corners=False)
        if smooth:
            return p
        # Of probabilities and not of logits: where two classes round to the same probability Raster
        # Vision takes the first. So does max(), in a tenth of the time of argmax().
        return p.max(1).indices.to(torch.uint8)

    @torch.inference_mode()
    def detect_batch(self, images: np.ndarray, least: float) -> list[np.ndarray]:
        """Find the objects in a batch of windows (N, H, W, channels).

        Returns:
            For each window (M, 6) float32: its boxes in the window's pixels, as boxes.py holds
            them, and their scores, falling.
        """
        from rastervision.fastai_backend.detector import decode

        x = self._input(images)
        factor = images.shape[1] / x.shape[2]
        found = decode(self.model(x), x.shape[-2:], least)
        scale = torch.tensor([factor] * 4 + [1, 1], device=x.device)
        return [(torch.cat([b, s[:, None]], 1) * scale).cpu().numpy() for b, s in found]

    def _input(self, images: np.ndarray) -> torch.Tensor:
        """Windows (N, H, W, channels) as the network takes them."""
        x = normalize(self.spec, as_tensor(images).to(self.device))
        if self.img_sz is not None and x.shape[-2:] != (self.img_sz, self.img_sz):
            x = F.interpolate(x, size=(self.img_sz,) * 2, mode="bilinear", antialias=True)
        return x.contiguous(memory_format=self.layout)

    def _probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """(N, classes, H, W) or (N, classes) float32; with test-time augmentation the mean over 8
        symmetries."""
        if not self.settings.tta:
            return self.model(x).float().softmax(1)
        total = torch.zeros(())
        for code in range(8):
            view = _turned(x, code).contiguous(memory_format=self.layout)
            p = self.model(view).float().softmax(1)
            total = total + (_turned_back(p, code) if p.ndim == 4 else p)
        return total / 8

    def _probe(self) -> torch.Tensor:
        """An input of the network by which changes to it are checked."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, self.spec.channels, 64, 64, generator=generator)
        return x.to(self.device).contiguous(memory_format=torch.channels_last)

    def _check(self, scene: SceneReader) -> None:
        if scene.channels != self.spec.channels:
            raise InputError(
                f"scene {scene.id} has {scene.channels} bands, the model takes "
                f"{self.spec.channels}",
                fix="set channel_order to the bands that it was trained with",
            )
        if str(scene.dtype) != self.spec.dtype:
            log.warning(
                "scene %s is %s, but the model was trained on %s",
                scene.id,
                scene.dtype,
                self.spec.dtype,
            )


def _turned(x: torch.Tensor, code: int) -> torch.Tensor:
    """augment.turned() for images (N, C, H, W)."""
    return turned(x.permute(0, 2, 3, 1), code).permute(0, 3, 1, 2)


def _turned_back(x: torch.Tensor, code: int) -> torch.Tensor:
    """Undo _turned(): it transposes first and flips then, so flip first and transpose then."""
    x = _turned(x, code & 3)
    return _turned(x, code & 4)


def _overlap(
    window: Window, crop: int, size: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a cropped window that lies in the scene: slices of the scene, of the window."""
    y0, y1 = max(window.ymin + crop, 0), min(window.ymax - crop, size[0])
    x0, x1 = max(window.xmin + crop, 0), min(window.xmax - crop, size[1])
    y1, x1 = max(y0, y1), max(x0, x1)
    inside = slice(y0, y1), slice(x0, x1)
    source = slice(y0 - window.ymin, y1 - window.ymin), slice(x0 - window.xmin, x1 - window.xmin)
    return inside, source


def _batches(
    scene: SceneReader, windows: Sequence[Window], batch_sz: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Position of the first window and images (N, H, W, channels), batch by batch."""
    pixel = scene.channels * scene.dtype.itemsize
    rows = iter(RowReader(scene.image, windows, pixel, scene.image_in_strips))
    for start in range(0, len(windows), batch_sz):
        yield start, np.stack([next(rows) for _ in windows[start : start + batch_sz]])


def _read_ahead(
    batches: Iterator[tuple[int, np.ndarray]],
) -> Iterator[tuple[int, np.ndarray]]:
    """The same batches, read by a thread while the ones before are worked on."""
    ready: queue.Queue[tuple[int, np.ndarray] | BaseException | None] = queue.Queue(_READ_AHEAD)
    stop = threading.Event()

    def put(item: tuple[int, np.ndarray] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as e:  # noqa: BLE001  # raised again in the reader's thread
            put(e)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
