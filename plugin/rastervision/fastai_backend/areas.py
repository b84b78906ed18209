"""Where random windows may lie in a scene's areas of interest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, floor, hypot
from typing import TYPE_CHECKING

from rastervision.fastai_backend.windows import Window
from shapely import get_parts
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, box
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
        self._area = _polygons(unary_union(polygons).intersection(_box(limits)))
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
            region = _polygons(self._area.intersection(translate(self._area, xoff=-width)))
            region = region.intersection(translate(region, yoff=-height))
        else:
            # A window's middle is at most half a diagonal away from what it touches.
            height, width = largest
            limits = self._limits
            last = box(
                limits.xmin, limits.ymin, limits.xmax - smallest[1], limits.ymax - smallest[0]
            )
            middles = self._area.buffer(hypot(height, width) / 2)
            region = translate(middles, -width / 2, -height / 2).intersection(last)
        return tuple(_cut(_polygons(region)))


def _polygons(geometry: BaseGeometry) -> MultiPolygon:
    """A geometry without its lines and points: what only touches has these in common."""
    parts = get_parts(geometry)
    return MultiPolygon([p for p in parts if p.geom_type == "Polygon" and not p.is_empty])


def _cut(region: MultiPolygon) -> Iterator[Window]:
    """Boxes of whole pixels that hold every one in the region; it fills half of each, unless they
    are small."""
    if region.is_empty:
        return
    left, top, right, bottom = region.bounds
    b = Window(ceil(top), ceil(left), floor(bottom) + 1, floor(right) + 1)
    if b.height <= 0 or b.width <= 0:
        return
    if max(b.height, b.width) <= _SMALLEST or region.area >= b.height * b.width / 2:
        yield b
        return
    y, x = (b.ymin + b.ymax) // 2, (b.xmin + b.xmax) // 2
    if b.height >= b.width:
        halves = b._replace(ymax=y), b._replace(ymin=y)
    else:
        halves = b._replace(xmax=x), b._replace(xmin=x)
    for half in halves:
        # Pixels of a half-open box, cut midway between them.
        yield from _cut(_polygons(region.intersection(translate(_box(half), -0.5, -0.5))))


def _box(window: Window) -> BaseGeometry:
    return box(window.xmin, window.ymin, window.xmax, window.ymax)
