"""The loss and the scores of semantic segmentation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rastervision.fastai_backend.chips import ArrayChips, Classes
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.tasks.classes import (
    Scores,
    balanced_weights,
    confusion_matrix,
    make_loss,
)
from sklearn.metrics import fbeta_score, jaccard_score, precision_score, recall_score
from torch.nn import functional as F

from rvk8s.errors import InputError


@pytest.fixture
def chips(make_chips: Callable[..., ArrayChips]) -> ArrayChips:
    return make_chips(4)


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 8, 8, requires_grad=True)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))


class TestLoss:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, {}),
            ({"class_weights": [1.0, 5.0, 0.5]}, {"weight": torch.tensor([1.0, 5.0, 0.5])}),
            ({"ignore_class_index": 1}, {"ignore_index": 1}),
            ({"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
            (
                {
                    "class_weights": [1.0, 5.0, 0.5],
                    "ignore_class_index": 0,
                    "label_smoothing": 0.1,
                },
                {
                    "weight": torch.tensor([1.0, 5.0, 0.5]),
                    "ignore_index": 0,
                    "label_smoothing": 0.1,
                },
            ),
        ],
    )
    def test_options_mean_what_torch_means(
        self,
        chips: ArrayChips,
        classes: Classes,
        logits: torch.Tensor,
        labels: torch.Tensor,
        options: dict,
        expected: dict,
    ) -> None:
        loss = make_loss(SolverOptions(**options), chips, classes)(logits, labels)
        torch.testing.assert_close(
            torch.Tensor(loss.as_subclass(torch.Tensor)),
            F.cross_entropy(logits, labels, **expected),
        )

    def test_a_batch_of_ignored_pixels_only_changes_nothing(
        self, chips: ArrayChips, classes: Classes, logits: torch.Tensor
    ) -> None:
        loss = make_loss(SolverOptions(ignore_class_index=2), chips, classes)
        value = loss(logits, torch.full((2, 8, 8), 2))
        value.backward()
        assert value == 0
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_balanced_weights_are_inverse_to_the_pixels(
        self, chips: ArrayChips, classes: Classes
    ) -> None:
        pixels = chips.class_pixels().sum(axis=0)
        loss = make_loss(SolverOptions(class_weights="balanced"), chips, classes)
        weight = loss.func.weight.numpy()
        np.testing.assert_allclose(weight * pixels, (weight * pixels)[0], rtol=1e-5)
        assert balanced_weights(np.array([30, 10, 0])) == pytest.approx([2 / 3, 2, 1])
        assert balanced_weights(np.array([30, 10, 99]), {2}) == pytest.approx([2 / 3, 2, 1])
        with pytest.raises(InputError, match="no label that counts"):
            balanced_weights(np.array([0, 0, 7]), {2})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"class_weights": [1.0, 2.0]}, "2 weights for 3 classes"),
            ({"class_weights": [1.0, -2.0, 0.0]}, "has a negative weight"),
            ({"class_weights": [0.0, 0.0, 0.0]}, "no positive one"),
            ({"ignore_class_index": 3}, "3 .*class id; .*0 to 2"),
        ],
    )
    def test_bad_options(
        self, chips: ArrayChips, classes: Classes, options: dict, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            make_loss(SolverOptions(**options), chips, classes)


class TestScores:
    TRUTH = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3, 0])
    PREDICTED = torch.tensor([0, 0, 1, 2, 1, 1, 0, 0, 1, 0])

    def test_confusion_matrix_leaves_out_ignored_and_unknown_truth(self) -> None:
        matrix = confusion_matrix(self.PREDICTED, self.TRUTH, 3)
        assert matrix.tolist() == [[3, 1, 1], [1, 2, 0], [0, 0, 0]]
        assert confusion_matrix(self.PREDICTED, self.TRUTH, 4, {3}).sum() == 8

    @pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
    def test_scores_agree_with_scikit_learn(self, beta: float) -> None:
        rng = np.random.default_rng(0)
        truth, predicted = rng.integers(0, 4, (2, 500))
        matrix = confusion_matrix(torch.tensor(predicted), torch.tensor(truth), 4)
        s = Scores.of(matrix.numpy(), beta=beta)
        each = {"average": None}
        assert s.precision == pytest.approx(precision_score(truth, predicted, **each))
        assert s.recall == pytest.approx(recall_score(truth, predicted, **each))
        assert s.iou == pytest.approx(jaccard_score(truth, predicted, **each))
        assert s.f1 == pytest.approx(fbeta_score(truth, predicted, beta=1, **each))
        assert s.f_beta == pytest.approx(fbeta_score(truth, predicted, beta=beta, average="macro"))
        assert s.accuracy == pytest.approx((truth == predicted).mean())
        assert s.support == tuple(np.bincount(truth))

    def test_means_are_over_classes_that_occur(self) -> None:
        s = Scores.of(np.array([[8, 0, 2], [0, 0, 0], [0, 0, 0]]))
        assert s.macro_f1 == s.f1[0] == pytest.approx(2 * 8 / (16 + 2))
        assert s.mean_iou == pytest.approx(0.8)

    def test_the_ignored_class_has_no_truth(self) -> None:
        matrix = np.array([[5, 1, 0], [0, 4, 0], [7, 7, 7]])
        s = Scores.of(matrix, {2})
        assert s.support == (6, 4, 0)
        assert s.accuracy == pytest.approx(0.9)
        assert s.precision[0] == 1

    def test_nothing_to_score(self) -> None:
        s = Scores.of(np.zeros((3, 3)))
        assert (s.accuracy, s.macro_f1, s.mean_iou, s.f_beta) == (0, 0, 0, 0)
