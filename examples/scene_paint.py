"""Paints a Layout: four bands (red, green, blue, near infrared) and the class of every pixel.

Materials have reflectances in four bands and texture at three scales; houses, cars and trees have
relief under one sun and cast shadows; a sensor adds blur, gain, vignetting and noise. Some things
look alike on purpose (bushes and trees, flat roofs and asphalt, gravel and soil), so that a model
has something to learn and some errors remain.
"""

from __future__ import annotations

import cv2
import numpy as np
from scene_layout import Box, Layout, Patch, Points, Tree

CAR, BUILDING, LOW_VEGETATION, TREE, IMPERVIOUS, CLUTTER = range(6)

#: material: (red, green, blue, infrared) of 255; amplitudes of fine, medium, coarse texture; class.
GROUND: dict[str, tuple[tuple[int, int, int, int], tuple[float, float, float], int]] = {
    "asphalt": ((98, 98, 101, 92), (0.05, 0.04, 0.08), IMPERVIOUS),
    "asphalt-old": ((126, 123, 119, 114), (0.06, 0.07, 0.09), IMPERVIOUS),
    "paving": ((158, 150, 141, 146), (0.06, 0.05, 0.05), IMPERVIOUS),
    "gravel": ((170, 158, 138, 156), (0.12, 0.05, 0.05), IMPERVIOUS),
    "paint": ((215, 215, 212, 200), (0.05, 0.08, 0.05), IMPERVIOUS),
    "lawn": ((94, 114, 70, 168), (0.09, 0.05, 0.14), LOW_VEGETATION),
    "meadow": ((122, 124, 82, 162), (0.12, 0.08, 0.18), LOW_VEGETATION),
    "bed": ((98, 92, 66, 128), (0.12, 0.20, 0.10), LOW_VEGETATION),
    "soil": ((152, 128, 100, 148), (0.08, 0.06, 0.14), CLUTTER),
    "sand": ((198, 180, 148, 184), (0.06, 0.07, 0.08), CLUTTER),
    "heap": ((120, 106, 92, 118), (0.16, 0.30, 0.10), CLUTTER),
    "pool": ((84, 156, 178, 28), (0.03, 0.10, 0.04), CLUTTER),
}
ROOFS: dict[str, tuple[int, int, int, int]] = {
    "red": (160, 88, 68, 138),
    "brown": (126, 98, 82, 118),
    "dark": (86, 80, 80, 88),
    "flat": (126, 126, 127, 122),
    "flat-bright": (190, 188, 182, 178),
    "hip-red": (152, 82, 62, 132),
    "hip-dark": (94, 86, 84, 92),
    "shed": (134, 116, 96, 124),
}
CARS: dict[str, tuple[int, int, int, int]] = {
    "white": (226, 226, 224, 214),
    "silver": (178, 180, 182, 172),
    "grey": (112, 114, 118, 108),
    "black": (44, 45, 48, 46),
    "blue": (52, 70, 120, 74),
    "red": (156, 40, 38, 120),
    "beige": (186, 172, 142, 170),
}
CANOPIES: dict[str, tuple[int, int, int, int]] = {
    "green": (78, 102, 58, 178),
    "dark": (60, 82, 54, 150),
    "light": (98, 122, 66, 196),
    "autumn": (134, 116, 66, 166),
    "hedge-tall": (70, 94, 56, 166),
    "hedge-low": (84, 106, 62, 170),
}
CLUTTER_STYLES: dict[str, tuple[int, int, int, int]] = {
    "container": (76, 112, 138, 96),
    "trampoline": (58, 62, 74, 60),
}
#: What a shadow leaves of the light in each band: the sky's blue most.
SHADE = np.array([0.36, 0.40, 0.50, 0.32], np.float32)
ROI = tuple[slice, slice]


