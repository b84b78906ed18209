"""Windows of scenes: drawn and read the same way again, in strips or one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from rastervision.fastai_backend.chips import ChipSource, LabelKind
from rastervision.fastai_backend.windows import (
    RandomWindows,
    RowReader,
    SceneWindows,
    Window,
    WindowChips,
    chip_dtype,
    fit,
)

from rvk8s.errors import InputError


@dataclass
class ArrayScene:
    """A scene in memory, with null class 1 beyond its edges."""

    pixels: np.ndarray
    classes: np.ndarray
    id: str = "a"
    image_in_strips: bool = True
    labels_in_strips: bool = True
    label_kind: LabelKind = "pixels"
    reads: list[Window] = field(default_factory=list)

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def channels(self) -> int:
        return self.pixels.shape[2]

    @property
    def dtype(self) -> np.dtype:
        return self.pixels.dtype

    def image(self, window: Window) -> np.ndarray:
        self.reads.append(window)
        return self._cut(np.pad(self.pixels, ((99, 99), (99, 99), (0, 0))), window)

    def labels(self, window: Window) -> np.ndarray:
        return self._cut(np.pad(self.classes, 99, constant_values=1), window)

    def _cut(self, padded: np.ndarray, w: Window) -> np.ndarray:
        return padded[w.ymin + 99 : w.ymax + 99, w.xmin + 99 : w.xmax + 99]


def scene(height: int = 40, width: int = 50, seed: int = 0, name: str = "a") -> ArrayScene:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 255, (height, width, 2)).astype(np.uint8)
    return ArrayScene(pixels, rng.integers(0, 2, (height, width)).astype(np.uint8), name)


def sliding(height: int, width: int, size: int, stride: int) -> list[Window]:
    return [
        Window(y, x, y + size, x + size)
        for y in range(0, height, stride)
        for x in range(0, width, stride)
    ]


def random_windows(**kwargs: object) -> RandomWindows:
    values = {"scene_id": "a", "height": 40, "width": 50, "heights": (8, 17), "widths": (8, 17)}
    values |= {"square": True, "padding": (4, 4), "count": 30}
    return RandomWindows(**(values | kwargs))


@pytest.mark.parametrize("in_strips", [True, False])
@pytest.mark.parametrize("stride", [5, 16, 20])
def test_strips_hold_the_same_pixels(in_strips: bool, stride: int) -> None:
    s = scene()
    windows = sliding(40, 50, 16, stride)
    rows = list(RowReader(s.image, windows, 2, in_strips))
    reads = len(s.reads)
    for window, row in zip(windows, rows, strict=True):
        np.testing.assert_array_equal(row, s.image(window))
    # Windows that lie apart (stride 20) are not read together.
    joined = in_strips and stride <= 16
    assert reads == (len({w.ymin for w in windows}) if joined else len(windows))


def test_random_windows_are_a_function_of_epoch_and_index() -> None:
    r = random_windows()
    first = [r.draw(0, i) for i in range(30)]
    assert [random_windows().draw(0, i) for i in range(30)] == first
    assert [r.draw(1, i) for i in range(30)] != first
    assert [random_windows(seed=1).draw(0, i) for i in range(30)] != first
    assert [random_windows(scene_id="b").draw(0, i) for i in range(30)] != first
    for w in first:
        assert 8 <= w.height == w.width < 17
        assert w.ymin >= -4
        assert w.xmax <= 54
    assert len({w.height for w in first}) > 3
    assert any(w.ymin < 0 for w in first)


def test_random_windows_stay_in_the_area_of_interest() -> None:
    def inside(w: Window) -> bool:
        return w.xmin + w.ymin >= 40

    corners = (Window(0, 40, 10, 50), Window(10, 30, 40, 50))
    r = random_windows(inside=inside, corners=corners)
    drawn = [r.draw(0, i) for i in range(30)]
    assert [random_windows(inside=inside, corners=corners).draw(0, i) for i in range(30)] == drawn
    for w in drawn:
        assert inside(w)
        assert w.ymin >= 10 or w.xmin >= 40
        assert w.ymax <= 44
        assert w.xmax <= 54
    with pytest.raises(InputError, match="no window of scene a "):
        random_windows(inside=lambda _: False, attempts=3).draw(0, 0)


def test_windows_larger_than_the_scene_are_an_error() -> None:
    with pytest.raises(InputError, match=r"60x60 .*scene a"):
        random_windows(heights=(60, 61), padding=(0, 0)).draw(0, 0)


def test_window_chips_are_a_chip_source() -> None:
    a, b = scene(), scene(seed=1, name="b")
    plans = [
        SceneWindows("a", lambda: a, sliding(40, 50, 16, 16)[:4]),
        SceneWindows("b", lambda: b, sliding(40, 50, 16, 16)[:3]),
    ]
    source = WindowChips(plans, 16, 2)
    assert isinstance(source, ChipSource)
    assert len(source) == 7
    images, labels = source.read(np.array([6, 0]), 0)
    np.testing.assert_array_equal(images[0], b.image(plans[1].window(0, 2)))
    np.testing.assert_array_equal(labels[1], a.labels(plans[0].window(0, 0)))
    counts = source.class_pixels()
    assert counts is not None
    np.testing.assert_array_equal(counts[0], np.bincount(labels[1].ravel(), minlength=2))


def test_classes_are_counted_in_chips_as_they_are_read() -> None:
    source = WindowChips([SceneWindows("a", scene, sliding(40, 48, 16, 16)[:6])], 8, 2)
    labels = source.read(np.arange(6), 0)[1]
    expected = [np.bincount(chip.ravel(), minlength=2) for chip in labels]
    np.testing.assert_array_equal(source.class_pixels(), expected)


def test_random_chips_change_with_the_epoch_unless_fixed() -> None:
    plans = [SceneWindows("a", scene, random_windows())]
    train, valid = WindowChips(plans, 16, 2), WindowChips(plans, 16, 2, fixed=True)
    index = np.arange(5)
    assert train.class_pixels() is None
    assert not np.array_equal(train.read(index, 0)[0], train.read(index, 1)[0])
    np.testing.assert_array_equal(train.read(index, 1)[0], train.read(index, 1)[0])
    np.testing.assert_array_equal(valid.read(index, 0)[0], valid.read(index, 1)[0])


def test_windows_without_data_are_dropped() -> None:
    s = scene()
    s.pixels[:16] = 0

    def keep(image: np.ndarray, labels: np.ndarray) -> bool:
        return bool(image.any())

    fixed = [SceneWindows("a", lambda: s, sliding(32, 48, 16, 16))]
    assert len(WindowChips(fixed, 16, 2, keep=keep)) == 3
    drawn = [SceneWindows("a", lambda: s, random_windows(heights=(8, 9), padding=(0, 0)))]
    source = WindowChips(drawn, 8, 2, keep=keep)
    assert len(source) == 30
    assert all(chip.any() for chip in source.read(np.arange(30), 0)[0])
    with pytest.raises(InputError, match="no window"):
        WindowChips(fixed, 16, 2, keep=lambda *_: False)
    with pytest.raises(InputError, match=r"windows of scene a .*dropped"):
        WindowChips(drawn, 8, 2, keep=lambda *_: False).read(np.arange(1), 0)


def test_scenes_of_different_bands_are_refused() -> None:
    other = ArrayScene(np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8), "b")
    plans = [SceneWindows(s.id, lambda s=s: s, [Window(0, 0, 8, 8)]) for s in (scene(), other)]
    with pytest.raises(InputError, match=r"scene a .*2 bands of uint8, scene b .*3"):
        WindowChips(plans, 8, 2)


def test_label_ids_beyond_the_classes_are_refused() -> None:
    plans = [SceneWindows("a", scene, [Window(0, 0, 8, 8)])]
    with pytest.raises(InputError, match=r"label id 1, .*1 classes"):
        WindowChips(plans, 8, 1).read(np.array([0]), 0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_fit_resizes_and_keeps_types(dtype: str) -> None:
    image = np.full((20, 30, 5), 40).astype(dtype)
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 15:] = 3
    out, resized = fit(image, labels, 10)
    assert out.shape == (10, 10, 5)
    assert out.dtype == dtype
    assert (out == 40).all()
    assert set(np.unique(resized)) == {0, 3}
    assert (resized == 3).mean() == 0.5


@pytest.mark.parametrize(
    ("raster", "chip"),
    [("uint8", "uint8"), ("bool", "uint8"), ("int8", "int16"), ("uint16", "uint16"),
     ("int32", "float32"), ("float64", "float32"), ("float16", "float32")],
)  # fmt: skip
def test_pixel_types_of_chips(raster: str, chip: str) -> None:
    assert chip_dtype(np.dtype(raster)) == chip
