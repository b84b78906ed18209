"""One picture of each evaluated scene: the image, the truth, the prediction and the errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from rastervision.fastai_backend.boxes import IOU, hits

log = logging.getLogger(__name__)

Color = tuple[int, int, int]

#: Pixels of a panel's longer side; two panels stand side by side.
PANEL = 760
GAP = 16
BACKGROUND: Color = (250, 250, 248)
INK: Color = (34, 36, 40)
FAINT: Color = (110, 114, 120)
NO_LABEL: Color = (24, 24, 26)
#: Objects that were not found, and boxes around nothing.
MISSED: Color = (255, 208, 40)
WRONG: Color = (255, 70, 60)


@dataclass(frozen=True)
class Legend:
    """The classes of a picture.

    Attributes:
        names, colors: of each class id.
        unscored: ids of the classes that are not scored; they get no entry.
    """

    names: Sequence[str]
    colors: Sequence[Color]
    unscored: Collection[int]

    @classmethod
    def of(cls, class_config: dict[str, Any], unscored: Collection[int]) -> Legend:
        """From Raster Vision's class config as JSON; its colours are names, #rrggbb or triples."""
        colors = [_rgb(color) for color in class_config["colors"]]
        return cls(class_config["names"], colors, unscored)

    def hides(self, ids: np.ndarray) -> np.ndarray:
        """Which pixels have no class that is scored."""
        return (ids < 0) | np.isin(ids, list(self.unscored))


def _rgb(color: str | Sequence[float]) -> Color:
    if isinstance(color, str):
        red, green, blue = ImageColor.getrgb(color)[:3]
    else:
        scale = 255 if all(isinstance(part, float) for part in color) else 1
        red, green, blue = (round(part * scale) for part in color[:3])
    return red, green, blue


@dataclass(frozen=True)
class SceneView:
    """A thinned scene.

    Attributes:
        scene_id: the scene.
        image: (height, width, channels), the source's data type, mean of what was thinned.
        truth: (height, width) class ids; -1 outside areas of interest.
        prediction: (height, width) class ids.
    """

    scene_id: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class BoxView:
    """A thinned scene with objects in it.

    Attributes:
        scene_id, image: as of a SceneView.
        truth: (T, 5) boxes in the image's pixels, as boxes.py holds them.
        found: (M, 5) boxes that were predicted, by falling score.
    """

    scene_id: str
    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray


def write(
    views: Iterable[SceneView | BoxView],
    legend: Legend,
    scores: dict[str, dict[str, Any]],
    out_dir: Path,
) -> list[Path]:
    """Write <out_dir>/<scene id>.png for each scene.

    Args:
        views: the scenes.
        legend: their classes.
        scores: for each scene id what scores.summarise returns.

    Returns:
        The files.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for view in views:
        image, of_scene = to_rgb(view.image), scores[view.scene_id]
        if isinstance(view, BoxView):
            picture = draw_boxes(view.scene_id, image, view.truth, view.found, legend, of_scene)
        else:
            picture = draw(view.scene_id, image, view.truth, view.prediction, legend, of_scene)
        target = out_dir / f"{view.scene_id.replace('/', '_')}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        picture.save(partial, format="PNG")
        os.replace(partial, target)
        written.append(target)
        log.info("drew %s", target)
    return written


def to_rgb(image: np.ndarray) -> np.ndarray:
    """What an eye can look at: the first three bands, or the first as grey if there are fewer.

    Args:
        image: (height, width, channels) of any number type; 0 in all bands means no data.

    Returns:
        (height, width, 3) uint8. uint8 images are shown as they are; others are stretched from the
        1st to the 99th percentile of each band.
    """
    shown = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    if shown.dtype != np.uint8:
        shown = _stretch(shown.astype(np.float32), (image != 0).any(-1))
    return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown


def _stretch(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    if not valid.any():
        return np.zeros(image.shape, np.uint8)
    low, high = np.nanpercentile(image[valid], (1, 99), axis=0)
    span = np.where(high > low, high - low, 1)
    return np.nan_to_num((image - low) / span * 255).clip(0, 255).astype(np.uint8)


def draw(
    title: str,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    legend: Legend,
    scores: dict[str, Any],
) -> Image.Image:
    """The picture of one scene.

    Args:
        title: the scene's name.
        image: (height, width, 3) uint8.
        truth, prediction: (height, width) class ids; -1 where there is none.
        scores: what scores.summarise returns for this scene.

    Returns:
        An RGB image at most 2 * PANEL + 3 * GAP pixels wide.
    """
    grey = image.mean(-1, keepdims=True)
    unlabelled = legend.hides(truth)
    panels = [
        ("image", image),
        ("truth", _class_map(truth, grey, legend, unlabelled)),
        ("prediction", _class_map(prediction, grey, legend, legend.hides(prediction))),
        (_errors_caption(scores), _errors(truth, prediction, grey, legend, unlabelled)),
    ]
    size, columns = _layout(*truth.shape)
    entries = _legend_entries(legend, scores, bool(unlabelled.any()))
    return _compose(title, panels, size, columns, entries, scores)


def draw_boxes(
    title: str,
    image: np.ndarray,
    truth: np.ndarray,
    found: np.ndarray,
    legend: Legend,
    scores: dict[str, Any],
) -> Image.Image:
    """The picture of one scene with objects; as draw(), for boxes as of a BoxView."""
    taken = hits(found, truth, IOU)
    missed = np.setdiff1d(np.arange(len(truth)), taken)
    wrong = found[taken < 0]
    grey = np.repeat(40 + image.mean(-1, keepdims=True) * 0.42, 3, axis=2).astype(np.uint8)
    size, columns = _layout(*image.shape[:2])
    of_class = [legend.colors[int(i)] for i in (*truth[:, 4], *found[:, 4])]
    marks = [(truth[missed], MISSED), (wrong, WRONG)]
    colored = [(box, color) for boxes, color in marks for box in boxes]
    panels = [
        ("image", image),
        ("truth", _outlined(image, size, zip(truth, of_class[: len(truth)], strict=True))),
        ("prediction", _outlined(image, size, zip(found, of_class[len(truth) :], strict=True))),
        (
            f"errors: {len(missed)} missed (yellow), {len(wrong)} false (red)",
            _outlined(grey, size, colored),
        ),
    ]
    return _compose(title, panels, size, columns, _legend_entries(legend, scores, False), scores)


def _layout(height: int, width: int) -> tuple[tuple[int, int], int]:
    """Width and height of the panels of a scene, and how many stand side by side."""
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Two by two; a long strip of land is stacked, a tall one stands side by side.
    return size, 1 if width > 2.2 * height else 4 if height > 2.2 * width else 2


def _outlined(
    image: np.ndarray, size: tuple[int, int], boxes: Iterable[tuple[np.ndarray, Color]]
) -> np.ndarray:
    """(height, width, 3) uint8 of the panel's size, with boxes drawn on it."""
    out = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    pen, scale = ImageDraw.Draw(out), size[0] / image.shape[1]
    for (ymin, xmin, ymax, xmax, _), color in boxes:
        low = xmin * scale, ymin * scale
        high = max(xmax * scale, low[0] + 1), max(ymax * scale, low[1] + 1)
        pen.rectangle((*low, *high), outline=color, width=2)
    return np.asarray(out)


