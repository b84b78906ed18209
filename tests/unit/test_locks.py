"""The images install what the tests run with: their locks are parts of requirements.lock."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pins(file: Path) -> dict[str, frozenset[str]]:
    """name==version with its marker -> the hashes that may be installed."""
    found: dict[str, frozenset[str]] = {}
    for entry in re.split(r"\n(?=\S)", file.read_text().strip()):
        head, *hashes = entry.split("--hash=")
        found[head.strip().rstrip("\\").strip()] = frozenset(h.split()[0] for h in hashes)
    return found


@pytest.mark.parametrize("image", ["stage", "driver"])
def test_an_images_lock_is_a_part_of_the_lock(image: str) -> None:
    whole = pins(ROOT / "requirements.lock")
    part = pins(ROOT / "docker" / f"requirements-{image}.lock")
    assert part.items() <= whole.items(), "run `make lock`"
    assert all(part.values()), "each has hashes"


def test_no_lock_names_an_address() -> None:
    for file in (ROOT / "requirements.lock", *(ROOT / "docker").glob("*.lock")):
        assert "://" not in file.read_text(), file


def test_the_drivers_image_has_no_torch_and_no_helm() -> None:
    names = {pin.split("==")[0] for pin in pins(ROOT / "docker" / "requirements-driver.lock")}
    assert {"boto3", "kubernetes", "click"} <= names
    assert not names & {"torch", "rastervision", "fastai", "helm-python-sdk"}
