"""Draws synthetic scenes in the layout of the ISPRS Potsdam data set, to try things without it.

    python examples/synthetic.py OUT --scenes 6_10 7_10 --size 1200 --seed 0

writes OUT/4_Ortho_RGBIR/top_potsdam_6_10_RGBIR.tif (red, green, blue, near infrared; uint8; 5 cm;
EPSG:32633) and OUT/5_Labels_for_participants/top_potsdam_6_10_label.tif (ISPRS's six classes as
colours). As those of ISPRS, the labels do not say where they lie; --labels tfw adds world files,
--labels crs writes the CRS and the transform into them. The same seed draws the same scenes. Every
file says that it is synthetic; a file that does not say so is never overwritten.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin
from scene_layout import make_layout
from scene_paint import paint

#: ISPRS's colours of Car, Building, Low Vegetation, Tree, Impervious, Clutter.
COLORS = np.array(
    [(255, 255, 0), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 255), (255, 0, 0)], np.uint8
)
#: How labels say where they lie: not at all, by a world file beside them, in the GeoTIFF.
LABELS = ("none", "tfw", "crs")
NOTICE = "SYNTHETIC: drawn by rvk8s examples/synthetic.py; not imagery of any place"
DEFAULT_SCENES = ("2_10", "3_10", "4_10", "5_10", "6_10", "7_10", "2_12", "6_12")
README = """The scenes in this folder are SYNTHETIC.

They were drawn by examples/synthetic.py of rvk8s. They show no real place, and scores reached on
them say nothing about real imagery. Names, bands, colours and folders follow the ISPRS Potsdam 2D
semantic labelling data set, so that examples/potsdam reads both.

"""


def draw_scene(
    scene: str, size: int, seed: int = 0, gsd: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        scene: its name; together with the seed it decides everything.
        size: pixels of a side.
        gsd: ground sampling distance, metres per pixel.

    Returns:
        image: (size, size, 4) uint8.
        labels: (size, size) uint8 class ids, in the order of COLORS.
    """
    rng = np.random.default_rng([seed, zlib.crc32(scene.encode())])
    return paint(rng, make_layout(rng, size * gsd), size, 1 / gsd)


def _write(path: Path, bands: np.ndarray, place: Affine | None) -> None:
    """Write (bands, height, width) uint8 as a tiled GeoTIFF, whole or not at all.

    Args:
        place: from pixels to EPSG:32633; None: the file does not say where it lies.
    """
    if path.exists():
        with rasterio.open(path) as old:
            if NOTICE not in old.tags().get("TIFFTAG_IMAGEDESCRIPTION", ""):
                raise SystemExit(
                    f"error: {path} is not synthetic; give another folder than its own"
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
    }
    if place is not None:
        profile |= {"crs": "EPSG:32633", "transform": place}
    partial = path.with_name(f".{path.name}.{os.getpid()}.tif")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            _write_pixels(partial, bands, profile)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_pixels(path: Path, bands: np.ndarray, profile: dict[str, Any]) -> None:
    with rasterio.open(path, "w", **profile) as out:
        # Otherwise GDAL takes the fourth band for transparency and readers mask by it.
        colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
        out.colorinterp = colours[: len(bands)]
        out.update_tags(TIFFTAG_IMAGEDESCRIPTION=NOTICE, TIFFTAG_SOFTWARE="rvk8s")
        out.write(bands)


def _write_world_file(path: Path, place: Affine) -> None:
    """Write the six numbers of a world file: its last two are the centre of the first pixel."""
    x, y = place @ (0.5, 0.5)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(
        "".join(f"{number:.10f}\n" for number in (*place[0:5:3], *place[1:5:3], x, y))
    )
    os.replace(partial, path)


def write_scene(
    out: Path, scene: str, size: int, seed: int = 0, gsd: float = 0.05, labels: str = "none"
) -> None:
    """Draw a scene and write its files below `out`; labels is one of LABELS."""
    image, truth = draw_scene(scene, size, seed, gsd)
    row, column = (int(part) for part in scene.split("_"))
    place = from_origin(366000 + column * size * gsd, 5808000 - row * size * gsd, gsd, gsd)
    _write(
        out / "4_Ortho_RGBIR" / f"top_potsdam_{scene}_RGBIR.tif", image.transpose(2, 0, 1), place
    )
    label = out / "5_Labels_for_participants" / f"top_potsdam_{scene}_label.tif"
    _write(label, COLORS[truth].transpose(2, 0, 1), place if labels == "crs" else None)
    world = label.with_suffix(".tfw")
    if labels == "tfw":
        _write_world_file(world, place)
    else:
        world.unlink(missing_ok=True)


def _scene_name(text: str) -> str:
    parts = text.replace("-", "_").split("_")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROW_COLUMN, as 6_10 is")
    return "_".join(parts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--scenes", nargs="+", type=_scene_name, default=list(DEFAULT_SCENES))
    parser.add_argument("--size", type=int, default=1200, help="pixels of a side (default 1200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gsd", type=float, default=0.05, help="metres per pixel (default 0.05)")
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default="none",
        help="how labels say where they lie (default none, as ISPRS's)",
    )
    given = parser.parse_args(argv)
    if given.size < 64 or not 0.01 <= given.gsd <= 1 or given.seed < 0:
        parser.error("--size must be at least 64, --gsd from 0.01 to 1, --seed not negative")
    for scene in given.scenes:
        write_scene(given.out, scene, given.size, given.seed, given.gsd, given.labels)
        print(f"drew scene {scene}", file=sys.stderr)
    (given.out / "README.txt").write_text(README + NOTICE + "\n")


if __name__ == "__main__":
    main()
