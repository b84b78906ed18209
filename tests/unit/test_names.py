"""Names and roots that become files: too long, with separators, with what cannot be printed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rastervision.kubernetes.name_checks import check_names

from rvk8s.errors import InputError
from rvk8s.names import LONGEST_NAME
from rvk8s.plan import absolute_root

RIGHT = [
    "2_10",
    "top potsdam",
    "Gebäude",
    "..a",
    "a.b",
    "建" * (LONGEST_NAME // 3),
    "a" * LONGEST_NAME,
]
WRONG = {
    "../../../zz": "separator",
    "/etc/x": "separator",
    "a/b": "separator",
    "a\\b": "separator",
    "..": "folder",
    ".": "folder",
    "a\nb": "control",
    "a\0b": "control",
    "a\x1b[31mb": "control",
    "a" * (LONGEST_NAME + 1): "bytes",
    "ü" * (LONGEST_NAME // 2 + 1): "bytes",
    "\ud800": "UTF-8",
}


def dataset(
    train: str = "a", validation: str = "b", test: str = "c", group: str = "d", name: str = "e"
) -> Any:
    scenes = {
        f"{key}_scenes": [SimpleNamespace(id=value)]
        for key, value in (("train", train), ("validation", validation), ("test", test))
    }
    classes = SimpleNamespace(names=[name, "other"])
    return SimpleNamespace(**scenes, scene_groups={group: set()}, class_config=classes)


@pytest.mark.parametrize("place", ["train", "validation", "test", "group", "name"])
def test_names_of_files_are_checked(place: str) -> None:
    for name in RIGHT:
        assert not check_names(dataset(**{place: name}))
    for name, keyword in WRONG.items():
        (error,) = check_names(dataset(**{place: name}))
        assert keyword in error.what
        named = {"group": "scene_groups", "name": "class_config.names"}.get(place, place)
        assert named in str(error.where)
        assert error.fix
        assert len(str(error)) < 250


@pytest.mark.parametrize("place", ["train", "group"])
def test_an_empty_name_is_refused(place: str) -> None:
    for name in ("", " "):
        assert [error.what for error in check_names(dataset(**{place: name}))] == ["is empty"]


@pytest.mark.parametrize(
    ("root", "keyword"),
    [
        ("r" * 300, "bytes"),
        ("/a/" + "ü" * 128, "bytes"),
        ("/" + "abcdefg/" * 400, "bytes"),
        ("a\nb", "control"),
        ("a\0b", "control"),
        ("m\udcfcnchen", "UTF-8"),
        ("C:\\runs", "backslash"),
        ("s3://b/" + "r" * 700, "bytes"),
        ("s3://b/" + "r/" * 350, "bytes"),
        ("s3://" + "b" * 300, "bucket"),
        ("s3://my bucket/x", "bucket"),
        ("s3://b/a//c", "empty part"),
        ("s3://b/../c", "part .."),
        ("s3://b/a\\c", "backslash"),
        ("s3://b/a\tc", "control"),
    ],
)
def test_a_root_that_cannot_be_written_is_refused(root: str, keyword: str) -> None:
    with pytest.raises(InputError, match=f"^rootUri: .*{keyword}.*; ") as refused:
        absolute_root(root, "/p", "rootUri")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "root", ["/a b/ü", "r" * 255, "s3://b/a b/ü", "s3://my.bucket-1/a", "/", "/" + "abcdefg/" * 300]
)
def test_a_root_that_can_be_written_is_taken(root: str) -> None:
    absolute_root(root, "/p", "rootUri")
