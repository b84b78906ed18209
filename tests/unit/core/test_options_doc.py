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

from rvk8s.project import load

ROOT = Path(__file__).parents[3]
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
#: Options and defaults of the 2019 plugin's with_train_options() at its last commit, 9d5bddc of
#: 2019-10-03, by task.
DETECTION_2019 = {
    **{"batch_sz": 8, "weight_decay": 1e-2, "lr": 1e-4, "num_epochs": 5, "model_arch": "resnet18"},
    **{"fp16": False, "sync_interval": 1, "debug": False},
}
CLASSIFICATION_2019 = {
    **{"batch_sz": 8, "weight_decay": 1e-2, "lr": 1e-4, "one_cycle": True, "num_epochs": 1},
    **{"model_arch": "resnet18", "mixed_prec": False, "flip_vert": True, "sync_interval": 1},
    **{"debug": False, "train_prop": 1.0, "train_count": None, "log_tensorboard": False},
    "run_tensorboard": False,
}
SEGMENTATION_2019 = {**CLASSIFICATION_2019, "num_epochs": 5, "tta": False, "oversample": None}
EXPERIMENTS_2019 = (
    *("exp_resnet18", "exp_better_resnet18", "exp_better_resnet18_oversample_test"),
    *("exp_resnet50", "exp_resnet50_mixed_prec", "exp_subset_half_train_data"),
    "exp_subset_5k_chips",
)


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
    lines = re.findall(r"^\| `(\w+)` \| ([^|]*) \| [^|]*\| [^|]*\|", PAGE.read_text(), re.MULTILINE)
    told = {name: default.strip("`") for name, default in lines}
    assert list(told) == [name for name, _ in lines], "twice"
    assert told.pop("num_epochs") == "5, of chip classification 1"
    assert set(told) == set(SEGMENTATION_2019) - {"num_epochs"}
    for name, text in told.items():
        default = SEGMENTATION_2019[name]
        assert text.strip('"') == str(default) or float(text) == default, name


def test_the_options_of_detection_in_2019() -> None:
    (text,) = re.findall(r"## Object detection\n(.*?)\n## ", PAGE.read_text(), re.DOTALL)
    named = set(re.findall(r"`(\w+)`", text)) - {"score_thresh", "merge_thresh", "predict_options"}
    assert named == {*DETECTION_2019, "mixed_prec"}


def test_every_experiment_of_2019_is_a_variant() -> None:
    rows = dict(re.findall(r"^\| `(exp_\w+)` \| `([\w-]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert tuple(rows) == EXPERIMENTS_2019
    names = {one.name for one in load(ROOT / "rvk8s.yaml").experiments}
    for old, new in rows.items():
        assert new == f"potsdam-{old.removeprefix('exp_').replace('_', '-')}"
        assert new in names


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
