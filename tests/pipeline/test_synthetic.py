"""examples/synthetic.py: Potsdam's layout, one seed one scene, and honest about itself."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

# Potsdam's labels do not say where they lie.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGE = "4_Ortho_RGBIR/top_potsdam_{}_RGBIR.tif"
LABEL = "5_Labels_for_participants/top_potsdam_{}_label.tif"
CAR, BUILDING, LOW_VEGETATION, TREE, IMPERVIOUS, CLUTTER = range(6)


@pytest.fixture(scope="module")
def synthetic() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("synthetic")


@pytest.fixture(scope="module")
def drawn(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("potsdam")
    synthetic.main([str(out), "--scenes", "6_10", "7-10", "--size", "256", "--gsd", "0.2"])
    return out


def test_files_are_named_and_shaped_as_potsdams(drawn: Path) -> None:
    for scene in ("6_10", "7_10"):
        with rasterio.open(drawn / IMAGE.format(scene)) as image:
            assert (image.count, image.dtypes[0], image.shape) == (4, "uint8", (256, 256))
            assert image.crs.to_epsg() == 32633
            assert image.res == (0.2, 0.2)
            # A fourth band that says "alpha" would be used as a mask by readers.
            assert image.colorinterp[3] == ColorInterp.undefined
        with rasterio.open(drawn / LABEL.format(scene)) as label:
            assert (label.count, label.shape, label.crs) == (3, (256, 256), None)
            assert label.transform.is_identity


@pytest.mark.parametrize(("labels", "epsg"), [("tfw", None), ("crs", 32633)])
def test_labels_that_say_where_they_lie(
    labels: str, epsg: int | None, tmp_path: Path, synthetic: ModuleType
) -> None:
    words = [str(tmp_path), "--scenes", "6_10", "--size", "64", "--labels"]
    synthetic.main([*words, labels])
    with (
        rasterio.open(tmp_path / IMAGE.format("6_10")) as image,
        rasterio.open(tmp_path / LABEL.format("6_10")) as label,
    ):
        assert (label.crs and label.crs.to_epsg()) == epsg
        assert label.transform.almost_equals(image.transform)
    synthetic.main([*words, "none"])
    assert list(tmp_path.rglob("*.tfw")) == [], "another form's would be read"


def test_labels_are_the_six_colours(drawn: Path, synthetic: ModuleType) -> None:
    with rasterio.open(drawn / LABEL.format("6_10")) as label:
        colours = label.read().reshape(3, -1).T
    known = {tuple(colour) for colour in synthetic.COLORS.tolist()}
    assert {tuple(colour) for colour in np.unique(colours, axis=0).tolist()} <= known


def test_every_output_says_that_it_is_synthetic(drawn: Path, synthetic: ModuleType) -> None:
    files = sorted(drawn.rglob("*.tif"))
    assert len(files) == 4
    for file in files:
        with rasterio.open(file) as raster:
            assert raster.tags()["TIFFTAG_IMAGEDESCRIPTION"] == synthetic.NOTICE
    assert "SYNTHETIC" in (drawn / "README.txt").read_text()


def test_same_seed_same_scene(synthetic: ModuleType) -> None:
    image, labels = synthetic.draw_scene("6_10", 128, seed=3, gsd=0.2)
    again, labels_again = synthetic.draw_scene("6_10", 128, seed=3, gsd=0.2)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    for other in (("6_10", 4), ("6_11", 3)):
        assert (synthetic.draw_scene(other[0], 128, seed=other[1], gsd=0.2)[0] != image).any()


def test_scenes_have_every_class_and_look_their_part(synthetic: ModuleType) -> None:
    scenes = [synthetic.draw_scene(f"{n}_10", 400, gsd=0.2) for n in (2, 3, 4)]
    image = np.concatenate([scene[0] for scene in scenes]).astype(float)
    labels = np.concatenate([scene[1] for scene in scenes])
    share = np.bincount(labels.ravel(), minlength=6) / labels.size
    assert (share > [0.003, 0.05, 0.1, 0.05, 0.1, 0.003]).all(), share
    assert image.min() >= 1, "0 means no data"
    red, infrared = image[..., 0], image[..., 3]
    index = (infrared - red) / (infrared + red)
    plants = np.isin(labels, (LOW_VEGETATION, TREE))
    assert index[plants].mean() > index[~plants].mean() + 0.15
    # Textured: a class is no single colour.
    assert all(red[labels == k].std() > 8 for k in range(6))


def test_a_real_file_is_not_overwritten(tmp_path: Path, synthetic: ModuleType) -> None:
    real = tmp_path / IMAGE.format("6_10")
    real.parent.mkdir()
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 4, "dtype": "uint8"}
    with rasterio.open(real, "w", crs="EPSG:32633", transform=rasterio.Affine.scale(2), **profile):
        pass
    before = real.read_bytes()
    with pytest.raises(SystemExit, match="is not synthetic"):
        synthetic.main([str(tmp_path), "--scenes", "6_10", "--size", "64"])
    assert real.read_bytes() == before
    assert not list(tmp_path.rglob(".*")), "nothing half-written"


@pytest.mark.parametrize("bad", [["--scenes", "six"], ["--size", "8"], ["--gsd", "0"]])
def test_bad_arguments(tmp_path: Path, synthetic: ModuleType, bad: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        synthetic.main([str(tmp_path / "out"), *bad])
    assert error.value.code == 2
    assert not (tmp_path / "out").exists()