class Painter:
    """A scene in the making.

    Attributes:
        image: (size, size, 4) float32, 0..255.
        labels: (size, size) uint8 class ids.
    """

    def __init__(self, rng: np.random.Generator, size: int, scale: float):
        """
        Args:
            size: pixels of a side.
            scale: pixels per metre.
        """
        self.rng, self.size, self.scale = rng, size, scale
        self.image = np.zeros((size, size, 4), np.float32)
        self.labels = np.full((size, size), LOW_VEGETATION, np.uint8)
        self.shadow = np.zeros((size, size), np.float32)  #: of all that is higher than a car
        turn, steep = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.15)
        self.sun = np.array([np.cos(turn), np.sin(turn)])  #: unit vector towards the sun
        self.throw = float(1 / np.tan(steep)) * 0.75  #: length of a shadow per metre of height
        self.fine = rng.normal(0, 1, (size, size)).astype(np.float32)
        self.medium = self._noise(0.35)
        self.coarse = self._noise(3.0)
        self.relief = self._relief()

    def _noise(self, metres: float) -> np.ndarray:
        """(size, size) smooth noise of deviation about 1 whose lumps are `metres` wide."""
        cells = max(4, round(self.size / (metres * self.scale)) + 3)
        grid = self.rng.normal(0, 1.3, (cells, cells)).astype(np.float32)
        return cv2.resize(grid, (self.size, self.size), interpolation=cv2.INTER_CUBIC)

    def _relief(self) -> np.ndarray:
        """(size, size) light and dark sides of leaves: slope of a rough surface towards the sun."""
        rough = self._noise(0.55) + 0.6 * self._noise(0.22)
        dy, dx = np.gradient(rough)
        slope = (dx * self.sun[0] + dy * self.sun[1]) * -1
        return slope / (slope.std() + 1e-6)

    def area(self, corners: Points, margin: float = 0.0) -> ROI | None:
        """The pixels around some corners (in metres), or None outside the scene."""
        low = np.floor((corners.min(0) - margin) * self.scale).astype(int)
        high = np.ceil((corners.max(0) + margin) * self.scale).astype(int) + 1
        low, high = low.clip(0, self.size), high.clip(0, self.size)
        if (high <= low).any():
            return None
        return slice(low[1], high[1]), slice(low[0], high[0])

    def mask(self, corners: Points, roi: ROI) -> np.ndarray:
        """Which pixels of `roi` a polygon covers, as a boolean array."""
        out = np.zeros((roi[0].stop - roi[0].start, roi[1].stop - roi[1].start), np.uint8)
        shifted = corners * self.scale - np.array([roi[1].start, roi[0].start])
        cv2.fillPoly(out, [np.round(shifted * 16).astype(np.int32)], (1,), shift=4)
        return out.astype(bool)

    def vary(self, base: tuple[int, int, int, int], bright: float) -> np.ndarray:
        """(4,) a colour like `base`: brighter or darker, and of slightly another hue."""
        factor = self.rng.normal(1, bright) * self.rng.normal(1, 0.025, 4)
        return np.array(base, np.float32) * factor.clip(0.7, 1.3).astype(np.float32)

    def texture(self, roi: ROI, amplitudes: tuple[float, float, float]) -> np.ndarray:
        """(h, w, 1) factors around 1."""
        fine, medium, coarse = amplitudes
        out = 1 + fine * self.fine[roi] + medium * self.medium[roi] + coarse * self.coarse[roi]
        return out[..., None].clip(0.3, 1.9)

    def local(self, roi: ROI, centre: tuple[float, float], angle: float) -> tuple[np.ndarray, ...]:
        """Coordinates (along, across) in metres of `roi`'s pixels in a turned frame."""
        y, x = np.mgrid[roi].astype(np.float32) / self.scale
        dx, dy = x - centre[0], y - centre[1]
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return dx * cos + dy * sin, dy * cos - dx * sin

    def ground(self, patch: Patch) -> None:
        roi = self.area(patch.corners)
        if roi is None:
            return
        base, amplitudes, label = GROUND[patch.material]
        inside = self.mask(patch.corners, roi)
        colour = self.vary(base, 0.05)
        self.image[roi][inside] = (colour * self.texture(roi, amplitudes))[inside]
        if patch.material == "paving":
            self._joints(roi, inside)
        self.labels[roi][inside] = label

    def _joints(self, roi: ROI, inside: np.ndarray) -> None:
        """Lines between paving stones, 60 cm apart."""
        y, x = np.mgrid[roi] / self.scale
        lines = (np.minimum(x % 0.6, y % 0.6) < 0.06) & inside
        self.image[roi][lines] *= 0.88

    def cast(self, corners: Points, height: float, onto: np.ndarray) -> None:
        """Add the shadow of a prism to a map of shadows."""
        away = -self.sun * self.throw * height
        hull = cv2.convexHull(np.concatenate([corners, corners + away]).astype(np.float32))[:, 0]
        roi = self.area(hull)
        if roi is not None:
            onto[roi][self.mask(hull, roi)] = 1

    def light(self, shadow: np.ndarray) -> np.ndarray:
        """(h, w, 4) what is left of the sunlight, with soft edges."""
        soft = cv2.GaussianBlur(shadow, (0, 0), 0.10 * self.scale)[..., None]
        return 1 - soft * (1 - SHADE)

    def box(self, box: Box) -> None:
        corners = box.corners()
        roi = self.area(corners)
        if roi is None:
            return
        along, across = self.local(roi, box.centre, box.angle)
        if box.style in CLUTTER_STYLES:
            self._clutter_box(box, roi, along, across)
        else:
            self._roof(box, roi, along, across, self.mask(corners, roi))

    def _clutter_box(self, box: Box, roi: ROI, along: np.ndarray, across: np.ndarray) -> None:
        inside = (abs(along) < box.size[0] / 2) & (abs(across) < box.size[1] / 2)
        if box.style == "trampoline":
            inside = np.hypot(along, across) < box.size[0] / 2
        base = np.array(CLUTTER_STYLES[box.style], np.float32)
        colour = base * self.rng.uniform(0.7, 1.35, 4).astype(np.float32)
        ribs = 1 + 0.10 * np.sign(np.sin(along * 2 * np.pi / 0.5))
        paint = colour * (self.texture(roi, (0.05, 0.1, 0.05)) * ribs[..., None])
        self.image[roi][inside] = paint[inside]
        self.labels[roi][inside] = CLUTTER

    def _roof(
        self, box: Box, roi: ROI, along: np.ndarray, across: np.ndarray, inside: np.ndarray
    ) -> None:
        length, width = box.size
        colour = self.vary(ROOFS[box.style], 0.10)
        light = np.ones_like(along)
        facing = self.sun @ np.array([-np.sin(box.angle), np.cos(box.angle)])
        if box.style.startswith("flat"):
            rim = np.minimum(length / 2 - abs(along), width / 2 - abs(across))
            light = np.where(rim < 0.35, 1.22, 1.0) - np.where((rim > 0.35) & (rim < 0.8), 0.12, 0)
        else:
            light = 1 + 0.30 * facing * np.sign(across)
            rows = 0.05 * np.sin(across * 2 * np.pi / 0.36)
            if box.style.startswith("hip"):
                end = length / 2 - abs(along) < width / 2 - abs(across)
                toward = self.sun @ np.array([np.cos(box.angle), np.sin(box.angle)])
                light = np.where(end, 1 + 0.30 * toward * np.sign(along), light)
            light = light + rows + np.where(abs(across) < 0.14, 0.12, 0)
        paint = colour * (self.texture(roi, (0.05, 0.05, 0.05)) * light[..., None])
        self.image[roi][inside] = paint[inside]
        self.labels[roi][inside] = BUILDING
        if length > 6:
            self._roof_details(box, roi, along, across)

    def _roof_details(self, box: Box, roi: ROI, along: np.ndarray, across: np.ndarray) -> None:
        """Chimneys, windows, solar panels, boxes: they belong to the building."""
        length, width = box.size
        for _ in range(self.rng.integers(1, 5)):
            a, b = self.rng.uniform(-0.4, 0.4) * length, self.rng.uniform(-0.38, 0.38) * width
            part = (abs(along - a) < self.rng.uniform(0.3, 0.6)) & (abs(across - b) < 0.45)
            self.image[roi][part] = self.rng.uniform(45, 190) * np.array([1, 1, 1.04, 0.9])
        if self.rng.random() < 0.25:
            side = np.sign(self.rng.normal()) or 1.0
            panel = (abs(along) < length * 0.32) & (abs(across - side * width / 4) < width * 0.15)
            joint = ((along % 1.0) < 0.07) | ((across % 1.6) < 0.07)
            dark = np.where(joint[..., None], 110, np.array([42, 50, 74, 52]))
            self.image[roi][panel] = dark[panel]

    def car(self, box: Box) -> None:
        corners = box.corners()
        roi = self.area(corners, 0.3)
        if roi is None:
            return
        along, across = self.local(roi, box.centre, box.angle)
        a, b = along / (box.size[0] / 2), across / (box.size[1] / 2)
        body = a**6 + b**6 < 1
        glass = ((a > 0.12) & (a < 0.40) | (a < -0.50) & (a > -0.72)) & (abs(b) < 0.82)
        sides = (abs(b) > 0.78) & (a > -0.7) & (a < 0.4)
        paint = self.vary(CARS[box.style], 0.06)
        facing = self.sun @ np.array([-np.sin(box.angle), np.cos(box.angle)])
        light = 1 + 0.10 * facing * b - 0.12 * (abs(a) > 0.88)
        colour = paint * light[..., None]
        colour[glass | sides] = np.array([38, 44, 50, 36])
        lit = colour * self.light(self.shadow[roi]) * self.texture(roi, (0.03, 0.03, 0))
        self.image[roi][body] = lit[body]
        self.labels[roi][body] = CAR

    def tree(self, tree: Tree) -> None:
        around = np.array([tree.centre])
        roi = self.area(around, tree.radius * 1.35)
        if roi is None:
            return
        dx, dy = self.local(roi, tree.centre, 0.0)
        turn = np.arctan2(dy, dx)
        waves = sum(
            self.rng.normal(0, 0.07) * np.cos(k * turn + self.rng.uniform(0, 6.3))
            for k in (2, 3, 5)
        )
        outline = np.hypot(dx, dy) / (tree.radius * (1 + waves))
        ragged = outline + 0.10 * self.medium[roi] < 1
        dome = np.sqrt((1 - outline**2).clip(0, 1))
        slope = (dx * self.sun[0] + dy * self.sun[1]) / tree.radius
        light = 0.62 + 0.30 * dome + 0.30 * slope + 0.17 * self.relief[roi]
        colour = self.vary(CANOPIES[tree.style], 0.09)
        paint = colour * (light.clip(0.25, 1.6)[..., None] * self.texture(roi, (0.06, 0.05, 0.04)))
        self.image[roi][ragged] = paint[ragged]
        low = tree.style == "hedge-low"
        self.labels[roi][outline < 1] = LOW_VEGETATION if low else TREE

    def sense(self) -> np.ndarray:
        """(size, size, 4) uint8: what the camera makes of it, never 0 (which means no data)."""
        away = np.linspace(-1, 1, self.size)
        x, y = away[None, :], away[:, None]
        gain = (
            self.rng.normal(1, 0.06)
            * self.rng.normal(1, 0.02, 4)
            * (1 - 0.05 * (x * x + y * y))[..., None]
        )
        blurred = cv2.GaussianBlur(self.image * gain.astype(np.float32), (0, 0), 0.7)
        noisy = blurred + self.rng.normal(0, 3.0, blurred.shape) + self.rng.normal(4, 2)
        return np.rint(noisy).clip(1, 255).astype(np.uint8)


