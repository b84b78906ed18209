"""Lays out a scene's picture: a title, panels with captions, a scale bar and the legend."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

#: Pixels of a panel's longer side; two panels stand side by side.
PANEL = 760
GAP = 16
BACKGROUND: Color = (250, 250, 248)
INK: Color = (34, 36, 40)
FAINT: Color = (110, 114, 120)
#: Pixels: of the least picture, of a line of captions, and of one of the legend.
_LEAST, _CAPTION, _LINE = 720, 22, 30
#: Part of a panel's width that a scale bar takes at most.
_BAR = 0.35


def layout(height: int, width: int) -> tuple[tuple[int, int], int]:
    """Width and height of the panels of a scene, and how many stand side by side."""
    scale = PANEL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Two by two; a long strip of land is stacked, a tall one stands side by side.
    return size, 1 if width > 2.2 * height else 4 if height > 2.2 * width else 2


def show(value: float | None) -> str:
    """A score as text."""
    return "–" if value is None else f"{value:.3f}"


def compose(
    heads: tuple[str, str],
    panels: list[tuple[str, np.ndarray]],
    size: tuple[int, int],
    columns: int,
    entries: list[tuple[Color, str]],
    metres: float | None,
) -> Image.Image:
    """Panels with their captions, a title above and the legend below.

    Args:
        heads: the title, and what stands at its right, or below it where both are too long.
        panels: the caption and (height, width, 3) uint8 of each.
        size: width and height of a panel.
        columns: panels side by side.
        entries: colour and text of the legend.
        metres: width on the ground of a pixel of a panel of that size; None: no scale bar.
    """
    shrink = min(1.0, (2 * PANEL + GAP) / (columns * size[0] + (columns - 1) * GAP))
    size = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    cell = max(size[0], (_LEAST - (columns + 1) * GAP) // columns)  # a caption may be wider
    width = columns * cell + (columns + 1) * GAP
    captions = [wrapped(text, cell, 16) for text, _ in panels]
    caption = 6 + _CAPTION * max(len(lines) for lines in captions)
    titles = _titles(heads, width - 2 * GAP)
    top = 22 + 34 * len(titles)
    rows = -(-len(panels) // columns)
    entry = max(_width(text, 16) for _, text in entries) + 48
    per_line = max(1, (width - 2 * GAP) // max(250, entry))
    lines = -(-len(entries) // per_line)
    height = top + rows * (size[1] + caption + GAP) + lines * _LINE + GAP
    out = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(out)
    for number, (left, right) in enumerate(titles):
        pen.text((GAP, 14 + 34 * number), left, INK, _font(26))
        pen.text((width - GAP, 22 + 34 * number), right, FAINT, _font(17), anchor="ra")
    for number, (text, (_, pixels)) in enumerate(zip(captions, panels, strict=True)):
        row, column = divmod(number, columns)
        x, y = GAP + column * (cell + GAP), top + row * (size[1] + caption + GAP)
        smooth = Image.Resampling.BICUBIC if number == 0 else Image.Resampling.NEAREST
        out.paste(Image.fromarray(pixels).resize(size, smooth), (x, y + caption))
        for line, part in enumerate(text):
            pen.text((x, y + 3 + line * _CAPTION), part, INK, _font(16))
        if number == 0 and metres:
            _draw_scale(pen, (x, y + caption), size, metres / shrink)
    base = height - lines * _LINE - GAP // 2
    for number, (color, label) in enumerate(entries):
        row, column = divmod(number, per_line)
        x, y = GAP + column * max(250, entry), base + row * _LINE
        pen.rectangle((x, y + 3, x + 20, y + 20), color, outline=FAINT)
        pen.text((x + 28, y + 2), label, INK, _font(16))
    return out


def wrapped(text: str, width: int, font: int) -> list[str]:
    """A text in lines of at most that many pixels, cut between words, or in too long ones."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _width(longer, font) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter, font) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def scale_bar(metres: float, width: int) -> tuple[int, str]:
    """Pixels and text of a bar of 1, 2 or 5 times a power of ten that fits well.

    Args:
        metres: width of a pixel on the ground.
        width: of the panel, in pixels.
    """
    most = metres * width * _BAR
    power = 10.0 ** math.floor(math.log10(most))
    length = next(factor for factor in (5, 2, 1) if factor * power <= most) * power
    unit, size = ("km", length / 1000) if length >= 1000 else ("m", length)
    unit, size = ("cm", length * 100) if length < 1 else (unit, size)
    return round(length / metres), f"{size:g} {unit}"


def _draw_scale(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], size: tuple[int, int], metres: float
) -> None:
    """Draw a scale bar into the lower left corner of a panel."""
    length, text = scale_bar(metres, size[0])
    x, y = place[0] + 10, place[1] + size[1] - 14
    pen.rectangle((x - 2, y - 2, x + length + 2, y + 5), INK)
    pen.rectangle((x, y, x + length, y + 3), BACKGROUND)
    pen.text((x, y - 6), text, BACKGROUND, _font(15), anchor="ls", stroke_width=2, stroke_fill=INK)


def _titles(heads: tuple[str, str], width: int) -> list[tuple[str, str]]:
    """What stands at the left and at the right of each line above the panels."""
    title, scores = heads
    if _width(title, 26) + _width(scores, 17) + GAP <= width:
        return [heads]
    return [
        *((line, "") for line in wrapped(title, width, 26)),
        *(("", line) for line in wrapped(scores, width, 17)),
    ]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _width(text: str, font: int) -> int:
    return math.ceil(_font(font).getlength(text))
