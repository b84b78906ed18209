"""Where things stand in a synthetic scene: streets, plots, houses, gardens, trees, cars, clutter.

Everything here is in metres, x to the right and y down from the scene's upper left corner, and
depends on the random generator alone. scene_paint.py turns it into pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Points = np.ndarray  # (n, 2) float: corners x, y in metres


@dataclass(frozen=True)
class Patch:
    """Ground of one material, flat."""

    material: str
    corners: Points


@dataclass(frozen=True)
class Box:
    """Something rectangular that stands: a house, a car, a container.

    Attributes:
        centre: x, y.
        size: length along the angle, width across it.
        angle: radians, of the length against the x axis.
        height: metres; decides the length of the shadow.
        style: the painter's name of how it looks.
    """

    centre: tuple[float, float]
    size: tuple[float, float]
    angle: float
    height: float
    style: str

    def corners(self) -> Points:
        half = np.array(self.size) / 2
        local = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        return local @ rotation(self.angle).T + np.array(self.centre)


@dataclass(frozen=True)
class Tree:
    centre: tuple[float, float]
    radius: float
    height: float
    style: str


@dataclass
class Layout:
    """One scene, in the order in which it is painted."""

    extent: float  #: metres of a side
    grounds: list[Patch] = field(default_factory=list)
    markings: list[Patch] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    cars: list[Box] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)


def rotation(angle: float) -> np.ndarray:
    """(2, 2) matrix that turns by `angle` radians."""
    return np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])


@dataclass(frozen=True)
class Frame:
    """The street grid's own coordinates: u along the streets, v across them."""

    origin: tuple[float, float]
    angle: float

    def xy(self, u: float, v: float) -> tuple[float, float]:
        x, y = rotation(self.angle) @ np.array([u, v]) + np.array(self.origin)
        return float(x), float(y)

    def rect(self, u0: float, u1: float, v0: float, v1: float) -> Points:
        return np.array([self.xy(u0, v0), self.xy(u1, v0), self.xy(u1, v1), self.xy(u0, v1)])


@dataclass(frozen=True)
class Plot:
    """A piece of land at a street: u0..u1 along it, `depth` metres away from its edge.

    v(d) is the v coordinate d metres behind the street's edge; side is +1 or -1.
    """

    frame: Frame
    u0: float
    u1: float
    edge: float
    side: int
    depth: float

    def v(self, d: float) -> float:
        return self.edge + self.side * d

    def rect(self, u0: float, u1: float, d0: float, d1: float) -> Points:
        return self.frame.rect(u0, u1, self.v(d0), self.v(d1))

    @property
    def middle(self) -> float:
        return (self.u0 + self.u1) / 2


CAR_STYLES = ("white", "silver", "grey", "black", "black", "blue", "red", "silver", "beige")
STREET_WIDTH = 6.4
PAVEMENT = 1.8


def _car(rng: np.random.Generator, centre: tuple[float, float], angle: float) -> Box:
    van = rng.random() < 0.12
    size = (
        (rng.uniform(5.0, 5.8), 2.05) if van else (rng.uniform(3.8, 4.7), rng.uniform(1.68, 1.85))
    )
    turned = angle + rng.normal(0, 0.03) + (np.pi if rng.random() < 0.5 else 0)
    return Box(centre, size, turned, 2.2 if van else 1.5, str(rng.choice(CAR_STYLES)))


def _tree(
    rng: np.random.Generator, centre: tuple[float, float], low: float = 1.3, high: float = 3.8
) -> Tree:
    radius = float(rng.uniform(low, high))
    style = str(rng.choice(["green", "green", "dark", "light", "autumn"]))
    return Tree(centre, radius, radius * rng.uniform(1.6, 2.4), style)


def _hedge(rng: np.random.Generator, plot: Plot, u: float, d0: float, d1: float) -> list[Tree]:
    """A row of bushes across the plot: low vegetation and trees look alike here."""
    tall = rng.random() < 0.5
    step = 0.8
    return [
        Tree(
            plot.frame.xy(u + rng.normal(0, 0.12), plot.v(d)),
            float(rng.uniform(0.85, 1.15) if tall else rng.uniform(0.5, 0.7)),
            1.9 if tall else 0.9,
            "hedge-tall" if tall else "hedge-low",
        )
        for d in np.arange(d0, d1, step)
    ]


