"""Object detection: the loss of a RetinaNet, and scores of boxes at several thresholds."""

from __future__ import annotations

import torch
from fastai.learner import Learner, Metric
from rastervision.fastai_backend.boxes import IOU, XYXY, hits, real
from rastervision.fastai_backend.chips import Classes
from rastervision.fastai_backend.detector import decode
from rastervision.fastai_backend.distributed import Group
from rastervision.fastai_backend.options import SolverOptions
from rastervision.fastai_backend.tasks.classes import Scores
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, sigmoid_focal_loss

from rvk8s.errors import InputError

#: Least scores that are tried for the best F-beta; Raster Vision's score_thresh should be that.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
#: Anchors that overlap a box more than the second are it, less than the first the background.
_BACKGROUND, _OBJECT = 0.4, 0.5


def check_solver(solver: SolverOptions) -> None:
    """Raise InputError where an option has no meaning for boxes."""
    given = {
        "loss": solver.loss != "cross_entropy",
        "class_weights": solver.class_weights is not None,
        "ignore_class_index": solver.ignore_class_index is not None,
        "label_smoothing": solver.label_smoothing > 0,
    }
    for name in (name for name, there in given.items() if there):
        raise InputError(
            f"object detection has no {name}", where=f"solver.{name}", fix="leave it out"
        )


class DetectionLoss:
    """Focal loss of the classes and L1 of the offsets, as RetinaNet's; the mean over chips.

    Of a chip both are sums over anchors, divided by how many of these are an object's.
    """

    def __init__(self) -> None:
        self.matcher = Matcher(_OBJECT, _BACKGROUND, allow_low_quality_matches=True)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def __call__(self, inp: torch.Tensor, targ: torch.Tensor) -> torch.Tensor:
        """(N, anchors, classes + 8) and boxes (N, M, 5) -> a scalar."""
        losses = [self._of_chip(one, real(boxes)) for one, boxes in zip(inp, targ, strict=True)]
        return torch.stack(losses).mean()

    def total(self, targ: torch.Tensor) -> None:
        """All chips weigh the same; see losses.CrossEntropy."""

    def _of_chip(self, output: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        logits, offsets, anchors = output[:, :-8], output[:, -8:-4], output[:, -4:]
        wanted = torch.zeros_like(logits)
        if not len(boxes):
            return sigmoid_focal_loss(logits, wanted, reduction="sum")
        xyxy = boxes[:, XYXY]
        match = self.matcher(box_iou(xyxy, anchors))
        objects = match >= 0
        of = match[objects]
        wanted[objects, boxes[of, 4].long()] = 1
        counted = match != Matcher.BETWEEN_THRESHOLDS
        classes = sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum")
        aims = self.coder.encode_single(xyxy[of], anchors[objects])
        places = F.l1_loss(offsets[objects], aims, reduction="sum")
        return (classes + places) / max(1, len(of))


class DetectionScores(Metric):
    """fastai metric: gathers what was found in an epoch; its value is the macro F-beta at the least
    score for which that is best."""

    def __init__(self, classes: Classes, beta: float) -> None:
        self.classes, self.beta = classes, beta
        self.reset()

    def reset(self) -> None:
        n = len(self.classes)
        #: By threshold and class: found and true, found; and true ones by class.
        self.right = torch.zeros(len(THRESHOLDS), n, dtype=torch.int64)
        self.found = torch.zeros_like(self.right)
        self.truth = torch.zeros(n, dtype=torch.int64)

    def accumulate(self, learn: Learner) -> None:
        size = learn.xb[0].shape[-2:]
        found = decode(learn.pred.detach().as_subclass(torch.Tensor), size, THRESHOLDS[0])
        for (boxes, scores), truth in zip(found, learn.yb[0].cpu(), strict=True):
            self.add(boxes.cpu(), scores.cpu(), real(truth))

    def add(self, boxes: torch.Tensor, scores: torch.Tensor, truth: torch.Tensor) -> None:
        """Count the boxes (M, 5) found in a chip, by falling score, and its true ones (T, 5)."""
        n = len(self.classes)
        right = torch.from_numpy(hits(boxes.numpy(), truth.numpy(), IOU) >= 0)
        self.truth += torch.bincount(truth[:, 4].long(), minlength=n)
        for i, least in enumerate(THRESHOLDS):
            kept = scores >= least
            ids = boxes[kept, 4].long()
            self.found[i] += torch.bincount(ids, minlength=n)
            self.right[i] += torch.bincount(ids[right[kept]], minlength=n)

    def reduce(self, group: Group) -> None:
        """Add up the counts of all ranks."""
        flat = torch.cat([self.right.flatten(), self.found.flatten(), self.truth])
        right, found, truth = group.sum(flat).split(
            [self.right.numel(), self.found.numel(), self.truth.numel()]
        )
        self.right, self.found = right.view_as(self.right), found.view_as(self.found)
        self.truth = truth

    @property
    def value(self) -> float:
        return self.scores().f_beta

    @property
    def name(self) -> str:
        return "f_beta"

    def scores(self) -> Scores:
        return self.best()[1]

    def more(self) -> dict[str, float]:
        """What else belongs to an epoch's row."""
        return {"score_thresh": self.best()[0]}

    def best(self) -> tuple[float, Scores]:
        """The threshold of the best F-beta, the lowest of equals, and the scores there."""
        found = []
        for i, least in enumerate(THRESHOLDS):
            right, said, truth = (t.numpy() for t in (self.right[i], self.found[i], self.truth))
            found.append((least, Scores.of_counts(right, said - right, truth - right, self.beta)))
        return max(found, key=lambda one: one[1].f_beta)
