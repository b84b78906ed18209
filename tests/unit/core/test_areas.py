"""Windows in areas of interest: every one that fits is drawn, each as often as any other."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import shapely
from rastervision.fastai_backend.areas import Area
from rastervision.fastai_backend.windows import RandomWindows, Window
from shapely.geometry import Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from rvk8s.errors import InputError

SIDE = 100
RING = box(5, 5, 60, 60).difference(box(20, 20, 45, 45))
BANANA = Polygon([(0, 0), (95, 0), (95, 90), (60, 90), (60, 30), (30, 30), (30, 90), (0, 90)])
#: A hole whose centre does not lie in it.
HOLE = box(0, 0, 99, 99).difference(
    Polygon([(20, 20), (80, 20), (80, 80), (60, 80), (60, 40), (40, 40), (40, 80), (20, 80)])
)
AREAS: dict[str, list[BaseGeometry]] = {
    "rectangle": [box(10.3, 20.7, 90.2, 55)],
    "as small as a window": [box(30, 40, 42, 52)],
    "far apart": [box(0, 0, 16, 16), box(80, 84, 97, 100)],
    "touching along a side": [box(0, 0, 20, 10), box(0, 10, 20, 20)],
    "touching at a corner": [box(0, 0, 20, 20), box(20, 20, 40, 40)],
    "overlapping": [box(0, 0, 50, 20), box(30, 10, 60, 40)],
    "hole": [RING],
    "hole that is not convex": [HOLE],
    "bent": [BANANA],
    "diagonal": [Polygon([(0, 0), (22, 0), (100, 78), (100, 100), (78, 100), (0, 22)])],
    "round": [Point(50, 50).buffer(30)],
    "larger than the scene": [box(-900, -900, 900, 900)],
}


def windows(
    polygons: list[BaseGeometry], sizes: tuple[int, int], *, within: bool = True, padding: int = 0
) -> RandomWindows:
    limits = Window(-padding, -padding, SIDE + padding, SIDE + padding)
    area = Area(polygons, limits, within=within)
    low, high = sizes
    return RandomWindows(
        "a", SIDE, SIDE, sizes, sizes, True, (padding, padding), 50, area.takes,
        area.corners((low, low), (high - 1, high - 1)),
    )  # fmt: skip


def fitting(
    polygons: list[BaseGeometry], size: int, *, within: bool = True, padding: int = 0
) -> set[tuple[int, int]]:
    """The upper left corners of all windows that may be taken."""
    limits = box(-padding, -padding, SIDE + padding, SIDE + padding)
    area = unary_union(polygons).intersection(limits)
    shapely.prepare(area)
    places = np.arange(-padding, SIDE + padding - size + 1)
    y, x = (axis.ravel() for axis in np.meshgrid(places, places, indexing="ij"))
    test = shapely.contains if within else shapely.intersects
    fits = test(area, shapely.box(x, y, x + size, y + size))
    return set(zip(y[fits].tolist(), x[fits].tolist(), strict=True))


def held(plan: RandomWindows) -> Counter[tuple[int, int]]:
    assert plan.corners is not None
    return Counter(
        place
        for b in plan.corners
        for place in product(range(b.ymin, b.ymax), range(b.xmin, b.xmax))
    )


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize("name", AREAS)
def test_corners_hold_every_window_once(name: str, within: bool, padding: int) -> None:
    plan = windows(AREAS[name], (12, 13), within=within, padding=padding)
    every, boxes = fitting(AREAS[name], 12, within=within, padding=padding), held(plan)
    assert every
    assert every <= set(boxes)
    assert set(boxes.values()) == {1}
    # So that a few attempts find one, also where there is only one.
    assert len(every) > len(boxes) / (5 if len(every) > 1 else 8)


@pytest.mark.slow
def test_every_window_is_drawn_as_often_as_any_other() -> None:
    areas = [box(0, 0, 16, 16), box(80, 84, 97, 100), RING]
    plan, every = windows(areas, (12, 13)), sorted(fitting(areas, 12))
    drawn = Counter((w.ymin, w.xmin) for w in (plan.draw(0, i) for i in range(20 * len(every))))
    assert set(drawn) == set(every)
    counts = np.array([drawn[place] for place in every])
    # Poisson's variance is its mean.
    assert counts.var() == pytest.approx(20, rel=0.3)


def test_windows_of_a_scene_in_a_larger_area_lie_in_the_scene() -> None:
    plan = windows(AREAS["larger than the scene"], (12, 13), padding=3)
    for i in range(50):
        w = plan.draw(0, i)
        assert min(w.ymin, w.xmin) >= -3
        assert max(w.ymax, w.xmax) <= SIDE + 3


def test_a_scene_just_as_large_as_a_window() -> None:
    def corners(height: int) -> tuple[Window, ...]:
        area = Area([box(2, 2, 5, 5)], Window(0, 0, height, SIDE), within=False)
        return area.corners((12, 12), (12, 12))

    places = {(y, x) for b in corners(12) for y in range(b.ymin, b.ymax) for x in range(b.xmax)}
    assert places >= {(0, x) for x in range(6)}
    assert {y for y, _ in places} == {0}
    assert corners(11) == ()


def test_sizes_that_do_not_fit_are_drawn_again() -> None:
    plan = windows([box(20, 20, 60, 60)], (30, 60))
    sides = {plan.draw(0, i).height for i in range(200)}
    assert sides > {30, 33, 36}
    assert max(sides) <= 40


def test_nothing_fits_into_an_area_that_is_too_small() -> None:
    assert windows([box(0, 0, 10, 50)], (12, 13)).corners == ()
    corner = Polygon([(0, 0), (14, 0), (0, 14)])  # holds three corners of a window
    with pytest.raises(InputError, match=r"no window of scene a .*area"):
        windows([corner, box(50, 50, 61.5, 61.5)], (12, 13)).draw(0, 0)
