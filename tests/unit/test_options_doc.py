"""docs/guide/options-2019.md names options that exist, with their defaults, and all of 2019's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rastervision.fastai_backend.options import TrainSettings

PAGE = Path(__file__).parents[2] / "docs/guide/options-2019.md"
IN_2019 = {
    *("batch_sz", "weight_decay", "lr", "one_cycle", "num_epochs", "model_arch", "fp16"),
    *("flip_vert", "sync_interval", "debug", "train_prop", "train_count", "tta", "oversample"),
}


def test_every_option_of_2019_has_its_line() -> None:
    first_cells = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(first_cells) == IN_2019


def test_every_option_that_the_page_names_exists() -> None:
    settings = TrainSettings()
    named = set(re.findall(r"`(model|data|solver|predict)\.(\w+)`", PAGE.read_text()))
    assert len(named) > 30
    for group, option in named:
        assert option in type(getattr(settings, group)).model_fields, f"{group}.{option}"


@pytest.mark.parametrize(
    ("group", "option", "default"),
    re.findall(r"^\|[^|]*\|[^|]*\| `(\w+)\.(\w+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE),
)
def test_defaults_are_true(group: str, option: str, default: str) -> None:
    value = getattr(getattr(TrainSettings(), group), option)
    text = default.strip().strip("`").strip('"')
    assert text == str(value) or float(text) == value
