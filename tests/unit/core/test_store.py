"""The chip store: what is written is read again, and what is not whole is not read."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rastervision.fastai_backend.chips import ChipSource
from rastervision.fastai_backend.store import ChipFormat, ChipWriter, Part, StoredChips

from rvk8s.errors import InputError

SIZE, CLASSES = 16, 4


def chips(seed: int, n: int, dtype: str = "uint8", bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = (rng.random((n, SIZE, SIZE, bands)) * 250).astype(dtype)
    return images, rng.integers(0, CLASSES, (n, SIZE, SIZE)).astype(np.uint8)


def write(store: Path, part: Part, scenes: dict[str, int], dtype: str = "uint8") -> np.ndarray:
    """Write a part with so many chips for each scene; returns the images."""
    everything = []
    with ChipWriter(store, part, ChipFormat(SIZE, 3, dtype, CLASSES)) as writer:
        for seed, (scene, n) in enumerate(scenes.items()):
            writer.start_scene(scene)
            images, labels = chips(seed, n, dtype)
            everything.append(images)
            for image, label in zip(images, labels, strict=True):
                writer.add(image, label, (0, 0, SIZE, SIZE))
    return np.concatenate(everything)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_parts_read_as_one(tmp_path: Path, dtype: str) -> None:
    a = write(tmp_path, Part("train", 0, 2, 3), {"a": 3, "b": 2}, dtype)
    b = write(tmp_path, Part("train", 2, 3, 3), {"c": 4}, dtype)
    source: ChipSource = StoredChips(tmp_path, "train", ["a", "b", "c"])
    assert isinstance(source, ChipSource)
    assert (len(source), source.size, source.channels, source.dtype) == (9, SIZE, 3, dtype)
    order = np.array([8, 0, 4, 4, 5])
    images, labels = source.read(order, epoch=7)
    np.testing.assert_array_equal(images, np.concatenate([a, b])[order])
    assert images.dtype == dtype
    assert labels.shape == (5, SIZE, SIZE)
    counts = source.class_pixels()
    assert counts is not None
    np.testing.assert_array_equal(
        counts[order], [np.bincount(x.ravel(), minlength=CLASSES) for x in labels]
    )


def test_an_empty_part_is_fine_among_others(tmp_path: Path) -> None:
    write(tmp_path, Part("train", 0, 1, 2), {"a": 2})
    with ChipWriter(tmp_path, Part("train", 1, 2, 2), ChipFormat(SIZE, 3, "uint8", CLASSES)) as w:
        w.start_scene("b")
    assert len(StoredChips(tmp_path, "train", ["a", "b"])) == 2


def test_a_job_that_starts_again_replaces_its_part(tmp_path: Path) -> None:
    part = Part("train", 0, 1, 1)
    write(tmp_path, part, {"a": 5})
    write(tmp_path, part, {"a": 2})
    assert len(StoredChips(tmp_path, "train", ["a"])) == 2


def test_another_number_of_splits_replaces_the_parts_it_overlaps(tmp_path: Path) -> None:
    write(tmp_path, Part("train", 0, 2, 2), {"a": 1, "b": 1})
    write(tmp_path, Part("valid", 0, 1, 1), {"v": 1})
    write(tmp_path, Part("train", 0, 1, 2), {"a": 3})
    with pytest.raises(InputError, match="chip stage"):
        StoredChips(tmp_path, "train", ["a", "b"])
    write(tmp_path, Part("train", 1, 2, 2), {"b": 3})
    assert len(StoredChips(tmp_path, "train", ["a", "b"])) == 6
    assert len(StoredChips(tmp_path, "valid", ["v"])) == 1


def test_an_error_leaves_the_old_part_and_nothing_else(tmp_path: Path) -> None:
    part = Part("train", 0, 1, 1)
    write(tmp_path, part, {"a": 5})
    before = sorted(p.name for p in tmp_path.iterdir())
    image, label = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE), 9, np.uint8)

    def stray() -> None:
        with ChipWriter(tmp_path, part, ChipFormat(SIZE, 3, "uint8", CLASSES)) as writer:
            writer.start_scene("a")
            writer.add(image, label, (0, 0, SIZE, SIZE))

    with pytest.raises(InputError, match=r"scene a .*label id 9, .*4"):
        stray()
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert len(StoredChips(tmp_path, "train", ["a"])) == 5


def test_what_a_killed_job_left_is_not_read_and_is_removed(tmp_path: Path) -> None:
    part = Part("train", 0, 1, 1)
    left = tmp_path / f".{part.name}.partial"
    left.mkdir()
    (left / "images.raw").write_bytes(b"half")
    with pytest.raises(InputError, match="missing"):
        StoredChips(tmp_path, "train", ["a"])
    write(tmp_path, part, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == [part.name]


def test_same_chips_same_bytes(tmp_path: Path) -> None:
    part = Part("train", 0, 1, 1)
    for name in ("one", "two"):
        write(tmp_path / name, part, {"a": 3})
    for file in (tmp_path / "one" / part.name).iterdir():
        assert file.read_bytes() == (tmp_path / "two" / part.name / file.name).read_bytes()


@pytest.mark.parametrize("name", ["images.raw", "labels.raw", "index.json"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    part = Part("train", 0, 1, 1)
    write(tmp_path, part, {"a": 3})
    file = tmp_path / part.name / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputError, match=f"damaged chips: {name}"):
        StoredChips(tmp_path, "train", ["a"])


def test_chips_of_other_scenes_are_refused(tmp_path: Path) -> None:
    write(tmp_path, Part("train", 0, 1, 1), {"a": 3})
    with pytest.raises(InputError, match="scenes b in"):
        StoredChips(tmp_path, "train", ["b"])
    with pytest.raises(InputError, match="missing"):
        StoredChips(tmp_path / "nowhere", "train", ["b"])


def test_parts_of_different_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path, Part("train", 0, 1, 2), {"a": 1})
    write(tmp_path, Part("train", 1, 2, 2), {"b": 1}, "float32")
    with pytest.raises(InputError, match="different formats"):
        StoredChips(tmp_path, "train", ["a", "b"])


def test_pixel_types_that_chips_cannot_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float64"):
        ChipWriter(tmp_path, Part("train", 0, 1, 1), ChipFormat(SIZE, 3, "float64", CLASSES))


def test_3000_chips_a_second(tmp_path: Path) -> None:
    """CPU seconds of this thread; ten times the bound is usual (docs/benchmarks.md)."""
    n, size = 256, 300
    image = np.zeros((size, size, 3), np.uint8)
    with ChipWriter(
        tmp_path, Part("train", 0, 1, 1), ChipFormat(size, 3, "uint8", CLASSES)
    ) as writer:
        writer.start_scene("a")
        for _ in range(n):
            writer.add(image, image[..., 0], (0, 0, size, size))
    source = StoredChips(tmp_path, "train", ["a"])
    order = np.random.default_rng(0).permutation(n)
    best = 0.0
    for _ in range(3):
        start = time.thread_time()
        for i in range(0, n, 8):
            source.read(order[i : i + 8], 0)
        best = max(best, n / (time.thread_time() - start))
    assert best >= 3000


@pytest.mark.parametrize("damaged", [False, True])
def test_chips_of_s3_are_named_where_they_lie_there(tmp_path: Path, damaged: bool) -> None:
    """Not by the folder of this pod that they were copied to."""
    from rastervision.fastai_backend.backend.base import FastaiBackend

    if damaged:
        write(tmp_path, Part("train", 0, 1, 1), {"a": 2})
        next(tmp_path.rglob("images.raw")).write_bytes(b"")
    scenes = [SimpleNamespace(id="a")]
    backend: Any = SimpleNamespace(
        pipeline=SimpleNamespace(
            chip_uri="s3://bucket/runs/run-1/chip",
            chip_options=None,
            dataset=SimpleNamespace(train_scenes=scenes, validation_scenes=[]),
        ),
        config=SimpleNamespace(sampling=None),
        _store=tmp_path,
    )
    with pytest.raises(InputError, match=r"s3://bucket/runs/run-1/chip.*--rerun chip") as error:
        FastaiBackend._chips(backend, "train")
    assert str(tmp_path) not in str(error.value)