def _round(tree: Tree) -> Points:
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    return np.array(tree.centre) + tree.radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def paint(
    rng: np.random.Generator, layout: Layout, size: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene.

    Args:
        layout: what stands where.
        size: pixels of a side.
        scale: pixels per metre.

    Returns:
        image: (size, size, 4) uint8: red, green, blue, near infrared.
        labels: (size, size) uint8: CAR, BUILDING, LOW_VEGETATION, TREE, IMPERVIOUS or CLUTTER.
    """
    out = Painter(rng, size, scale)
    side = layout.extent
    out.ground(Patch("lawn", np.array([(0, 0), (side, 0), (side, side), (0, side)], float)))
    for patch in layout.grounds + layout.markings:
        out.ground(patch)
    for box in layout.boxes:
        out.cast(box.corners(), box.height, out.shadow)
    for tree in layout.trees:
        out.cast(_round(tree), tree.height * 0.8, out.shadow)
    on_ground = out.shadow.copy()
    for car in layout.cars:
        out.cast(car.corners(), car.height, on_ground)
    out.image *= out.light(on_ground)
    for car in layout.cars:
        out.car(car)
    for box in sorted(layout.boxes, key=lambda b: b.height):
        out.box(box)
    for tree in sorted(layout.trees, key=lambda t: t.height):
        out.tree(tree)
    return out.sense(), out.labels
