"""The pixels, captions, legend and scale bar of the pictures of evaluated scenes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rastervision.fastai_backend import picture_layout, pictures, scores
from rastervision.fastai_backend.picture_layout import GAP, PANEL

NAMES = ["car", "tree", "null"]


def summarised(unscored: frozenset[int] = frozenset({2})) -> dict[str, Any]:
    """Scores of a scene; about a third of the pixels are wrong."""
    matrix = np.array([[6, 2, 1], [1, 9, 0], [5, 7, 3]])
    counts = scores.Counts.of(matrix, unscored)
    return scores.summarise(counts, NAMES, unscored, scores.TASKS["semantic_segmentation"])


LEGEND = pictures.Legend(NAMES, [(200, 0, 0), (0, 200, 0), (0, 0, 0)], {2})


def test_colours_of_a_class_config() -> None:
    config = {"names": NAMES, "colors": ["#ff0000", [0.0, 1.0, 0.0], [1, 2, 3]], "null_class": None}
    assert pictures.Legend.of(config, ()) == pictures.Legend(
        NAMES, [(255, 0, 0), (0, 255, 0), (1, 2, 3)], ()
    )


@pytest.mark.parametrize(
    ("shape", "columns"), [((60, 80), 2), ((400, 100), 4), ((30, 200), 1), ((900, 900), 2)]
)
def test_pictures_have_a_decent_size(shape: tuple[int, int], columns: int) -> None:
    truth = np.zeros(shape, np.uint8)
    image = np.full((*shape, 3), 128, np.uint8)
    view = pictures.SceneView("x", image, truth, truth)
    picture = pictures.draw(view, LEGEND, summarised())
    assert 720 <= picture.width <= 1600
    panel = (picture.width - (columns + 1) * GAP) / columns
    assert panel <= PANEL


def test_errors_have_the_colour_of_the_prediction() -> None:
    truth = np.array([[0, 0, 1, 2]])
    said = np.array([[0, 1, 0, 1]])
    grey = np.full((1, 4, 1), 100.0)
    out = pictures._errors(truth, said, grey, LEGEND, truth == 2)
    assert out[0, 0].tolist() == [82, 82, 82]
    assert out[0, 1].tolist() == [0, 200, 0]
    assert out[0, 2].tolist() == [200, 0, 0]
    assert tuple(out[0, 3]) == pictures.NO_LABEL


def test_what_an_eye_can_look_at() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(pictures.to_rgb(rgb), rgb)
    deep = rng.integers(300, 900, (8, 8, 5)).astype(np.uint16)
    shown = pictures.to_rgb(deep)
    assert shown.dtype == np.uint8
    assert shown.min() == 0
    assert shown.max() == 255
    assert pictures.to_rgb(np.full((4, 4, 2), 0.5, np.float32)).shape == (4, 4, 3)
    assert not pictures.to_rgb(np.zeros((4, 4, 3), np.float32)).any()
    gaps = np.where(rng.random((8, 8, 3)) < 0.1, np.nan, rng.random((8, 8, 3)))
    assert pictures.to_rgb(gaps).dtype == np.uint8


def test_pictures_hide_what_is_not_scored() -> None:
    ids = np.array([[-1, 0, 1, 2]], np.int16)
    legend = pictures.Legend(NAMES, LEGEND.colors, unscored={0, 2})
    assert legend.hides(ids).tolist() == [[True, True, False, True]]
    assert pictures.Legend(["a", "b"], LEGEND.colors[:2], ()).hides(ids).tolist() == [
        [True, False, False, False]
    ]


def test_legend_names_what_is_predicted_and_not_scored() -> None:
    """Most of a scene may be predicted as the ignored class, with a label everywhere."""
    entries = pictures._legend_entries(LEGEND, summarised(), [2])
    assert [text for _, text in entries] == ["car  F1 0.750", "tree  F1 0.857", "not scored: null"]
    assert entries[-1][0] == pictures.NO_LABEL
    assert pictures._legend_entries(LEGEND, summarised(), [-1])[-1][1] == "not scored"
    assert len(pictures._legend_entries(LEGEND, summarised(), [])) == 2
    truth = np.zeros((40, 40), np.uint8)
    image = np.full((40, 40, 3), 90, np.uint8)
    seen = [
        pictures.draw(pictures.SceneView("x", image, truth, said), LEGEND, summarised())
        for said in (truth, np.full_like(truth, 2))
    ]
    legends = [np.asarray(one.crop((0, one.height - 46, one.width, one.height))) for one in seen]
    assert not (legends[0] == pictures.NO_LABEL).all(-1).any()
    assert (legends[1] == pictures.NO_LABEL).all(-1).any()


@pytest.mark.parametrize(
    "colors",
    [
        [(128, 128, 128), (0, 200, 0)],
        [(64, 64, 64), (160, 160, 160), (0, 0, 0)],
        [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)],
        [(100, 100, 110), (60, 90, 160)],
    ],
)
@pytest.mark.parametrize("light", [0.0, 100.0, 255.0])
def test_errors_stand_out_from_the_ground(colors: list[tuple[int, int, int]], light: float) -> None:
    legend = pictures.Legend([str(i) for i in range(len(colors))], colors, ())
    truth = np.zeros((1, len(colors) + 1), int)
    said = np.array([[*range(len(colors)), 0]])
    truth[0, 0] = 1
    out = pictures._errors(truth, said, np.full((*truth.shape, 1), light), legend, truth < 0)
    assert [tuple(pixel) for pixel in out[0, :-1].tolist()] == colors
    far = np.linalg.norm(out[0, :-1].astype(float) - out[0, -1], axis=-1)
    assert far.min() > 40


def test_grey_stays_the_ground_where_it_is_clear() -> None:
    isprs = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
    legend = pictures.Legend([str(i) for i in range(6)], isprs, ())
    assert pictures._ground(legend) == pictures.GROUNDS[0]


@pytest.mark.parametrize("shape", [(80, 30), (30, 80), (60, 60), (7, 3000), (3000, 7)])
def test_captions_fit_their_panels(shape: tuple[int, int]) -> None:
    truth = np.zeros(shape, np.uint8)
    view = pictures.SceneView("a scene with a long name" * 3, np.zeros((*shape, 3)), truth, truth)
    picture = pictures.draw(view, LEGEND, summarised())
    # The errors' caption is the longest; its right edge is background, not letters.
    assert (np.asarray(picture)[:, -GAP:] == picture_layout.BACKGROUND).all()
    (_, columns), text = picture_layout.layout(*shape), pictures._errors_caption(summarised())
    cell = (picture.width - GAP) // columns - GAP
    for line in picture_layout.wrapped(text, cell, 16):
        assert picture_layout._width(line, 16) <= cell


@pytest.mark.parametrize(
    ("metres", "width", "pixels", "text"),
    [
        (0.3, 760, 167, "50 m"),
        (0.05, 760, 200, "10 m"),
        (10.0, 760, 200, "2 km"),
        (1.0, 3, 1, "1 m"),
        (0.0004, 760, 250, "10 cm"),
        (300.0, 500, 167, "50 km"),
    ],
)
def test_scale_bar_is_a_round_length(metres: float, width: int, pixels: int, text: str) -> None:
    assert picture_layout.scale_bar(metres, width) == (pixels, text)


def test_scale_bar_is_drawn_where_the_place_is_known() -> None:
    truth, image = np.zeros((50, 50), np.uint8), np.full((50, 50, 3), 128, np.uint8)
    plain, scaled = (
        np.asarray(
            pictures.draw(pictures.SceneView("x", image, truth, truth, m), LEGEND, summarised())
        )
        for m in (None, 0.5)
    )
    rows, columns = np.nonzero((plain != scaled).any(-1))
    assert columns.max() < GAP + 0.4 * PANEL, "it lies in the first panel"
    # 0.5 m are 15.2 pixels of the panel, so 5 m are 152.
    bar = (scaled[rows.max() - 3] == picture_layout.BACKGROUND).all(-1)[GAP : GAP + PANEL]
    assert bar.sum() == 153
