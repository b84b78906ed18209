"""One picture of each evaluated scene: the image, the truth, the prediction and the errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw
from rastervision.fastai_backend.boxes import IOU, hits
from rastervision.fastai_backend.picture_layout import Color, compose, layout, show

log = logging.getLogger(__name__)

NO_LABEL: Color = (24, 24, 26)
#: Objects that were not found, and boxes around nothing.
MISSED: Color = (255, 208, 40)
WRONG: Color = (255, 70, 60)
#: Grounds of the errors, from the image's dark to its light: grey where no class is, else that
#: which is farthest from the classes.
GROUNDS: tuple[tuple[Color, Color], ...] = (
    ((40, 40, 40), (147, 147, 147)),
    ((16, 24, 52), (52, 78, 150)),
    ((52, 26, 16), (140, 84, 56)),
    ((16, 44, 28), (60, 120, 84)),
    ((176, 176, 176), (236, 236, 236)),
)
#: A colour that is as far from a ground as this can be told from it.
DISTINCT = 48.0


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
        metres: the width of one of its pixels on the ground; None where that is not known.
    """

    scene_id: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    metres: float | None = None


@dataclass(frozen=True)
class BoxView:
    """A thinned scene with objects in it.

    Attributes:
        scene_id, image, metres: as of a SceneView.
        truth: (T, 5) boxes in the image's pixels, as boxes.py holds them.
        found: (M, 5) boxes that were predicted, by falling score.
    """

    scene_id: str
    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    metres: float | None = None


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
        of_scene = scores[view.scene_id]
        if isinstance(view, BoxView):
            picture = draw_boxes(view, legend, of_scene)
        else:
            picture = draw(view, legend, of_scene)
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


def draw(view: SceneView, legend: Legend, scores: dict[str, Any]) -> Image.Image:
    """The picture of one scene.

    Args:
        scores: what scores.summarise returns for this scene.

    Returns:
        An RGB image at most 2 * PANEL + 3 * GAP pixels wide.
    """
    image, truth, prediction = to_rgb(view.image), view.truth, view.prediction
    grey = image.mean(-1, keepdims=True)
    unlabelled, unsaid = legend.hides(truth), legend.hides(prediction)
    panels = [
        ("image", image),
        ("truth", _class_map(truth, grey, legend, unlabelled)),
        ("prediction", _class_map(prediction, grey, legend, unsaid)),
        (_errors_caption(scores), _errors(truth, prediction, grey, legend, unlabelled)),
    ]
    size, columns = layout(*truth.shape)
    hidden = np.union1d(truth[unlabelled], prediction[unsaid])
    entries = _legend_entries(legend, scores, hidden.tolist())
    heads = view.scene_id, _headline(scores)
    return compose(heads, panels, size, columns, entries, _metres(view, size))


def draw_boxes(view: BoxView, legend: Legend, scores: dict[str, Any]) -> Image.Image:
    """The picture of one scene with objects; as draw()."""
    image, truth, found = to_rgb(view.image), view.truth, view.found
    taken = hits(found, truth, IOU)
    missed = np.setdiff1d(np.arange(len(truth)), taken)
    wrong = found[taken < 0]
    grey = _on_ground(image.mean(-1, keepdims=True), GROUNDS[0]).astype(np.uint8)
    size, columns = layout(*image.shape[:2])
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
    heads = view.scene_id, _headline(scores)
    entries = _legend_entries(legend, scores, [])
    return compose(heads, panels, size, columns, entries, _metres(view, size))


def _metres(view: SceneView | BoxView, size: tuple[int, int]) -> float | None:
    """Metres on the ground of a panel's pixel."""
    return None if view.metres is None else view.metres * view.image.shape[1] / size[0]


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
    """(height, width, 3) uint8: right pixels dim, wrong ones in what they were taken for."""
    out = _on_ground(grey, _ground(legend))
    wrong = (truth != prediction) & ~unlabelled
    colors = np.array(legend.colors, np.float32)
    colors[list(legend.unscored)] = NO_LABEL
    out[wrong] = colors[prediction[wrong]]
    out[unlabelled] = NO_LABEL
    return out.astype(np.uint8)


def _on_ground(grey: np.ndarray, ground: tuple[Color, Color]) -> np.ndarray:
    """(height, width, 3): an image's light and dark in the colours of a ground."""
    dark, light = np.array(ground, np.float32)
    return np.rint(dark + (light - dark) * grey / 255)


def _ground(legend: Legend) -> tuple[Color, Color]:
    """The first ground from which all classes can be told, or the best of all."""
    scored = [color for i, color in enumerate(legend.colors) if i not in legend.unscored]
    distances = [min((_distance(color, one) for color in scored), default=0) for one in GROUNDS]
    clear = (i for i, distance in enumerate(distances) if distance >= DISTINCT)
    return GROUNDS[next(clear, int(np.argmax(distances)))]


def _distance(color: Color, ground: tuple[Color, Color]) -> float:
    """Of a colour from the nearest one of a ground, in RGB."""
    (dark, light), point = np.array(ground, float), np.array(color, float)
    along = np.clip((point - dark) @ (light - dark) / ((light - dark) @ (light - dark)), 0, 1)
    return float(np.linalg.norm(point - dark - along * (light - dark)))


def _errors_caption(scores: dict[str, Any]) -> str:
    overall = scores["overall"]
    if overall["accuracy"] is None:
        return "errors: nothing to compare with"
    wrong, unit = 1 - overall["accuracy"], "cells" if "cells" in overall else "pixels"
    return f"errors: {wrong:.1%} of {unit}, in the colour of what they were taken for"


def _headline(scores: dict[str, Any]) -> str:
    named = {"accuracy": "accuracy", "precision": "precision", "recall": "recall"}
    named |= {"meanIoU": "mean IoU", "macroF1": "macro F1"}
    overall = scores["overall"]
    return "   ".join(f"{name} {show(overall[k])}" for k, name in named.items() if k in overall)


def _legend_entries(
    legend: Legend, scores: dict[str, Any], hidden: Sequence[int]
) -> list[tuple[Color, str]]:
    """Colour and text of each class that is scored, and of what is not.

    Args:
        hidden: ids of what is seen in the picture and not scored; -1: without a label.
    """
    entries = [
        (legend.colors[part["id"]], f"{part['name']}  F1 {show(part['f1'])}")
        for part in scores["classes"]
    ]
    names = ", ".join(legend.names[i] for i in hidden if i >= 0)
    unscored = (NO_LABEL, f"not scored: {names}" if names else "not scored")
    return [*entries, unscored] if len(hidden) else entries