def _class_map(
    ids: np.ndarray, grey: np.ndarray, legend: Legend, unlabelled: np.ndarray
) -> np.ndarray:
    """(height, width, 3) uint8: class colours with the image's light and dark showing through."""
    colors = np.array(legend.colors, np.float32)[ids] * (0.62 + 0.38 * grey / 255)
    colors[unlabelled] = NO_LABEL
    return colors.astype(np.uint8)


def _errors(
    truth: np.ndarray,
    prediction: np.ndarray,
    grey: np.ndarray,
    legend: Legend,
    unlabelled: np.ndarray,
) -> np.ndarray:
    """(height, width, 3) uint8: right pixels grey, wrong ones in what they were taken for."""
    out = np.repeat(40 + grey * 0.42, 3, axis=2)
    wrong = (truth != prediction) & ~unlabelled
    out[wrong] = np.array(legend.colors, np.float32)[prediction[wrong]]
    out[unlabelled] = NO_LABEL
    return out.astype(np.uint8)


def _errors_caption(scores: dict[str, Any]) -> str:
    overall = scores["overall"]
    if overall["accuracy"] is None:
        return "errors: nothing to compare with"
    wrong, unit = 1 - overall["accuracy"], "cells" if "cells" in overall else "pixels"
    return f"errors: {wrong:.1%} of {unit}, in the colour of what they were taken for"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _show(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _compose(
    title: str,
    panels: list[tuple[str, np.ndarray]],
    size: tuple[int, int],
    columns: int,
    entries: list[tuple[Color, str]],
    scores: dict[str, Any],
) -> Image.Image:
    """Panels with their captions, a title above and the legend below."""
    shrink = min(1.0, (2 * PANEL + GAP) / (columns * size[0] + (columns - 1) * GAP))
    size = (round(size[0] * shrink), round(size[1] * shrink))
    rows = -(-len(panels) // columns)
    width = max(columns * size[0] + (columns + 1) * GAP, 720)
    per_line = max(1, (width - 2 * GAP) // 250)
    lines = -(-len(entries) // per_line)
    top, caption, line = 56, 26, 30
    height = top + rows * (size[1] + caption + GAP) + lines * line + GAP
    out = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(out)
    pen.text((GAP, 14), title, INK, _font(26))
    pen.text((width - GAP, 22), _headline(scores), FAINT, _font(17), anchor="ra")
    for number, (text, pixels) in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = GAP + column * (size[0] + GAP), top + row * (size[1] + caption + GAP)
        smooth = Image.Resampling.BICUBIC if number == 0 else Image.Resampling.NEAREST
        out.paste(Image.fromarray(pixels).resize(size, smooth), (x, y + caption))
        pen.text((x, y + 3), text, INK, _font(16))
    base = height - lines * line - GAP // 2
    for number, (color, text) in enumerate(entries):
        row, column = divmod(number, per_line)
        x, y = GAP + column * 250, base + row * line
        pen.rectangle((x, y + 3, x + 20, y + 20), color, outline=FAINT)
        pen.text((x + 28, y + 2), text, INK, _font(16))
    return out


def _headline(scores: dict[str, Any]) -> str:
    named = {"accuracy": "accuracy", "precision": "precision", "recall": "recall"}
    named |= {"meanIoU": "mean IoU", "macroF1": "macro F1"}
    overall = scores["overall"]
    return "   ".join(f"{name} {_show(overall[k])}" for k, name in named.items() if k in overall)


def _legend_entries(legend: Legend, scores: dict[str, Any], gaps: bool) -> list[tuple[Color, str]]:
    entries = [
        (legend.colors[part["id"]], f"{part['name']}  F1 {_show(part['f1'])}")
        for part in scores["classes"]
    ]
    return [*entries, (NO_LABEL, "not scored")] if gaps else entries