def _garden(rng: np.random.Generator, out: Layout, plot: Plot, d0: float) -> None:
    """What is behind the house: trees, beds, a shed, now and then a pool or a heap of something."""
    width, depth = plot.u1 - plot.u0, plot.depth - d0
    for _ in range(rng.poisson(width * depth / 75)):
        at = plot.frame.xy(rng.uniform(plot.u0, plot.u1), plot.v(rng.uniform(d0 + 1, plot.depth)))
        out.trees.append(_tree(rng, at))
    for _ in range(rng.integers(0, 4)):
        at = plot.frame.xy(rng.uniform(plot.u0, plot.u1), plot.v(rng.uniform(d0, plot.depth)))
        out.trees.append(Tree(at, float(rng.uniform(0.4, 0.8)), 0.9, "hedge-low"))
    if rng.random() < 0.5:
        u = rng.uniform(plot.u0 + 1, plot.u1 - 4)
        d = rng.uniform(d0 + 1, plot.depth - 2)
        out.grounds.append(Patch("bed", plot.rect(u, u + rng.uniform(2, 5), d, d + 1.4)))
    if rng.random() < 0.45:
        at = plot.frame.xy(plot.u1 - 2.2, plot.v(plot.depth - 2.0))
        size = (rng.uniform(2.2, 3.4), rng.uniform(2.0, 2.6))
        out.boxes.append(Box(at, size, plot.frame.angle, 2.3, str(rng.choice(["shed", "flat"]))))
    if rng.random() < 0.45:
        _clutter(rng, out, plot, d0)


def _clutter(rng: np.random.Generator, out: Layout, plot: Plot, d0: float) -> None:
    u = rng.uniform(plot.u0 + 2.5, plot.u1 - 2.5)
    d = rng.uniform(d0 + 2.5, plot.depth - 2.5)
    kind = str(rng.choice(["pool", "trampoline", "heap", "sand"]))
    if kind == "pool":
        length, width = rng.uniform(5, 8), rng.uniform(3, 4)
        out.grounds.append(
            Patch("paving", plot.rect(u - 0.6, u + length + 0.6, d - 0.6, d + width + 0.6))
        )
        out.grounds.append(Patch("pool", plot.rect(u, u + length, d, d + width)))
    elif kind == "trampoline":
        out.boxes.append(Box(plot.frame.xy(u, plot.v(d)), (3.4, 3.4), 0.0, 1.0, "trampoline"))
    else:
        out.grounds.append(
            Patch(kind, _blob(rng, plot.frame.xy(u, plot.v(d)), rng.uniform(1.5, 3)))
        )


