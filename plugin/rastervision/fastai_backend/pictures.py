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

log = logging.getLogger(__name__)

Color = tuple[int, int, int]

#: Pixels of a panel's longer side; two panels stand side by side.
PANEL = 760
GAP = 16
BACKGROUND: Color = (250, 250, 248)
INK: Color = (34, 36, 40)
FAINT: Color = (110, 114, 120)
NO_LABEL: Color = (24, 24, 26)


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


def write(
    views: Iterable[SceneView],
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
        picture = draw(
            view.scene_id,
            to_rgb(view.image),
            view.truth,
            view.prediction,
            legend,
            scores[view.scene_id],
        )
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
    height, width = truth.shape
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Two by two; a long strip of land is stacked, a tall one stands side by side.
    columns = 1 if width > 2.2 * height else 4 if height > 2.2 * width else 2
    entries = _legend_entries(legend, scores, bool(unlabelled.any()))
    return _compose(title, panels, size, columns, entries, scores)


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
    accuracy = scores["overall"]["accuracy"]
    if accuracy is None:
        return "errors: nothing to compare with"
    return f"errors: {1 - accuracy:.1%} of pixels, in the colour of what they were taken for"


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
    overall = scores["overall"]
    return (
        f"accuracy {_show(overall['accuracy'])}   mean IoU {_show(overall['meanIoU'])}   "
        f"macro F1 {_show(overall['macroF1'])}"
    )


def _legend_entries(legend: Legend, scores: dict[str, Any], gaps: bool) -> list[tuple[Color, str]]:
    entries = [
        (legend.colors[part["id"]], f"{part['name']}  F1 {_show(part['f1'])}")
        for part in scores["classes"]
    ]
    return [*entries, (NO_LABEL, "not scored")] if gaps else entries
