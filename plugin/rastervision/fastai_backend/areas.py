"""Where random windows may lie in a scene's areas of interest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, floor, hypot
from typing import TYPE_CHECKING

import numpy as np
import shapely
from rastervision.fastai_backend.windows import Window
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.ops import unary_union
from shapely.prepared import prep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shapely.geometry.base import BaseGeometry

#: A box of so many pixels a side is not cut into smaller ones.
_SMALLEST = 8


class Area:
    """Areas of interest, as far as they lie in a rectangle.

    Args:
        polygons: in pixels; they may overlap, touch and have holes.
        limits: where windows may lie.
        within: windows lie within the areas; else they touch them.
    """

    def __init__(self, polygons: Sequence[BaseGeometry], limits: Window, *, within: bool):
        self._limits, self._within = limits, within
        parts = _polygons(unary_union(polygons).intersection(_box(limits)))
        self._area = MultiPolygon(parts.tolist())
        prepared = prep(self._area)
        self._test: Callable[[BaseGeometry], bool] = (
            prepared.contains if within else prepared.intersects
        )

    def takes(self, window: Window) -> bool:
        """Whether a window may be taken."""
        return bool(self._test(_box(window)))

    def corners(self, smallest: tuple[int, int], largest: tuple[int, int]) -> tuple[Window, ...]:
        """Boxes, none over another, that hold the upper left corner of every window that may be
        taken, and few others.

        Args:
            smallest, largest: (height, width) of the windows.
        """
        if self._within:
            # Where all four corners of a window lie in the area. A pixel less than a window, so
            # that what a window just fills is a square and not a point.
            height, width = (side - 1 for side in smallest)
            beside = _polygons(self._area.intersection(translate(self._area, xoff=-width)))
            region = MultiPolygon(beside.tolist())
            region = region.intersection(translate(region, yoff=-height))
        else:
            # A window's middle is at most half a diagonal away from what it touches.
            height, width = largest
            limits = self._limits
            # Half a pixel more on each side: a scene just as large as a window leaves room for one.
            right, bottom = limits.xmax - smallest[1] + 0.5, limits.ymax - smallest[0] + 0.5
            last = box(limits.xmin - 0.5, limits.ymin - 0.5, right, bottom)
            middles = self._area.buffer(hypot(height, width) / 2)
            region = translate(middles, -width / 2, -height / 2).intersection(last)
        return tuple(_cut(_polygons(region)))


def _polygons(geometries: BaseGeometry | np.ndarray) -> np.ndarray:
    """The polygons of geometries, without lines and points: what only touches has those in common.

    Returns:
        (N,) shapely polygons.
    """
    parts = shapely.get_parts(geometries)
    return parts[(shapely.get_dimensions(parts) == 2) & ~shapely.is_empty(parts)]


def _cut(region: np.ndarray) -> Iterator[Window]:
    """Boxes of whole pixels that hold every one in the region's polygons (N,), which fill half of
    each box that is not small."""
    if not len(region):
        return
    left, top, right, bottom = shapely.total_bounds(region).tolist()
    b = Window(ceil(top), ceil(left), floor(bottom) + 1, floor(right) + 1)
    if b.height <= 0 or b.width <= 0:
        return
    filled = shapely.area(region).sum() / (b.height * b.width)
    if max(b.height, b.width) <= _SMALLEST or filled >= 0.5:
        yield b
        return
    y, x = (b.ymin + b.ymax) // 2, (b.xmin + b.xmax) // 2
    if b.height >= b.width:
        halves = b._replace(ymax=y), b._replace(ymin=y)
    else:
        halves = b._replace(xmax=x), b._replace(xmin=x)
    for half in halves:
        yield from _cut(_clipped(region, half))


def _clipped(polygons: np.ndarray, window: Window) -> np.ndarray:
    """The parts of polygons (N,) that lie in a window, cut midway between pixels, (M,)."""
    y0, x0, y1, x1 = (side - 0.5 for side in window)
    left, top, right, bottom = shapely.bounds(polygons).T
    inside = (left >= x0) & (right <= x1) & (top >= y0) & (bottom <= y1)
    across = (left < x1) & (right > x0) & (top < y1) & (bottom > y0) & ~inside
    if not across.any():
        return polygons[inside]
    cut = shapely.intersection(polygons[across], box(x0, y0, x1, y1))
    return np.concatenate([polygons[inside], _polygons(cut)])


def _box(window: Window) -> Polygon:
    return box(window.xmin, window.ymin, window.xmax, window.ymax)
