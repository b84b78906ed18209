"""The images that a project written by `rvk8s init` finds in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from rastervision.kubernetes.image_files import image_files
from said import says

from rvk8s.errors import InputError


def made(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).write_bytes(b"")
    return str(folder)


def test_geotiffs_have_several_ends(tmp_path: Path) -> None:
    folder = tmp_path / "of [2026]"
    folder.mkdir()
    names = ["a.tif", "b.tiff", "c.TIF", "a-b.TIFF", "d.e.Tif"]
    made(folder, *names, "._a.tif", "a.tif.aux.xml", "a.tfw", "notes.txt")
    found = image_files(str(folder))
    assert list(found) == ["a", "a-b", "b", "c", "d.e"]
    assert sorted(Path(path).name for path in found.values()) == sorted(names)
    assert all(Path(path).is_file() for path in found.values())


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "…has no images; found nothing; …NAME.tif…"),
        (["a.jpg", "b.png"], "…has no images; found a.jpg, b.png; …NAME.tif…"),
        ([f"{i}.jp2" for i in range(9)], "…has no images; found 0.jp2, …4.jp2, ...; …"),
        (["._a.tif"], "…has no images; found nothing; …"),
        (["a.tif", "a.TIFF"], "…a.TIFF…a.tif… one scene, a; rename…"),
    ],
)
def test_a_folder_without_images_says_what_it_has(
    tmp_path: Path, names: list[str], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        image_files(made(tmp_path, *names))
    assert says(str(refused.value), f"{tmp_path}: {said}")


def test_a_folder_that_there_is_not(tmp_path: Path) -> None:
    for folder, said in (("none", "no such folder"), ("file", "Not a directory")):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=f"{folder}: .*{said}"):
            image_files(str(tmp_path / folder))