def _blob(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Points:
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    away = radius * rng.uniform(0.7, 1.2, 16)
    return np.array(centre) + np.stack([np.cos(turn) * away, np.sin(turn) * away], 1)


def _house(rng: np.random.Generator, out: Layout, plot: Plot) -> None:
    """A house with a drive, a path, a terrace and its garden."""
    width = plot.u1 - plot.u0
    out.grounds.append(
        Patch(
            str(rng.choice(["lawn", "lawn", "meadow"])), plot.rect(plot.u0, plot.u1, 0, plot.depth)
        )
    )
    length = rng.uniform(8.5, min(13.0, width - 4.5))
    deep = rng.uniform(7.5, 9.5)
    setback = rng.uniform(3.0, 5.0)
    left = plot.u0 + rng.uniform(0.8, 1.4)
    u, d = left + length / 2, setback + deep / 2
    roof = str(rng.choice(["red", "red", "brown", "dark", "flat", "hip-red", "hip-dark"]))
    across = np.pi / 2 if rng.random() < 0.35 else 0.0
    size = (deep, length) if across else (length, deep)
    height = rng.uniform(5, 8)
    angle = plot.frame.angle + across
    out.boxes.append(Box(plot.frame.xy(u, plot.v(d)), size, angle, height, roof))
    if rng.random() < 0.35:
        wing = (left + rng.uniform(1, length - 5), setback + deep)
        at = plot.frame.xy(wing[0] + 2, plot.v(wing[1] + 1.2))
        out.boxes.append(Box(at, (4.4, 4.0), plot.frame.angle, height * 0.6, roof))
    drive = left + length + 0.5
    surface = str(rng.choice(["paving", "paving", "gravel", "asphalt"]))
    out.grounds.append(Patch(surface, plot.rect(drive, drive + 2.9, 0, setback + deep * 0.8)))
    out.grounds.append(Patch("paving", plot.rect(u - 0.6, u + 0.6, 0, setback)))
    out.grounds.append(
        Patch("paving", plot.rect(u - 2.5, u + 2.5, setback + deep, setback + deep + 3))
    )
    if rng.random() < 0.7:
        at = plot.frame.xy(drive + 1.45, plot.v(rng.uniform(2.6, setback + 3)))
        out.cars.append(_car(rng, at, plot.frame.angle + np.pi / 2))
    out.trees.extend(_hedge(rng, plot, plot.u0, 0.8, plot.depth))
    if rng.random() < 0.4:
        out.trees.append(_tree(rng, plot.frame.xy(plot.u0 + 2, plot.v(1.8)), 0.9, 2.0))
    _garden(rng, out, plot, setback + deep + 1.5)


def _flats(rng: np.random.Generator, out: Layout, plot: Plot) -> None:
    """A block of flats with a lawn around it."""
    out.grounds.append(Patch("lawn", plot.rect(plot.u0, plot.u1, 0, plot.depth)))
    out.grounds.append(Patch("paving", plot.rect(plot.u0, plot.u1, 2.0, 3.4)))
    at = plot.frame.xy(plot.middle, plot.v(9.5))
    roof = str(rng.choice(["flat", "flat-bright", "dark", "red"]))
    size = (plot.u1 - plot.u0 - 1.5, rng.uniform(9.5, 11.5))
    out.boxes.append(Box(at, size, plot.frame.angle, rng.uniform(9, 13), roof))
    _garden(rng, out, plot, 16.5)


def _parking(rng: np.random.Generator, out: Layout, plot: Plot) -> None:
    """Rows of parked cars, with trees between and bins beside them."""
    out.grounds.append(Patch("lawn", plot.rect(plot.u0, plot.u1, 0, plot.depth)))
    out.grounds.append(
        Patch("asphalt-old", plot.rect(plot.u0 + 0.5, plot.u1 - 0.5, 0, plot.depth - 2))
    )
    for row in (4.0, 11.5, 17.0):
        for u in np.arange(plot.u0 + 2, plot.u1 - 2, 2.5):
            line = plot.rect(u - 1.29, u - 1.19, row - 2.4, row + 2.4)
            out.markings.append(Patch("paint", line))
            if rng.random() < 0.62:
                at = plot.frame.xy(u, plot.v(row + rng.normal(0, 0.15)))
                out.cars.append(_car(rng, at, plot.frame.angle + np.pi / 2))
    at = plot.frame.xy(plot.u0 + 3, plot.v(plot.depth - 2.6))
    out.boxes.append(Box(at, (4.5, 2.2), plot.frame.angle, 1.6, "container"))
    for u in np.arange(plot.u0 + 1.5, plot.u1, 6.5):
        out.trees.append(_tree(rng, plot.frame.xy(u, plot.v(plot.depth)), 1.5, 2.6))


def _park(rng: np.random.Generator, out: Layout, plot: Plot) -> None:
    out.grounds.append(Patch("meadow", plot.rect(plot.u0, plot.u1, 0, plot.depth)))
    out.grounds.append(Patch("gravel", plot.rect(plot.u0, plot.u1, 8.2, 10.0)))
    for _ in range(rng.poisson((plot.u1 - plot.u0) * plot.depth / 24)):
        at = plot.frame.xy(rng.uniform(plot.u0, plot.u1), plot.v(rng.uniform(0.5, plot.depth)))
        out.trees.append(_tree(rng, at, 1.6, 4.4))


def _building_site(rng: np.random.Generator, out: Layout, plot: Plot) -> None:
    """Bare soil, heaps of sand, containers, stacks of material, a few weeds: clutter."""
    out.grounds.append(Patch("meadow", plot.rect(plot.u0, plot.u1, 0, plot.depth)))
    out.grounds.append(Patch("soil", plot.rect(plot.u0 + 0.7, plot.u1 - 0.7, 1, plot.depth - 2)))
    for _ in range(rng.integers(3, 7)):
        u, d = rng.uniform(plot.u0 + 2, plot.u1 - 2), rng.uniform(3, plot.depth - 4)
        kind = str(rng.choice(["sand", "heap"]))
        out.grounds.append(
            Patch(kind, _blob(rng, plot.frame.xy(u, plot.v(d)), rng.uniform(1, 2.6)))
        )
    for _ in range(rng.integers(2, 6)):
        u, d = rng.uniform(plot.u0 + 3, plot.u1 - 3), rng.uniform(3, plot.depth - 4)
        angle = plot.frame.angle + rng.choice([0, np.pi / 2]) + rng.normal(0, 0.08)
        size = (rng.uniform(2.5, 6.0), rng.uniform(1.2, 2.4))
        out.boxes.append(Box(plot.frame.xy(u, plot.v(d)), size, float(angle), 2.4, "container"))


PLOTS: tuple[tuple[Callable[[np.random.Generator, Layout, Plot], None], float], ...] = (
    (_house, 0.56),
    (_flats, 0.14),
    (_parking, 0.10),
    (_park, 0.08),
    (_building_site, 0.12),
)


def _street(rng: np.random.Generator, out: Layout, frame: Frame, v: float, reach: float) -> None:
    half = STREET_WIDTH / 2
    edge = half + PAVEMENT
    out.grounds.append(Patch("paving", frame.rect(-reach, reach, v - edge, v + edge)))
    surface = str(rng.choice(["asphalt", "asphalt-old"]))
    out.grounds.append(Patch(surface, frame.rect(-reach, reach, v - half, v + half)))
    for u in np.arange(-reach, reach, 6.0):
        out.markings.append(Patch("paint", frame.rect(u, u + 2.4, v - 0.07, v + 0.07)))
    for side in (-1, 1):
        filled = rng.uniform(0.25, 0.6)
        for u in np.arange(-reach, reach, 5.6):
            if rng.random() < filled:
                at = frame.xy(u + rng.normal(0, 0.3), v + side * (half - 1.05))
                out.cars.append(_car(rng, at, frame.angle))
        for u in np.arange(-reach, reach, 13.0):
            if rng.random() < 0.55:
                at = frame.xy(u + rng.normal(0, 1.5), v + side * (edge - 0.4))
                out.trees.append(_tree(rng, at, 1.5, 3.0))


def make_layout(rng: np.random.Generator, extent: float) -> Layout:
    """Draw up one scene of `extent` x `extent` metres: a street grid and plots along it."""
    out = Layout(extent)
    frame = Frame((extent / 2, extent / 2), float(rng.uniform(-0.6, 0.6)))
    reach = extent * 0.75 + 15
    depth = float(rng.uniform(22.0, 25.0))
    period = 2 * depth + STREET_WIDTH + 2 * PAVEMENT
    first = float(rng.uniform(-period / 2, period / 2))
    streets = [first + k * period for k in range(-int(reach / period) - 1, int(reach / period) + 2)]
    crossings = float(rng.uniform(-40, 40))
    kinds, shares = zip(*PLOTS, strict=True)
    for v in streets:
        for side in (-1, 1):
            edge = v + side * (STREET_WIDTH / 2 + PAVEMENT)
            u = -reach
            while u < reach:
                width = float(rng.uniform(16, 22))
                plot = Plot(frame, u, u + width, edge, side, depth)
                kinds[int(rng.choice(len(kinds), p=shares))](rng, out, plot)
                u += width
    for v in streets:
        _street(rng, out, frame, v, reach)
    _crossing(out, frame, crossings, reach)
    return out


def _crossing(out: Layout, frame: Frame, u: float, reach: float) -> None:
    """One street across the others; what stood in its way is taken down."""
    half = STREET_WIDTH / 2
    edge = half + PAVEMENT
    out.grounds.append(Patch("paving", frame.rect(u - edge, u + edge, -reach, reach)))
    out.grounds.append(Patch("asphalt", frame.rect(u - half, u + half, -reach, reach)))
    back = rotation(-frame.angle)

    def clear(centre: tuple[float, float], radius: float) -> bool:
        along = float((back @ (np.array(centre) - np.array(frame.origin)))[0])
        return abs(along - u) > edge + radius * 0.8

    out.boxes = [b for b in out.boxes if clear(b.centre, float(np.hypot(*b.size)) / 2)]
    out.cars = [c for c in out.cars if clear(c.centre, 2.0)]
    out.trees = [t for t in out.trees if clear(t.centre, t.radius * 0.4)]
    out.markings = [m for m in out.markings if clear(tuple(m.corners.mean(0)), 1.5)]
