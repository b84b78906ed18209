"""The pages about options: options.md is what its script writes now; options-2019.md names options
that exist, with their defaults, and all of 2019's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from rastervision.fastai_backend.options import (
    ClassifierOptions,
    DataOptions,
    DetectorOptions,
    ModelOptions,
    Oversample,
    PredictSettings,
    SolverOptions,
    TrainSettings,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/guide/options-2019.md"
#: Of each group; the model has those of all tasks.
OPTIONS = {
    "model": {
        *ModelOptions.model_fields,
        *ClassifierOptions.model_fields,
        *DetectorOptions.model_fields,
    },
    "data": set(DataOptions.model_fields),
    "solver": set(SolverOptions.model_fields),
    "predict": set(PredictSettings.model_fields),
}
IN_2019 = {
    *("batch_sz", "weight_decay", "lr", "one_cycle", "num_epochs", "model_arch", "fp16"),
    *("flip_vert", "sync_interval", "debug", "train_prop", "train_count", "tta", "oversample"),
}


def test_the_page_of_options_is_current() -> None:
    path = ROOT / "scripts/options_page.py"
    spec = importlib.util.spec_from_file_location("options_page", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.page(), "`make docs` writes it anew"


def test_ids_of_rare_classes_are_not_said_to_begin_at_one() -> None:
    text = (ROOT / "docs/guide/options.md").read_text()
    assert "| `rare_class_ids` | must be given | list of int, at least 1 of them |" in text
    assert Oversample(rare_class_ids=[0], rare_target_prop=0.5).rare_class_ids == [0]


def test_every_option_of_2019_has_its_line() -> None:
    first_cells = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(first_cells) == IN_2019


def test_every_option_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(model|data|solver|predict)\.(\w+)`", PAGE.read_text()))
    assert len(named) > 30
    assert [f"{group}.{option}" for group, option in named if option not in OPTIONS[group]] == []


def test_the_page_names_every_option() -> None:
    text = PAGE.read_text()
    options = [f"{group}.{name}" for group, names in OPTIONS.items() for name in names]
    assert [option for option in options if f"`{option}`" not in text] == []


@pytest.mark.parametrize(
    ("group", "option", "default"),
    re.findall(r"^\|[^|]*\|[^|]*\| `(\w+)\.(\w+)` \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE),
)
def test_defaults_are_true(group: str, option: str, default: str) -> None:
    value = getattr(getattr(TrainSettings(), group), option)
    text = default.strip().strip("`").strip('"')
    assert text == str(value) or float(text) == value
