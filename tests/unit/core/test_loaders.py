"""The options of the data reach the loaders of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rastervision.fastai_backend.augment import turned
from rastervision.fastai_backend.chip_learner import ChipLearner, make_learner
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import TrainSettings
from torch import nn

Make = Callable[..., ChipLearner]
#: The codes of turned() are sums: 1 left to right, 2 upside down, 4 along the diagonal.
EACH = set(range(8))


@pytest.fixture
def learner(settings: Callable[..., TrainSettings], classes: Classes, tmp_path: Path) -> Make:
    """Makes the Learner of a training on chips of 8 pixels, which the loaders leave as they are."""

    def make(chips: ArrayChips, **data: Any) -> ChipLearner:
        names, none, one = tuple(classes.names), (0.0,) * 3, (1.0,) * 3
        spec = ModelSpec("deeplabv3", "squeezenet1_1", 3, names, names, None, none, one, 8)
        return make_learner(
            nn.Conv2d(3, 3, 1),
            spec,
            settings(data=data, solver={"batch_sz": 4}),
            chips,
            chips,
            classes,
            "fp32",
            torch.device("cpu"),
            tmp_path,
            Group.join(),
        )

    return make


def random_chips(n: int) -> ArrayChips:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, 8, 8, 3)).astype(np.uint8)
    return ArrayChips(images, rng.integers(0, 3, (n, 8, 8)).astype(np.uint8), 3)


@pytest.mark.parametrize(
    ("data", "versions"),
    [
        ({"flip_horiz": False}, {0}),
        ({}, {0, 1}),
        ({"flip_horiz": False, "flip_vert": True}, {0, 2}),
        ({"dihedral": True}, EACH),
    ],
    ids=["nothing", "default", "flip_vert", "dihedral"],
)
def test_chips_are_turned(learner: Make, data: dict[str, Any], versions: set[int]) -> None:
    """Each is a version of a stored chip, its labels of the same; those of the validation are not
    turned."""
    chips = random_chips(64)
    loaders = learner(chips, **data).dls
    order, seen = loaders.train.get_idxs(), set()
    for number, (x, y) in enumerate(loaders.train):
        for i, (image, label) in enumerate(zip(x.permute(0, 2, 3, 1), y, strict=True)):
            stored, truth = (
                torch.from_numpy(of[order[4 * number + i]])[None]
                for of in (chips.images, chips.labels)
            )
            (code,) = (c for c in EACH if torch.equal(turned(stored, c)[0].float(), image))
            assert torch.equal(turned(truth, code)[0].long(), label)
            seen.add(code)
    assert seen == versions
    assert order != sorted(order), "in another order than they are stored"
    shown = torch.cat([x for x, _ in loaders.valid]).permute(0, 2, 3, 1)
    assert np.array_equal(shown, chips.images)


def test_chips_are_lit(learner: Make) -> None:
    chips = random_chips(8)
    loader = learner(chips, flip_horiz=False, lighting=0.3).dls.train
    x, _ = loader.one_batch()
    for image, at in zip(x, loader.get_idxs(), strict=False):
        stored = torch.from_numpy(chips.images[at]).permute(2, 0, 1).float()
        assert not torch.equal(image, stored)
        both = torch.stack([image.flatten(), stored.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9999, "more than contrast and brightness"


def test_rare_chips_are_drawn_more_often(learner: Make) -> None:
    chips = random_chips(40)
    chips.labels[chips.labels == 2] = 0
    chips.labels[[3, 9], 0, 0] = 2
    rare = {"rare_class_ids": [2], "rare_target_prop": 0.5}
    drawn = np.asarray(learner(chips, oversample=rare).dls.train.get_idxs())
    assert np.isin(drawn, [3, 9]).sum() == len(drawn) / 2 == 20
    assert len(set(learner(chips).dls.train.get_idxs())) == 40


def test_workers(learner: Make) -> None:
    for number in (0, 3):
        loaders = learner(random_chips(4), num_workers=number).dls
        assert [one.fake_l.num_workers for one in (loaders.train, loaders.valid)] == [number] * 2
