"""Scores of boxes at several thresholds."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from rastervision.fastai_backend.chips import Classes
from rastervision.fastai_backend.tasks.detection import THRESHOLDS, DetectionScores

CLASSES = Classes(("car", "ship"), ("red", "blue"))


def tensor(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


class TestScores:
    def test_the_best_threshold(self) -> None:
        metric = DetectionScores(CLASSES, beta=1.0)
        truth = tensor((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))
        found = tensor(
            (0, 0, 10, 10, 0), (20, 20, 30, 30, 1), (40, 40, 50, 50, 0), (50, 50, 60, 60, 1)
        )
        metric.add(found, torch.tensor([0.9, 0.62, 0.4, 0.1]), truth)
        least, scores = metric.best()
        assert least == 0.45
        assert scores.f1 == (1, 1)
        assert metric.value == 1
        all_of_them = metric.right[0] / metric.found[0]
        assert all_of_them.tolist() == [0.5, 0.5]
        assert scores.support == (1, 1)
        assert scores.accuracy == 1

    def test_ranks_add_up(self) -> None:
        metric = DetectionScores(CLASSES, beta=1.0)
        metric.add(tensor((0, 0, 9, 9, 1)), torch.tensor([0.5]), tensor((0, 0, 9, 9, 1)))
        metric.reduce(SimpleNamespace(sum=lambda counts: 2 * counts))  # type: ignore[arg-type]
        assert metric.truth.tolist() == [0, 2]
        assert metric.right.sum(1).tolist() == [2] * 10 + [0] * 9
        assert metric.found.shape == (len(THRESHOLDS), 2)
