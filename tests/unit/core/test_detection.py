"""Object detection: boxes, their loss and scores, the network, training and prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranked import Ranked
from rastervision.fastai_backend import boxes as boxes_module
from rastervision.fastai_backend import bundle, checks, data, fold, learner, memory, models
from rastervision.fastai_backend.augment import Augment, turned
from rastervision.fastai_backend.boxes import NO_BOX, hits, overlaps, padded, real, turned_boxes
from rastervision.fastai_backend.chips import ArrayChips, Classes, LabelKind, count_classes
from rastervision.fastai_backend.detector import Detector, decode
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import DataOptions, PredictSettings, TrainSettings
from rastervision.fastai_backend.predict import Boxes, ScenePredictor
from rastervision.fastai_backend.store import ChipFormat, ChipWriter, Part, StoredChips
from rastervision.fastai_backend.tasks.detection import (
    DetectionLoss,
    DetectionScores,
)
from rastervision.fastai_backend.windows import Window, fit
from said import says
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou, sigmoid_focal_loss

from rvk8s.errors import InputError

Settings = Callable[..., TrainSettings]
CLASSES = Classes(("car", "ship"), ("red", "blue"))
SIZE = 64
NETWORK = {
    **{"arch": "retinanet", "backbone": "squeezenet1_1", "pretrained": False},
    **{"anchor_sz": 12, "features": 16},
}


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images with up to two squares each, bright cars and dark ships, and their boxes."""
    rng = np.random.default_rng(seed)
    images = rng.normal(110, 8, (n, SIZE, SIZE, 3))
    found = []
    for i, image in enumerate(images):
        boxes = []
        for half in range(i % 3):  # none, one or two
            side = int(rng.integers(14, 22))
            y, x = int(rng.integers(0, SIZE - side)), int(rng.integers(0, 32 - side)) + 32 * half
            class_id = int(rng.integers(0, 2))
            image[y : y + side, x : x + side] = 210 if class_id == 0 else 30
            boxes.append((y, x, y + side, x + side, class_id))
        found.append(np.array(boxes, np.float32).reshape(-1, 5))
    return np.clip(images, 1, 255).astype(np.uint8), found


def chips(n: int, seed: int = 0) -> ArrayChips:
    images, found = drawn(n, seed)
    return ArrayChips(images, padded(found), 2)


def spec(**fields: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "arch": "retinanet",
        "backbone": "squeezenet1_1",
        "channels": 3,
        "class_names": CLASSES.names,
        "class_colors": CLASSES.colors,
        "null_id": None,
        "mean": (0.0,) * 3,
        "std": (255.0,) * 3,
        "img_sz": SIZE,
        "anchor_sz": 12,
        "features": 16,
    }
    return ModelSpec(**{**values, **fields})


def tensor(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, len(rows[0]) if rows else 5)


@pytest.fixture
def asked(settings: Settings) -> TrainSettings:
    return settings(
        model=NETWORK,
        data={"dihedral": True},
        solver={"batch_sz": 6, "num_epochs": 1, "lr": 2e-3, "precision": "fp32"},
    )


class TestBoxes:
    def test_they_are_turned_as_their_pixels(self) -> None:
        box = tensor((5, 10, 20, 40, 1))
        image = torch.zeros(1, SIZE, SIZE, 1)
        image[0, 5:20, 10:40] = 1
        for code in range(8):
            y0, x0, y1, x1, class_id = turned_boxes(box[None], code, SIZE)[0, 0].int().tolist()
            expected = torch.zeros(SIZE, SIZE)
            expected[y0:y1, x0:x1] = 1
            assert torch.equal(turned(image, code)[0, :, :, 0], expected), code
            assert class_id == 1

    def test_a_batch_is_filled_up(self) -> None:
        _, found = drawn(3)
        batch = torch.from_numpy(padded(found))
        assert batch.shape == (3, 2, 5)
        assert [len(real(one)) for one in batch] == [0, 1, 2]
        assert torch.equal(real(batch[2]), torch.from_numpy(found[2]))
        assert padded([]).shape == (0, 0, 5)
        assert count_classes(padded(found), 2).sum(axis=1).tolist() == [0, 1, 2]

    def test_resized_with_their_chips(self) -> None:
        image = np.zeros((32, 64, 3), np.uint8)
        resized, boxes = fit(image, np.array([[8, 16, 16, 32, 1]], np.float32), 128)
        assert resized.shape == (128, 128, 3)
        assert boxes.tolist() == [[32, 32, 64, 64, 1]]
        assert boxes.dtype == np.float32

    def test_matches(self) -> None:
        truth = tensor((0, 0, 10, 10, 0), (20, 20, 30, 30, 1))
        found = tensor(
            (0, 0, 10, 9, 0),  # right
            (0, 0, 10, 10, 0),  # of a box that is taken
            (20, 20, 30, 30, 0),  # another class
            (20, 20, 30, 25, 1),  # exactly half is not enough
            (21, 20, 30, 30, 1),
        )
        one, other = found.numpy(), truth.numpy()
        assert hits(one, other, 0.5).tolist() == [0, -1, -1, -1, 1]
        assert hits(one, other[:0], 0.5).tolist() == [-1] * 5
        assert hits(one[:0], other, 0.5).tolist() == []
        expected = box_iou(found[:, boxes_module.XYXY], truth[:, boxes_module.XYXY]).numpy()
        mine, theirs, shares = overlaps(one, other)
        np.testing.assert_allclose(shares, expected[mine, theirs], atol=1e-6)
        assert len(shares) == np.count_nonzero(expected) == 5

    def test_they_are_stored(self, tmp_path: Path) -> None:
        images, found = drawn(7)
        part = Part("train", 0, 1, 1)
        with ChipWriter(tmp_path, part, ChipFormat(SIZE, 3, "uint8", 2, "boxes")) as writer:
            writer.start_scene("a")
            for image, boxes in zip(images, found, strict=True):
                writer.add(image, boxes, (0, 0, SIZE, SIZE))
            with pytest.raises(InputError, match=r"scene a .*label id 2"):
                writer.add(images[0], np.array([[0, 0, 9, 9, 2]], np.float32), (0, 0, 1, 1))
            with pytest.raises(ValueError, match="the store's are"):
                writer.add(images[0], np.zeros((1, 4), np.float32), (0, 0, 1, 1))
        stored = StoredChips(tmp_path, "train", ["a"])
        order = np.array([5, 0, 4, 5])
        got, boxes = stored.read(order, 0)
        np.testing.assert_array_equal(got, images[order])
        np.testing.assert_array_equal(boxes, padded([found[i] for i in order]))
        assert stored.label_kind == "boxes"
        assert stored.class_pixels().sum(axis=1).tolist() == [len(one) for one in found]

    def test_loader(self) -> None:
        source = chips(6)
        device = torch.device("cpu")
        augment = Augment(DataOptions(dihedral=True), 3)
        ((x, y),) = list(
            data.ChipLoader(source, 6, spec(img_sz=128), device=device, augment=augment)
        )
        assert (x.shape, y.shape) == ((6, 3, 128, 128), (6, 2, 5))
        dark_or_bright = {0: 210 / 255, 1: 30 / 255}
        for image, boxes in zip(x, y, strict=True):
            for y0, x0, y1, x1, class_id in real(boxes).round().int().tolist():
                inside = image[:, y0 + 3 : y1 - 3, x0 + 3 : x1 - 3]
                assert float(inside.mean()) == pytest.approx(dark_or_bright[class_id], abs=0.03)


class TestNetwork:
    @pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18", "mobilenet_v3_small"])
    def test_an_anchor_has_its_logits_offsets_and_place(self, backbone: str) -> None:
        model = models.build(spec(backbone=backbone)).eval()
        assert isinstance(model, Detector)
        out = model(torch.rand(2, 3, SIZE, SIZE)).detach()
        assert out.shape[::2] == (2, 2 + 8)
        anchors = out[0, :, -4:]
        assert torch.equal(anchors, out[1, :, -4:])
        sides = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt()
        assert sides.min() == pytest.approx(12, abs=1)
        assert sides.max() == pytest.approx(12 * 16 * 2 ** (2 / 3), rel=0.1)
        body, rest = models.parameter_groups(model)
        assert {id(p) for p in body} == {id(p) for p in model.body.parameters()}
        assert len(rest) > 10
        names = models.backbone_names(model)
        assert names == {n for n in model.state_dict() if n.startswith("body.")}

    @pytest.mark.parametrize("backbone", ["resnet18", "squeezenet1_1", "regnet_y_400mf"])
    def test_anchors_lie_at_the_levels_strides(self, backbone: str) -> None:
        """Also where a chip's side is no multiple of them, and in bf16."""
        model = models.build(spec(backbone=backbone)).eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            anchors = model(torch.zeros(1, 3, 300, 300))[0, :, -4:]
        middles = (anchors[:, 2:] + anchors[:, :2]) / 2
        first = middles[: 9 * (300 // 4) ** 2]
        steps = first[:, 0].unique().diff().unique().tolist()
        assert steps[0] == (4 if backbone == "squeezenet1_1" else 8)
        assert 300 - middles.max() < 16
        assert torch.equal(anchors, anchors.round())
        assert model(torch.zeros(1, 3, 300, 300)).dtype == torch.float32

    def test_a_wrong_fold_is_undone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A little wrong: the anchors' places, which are large, are no measure."""
        fuse = fold.fuse_conv_bn_eval

        def wrong(conv: torch.nn.Conv2d, norm: torch.nn.BatchNorm2d) -> torch.nn.Conv2d:
            fused = fuse(conv, norm)
            fused.weight.data *= 1.01
            return fused

        monkeypatch.setattr(fold, "fuse_conv_bn_eval", wrong)
        model = models.build(spec(backbone="resnet18")).eval()
        x = torch.rand(1, 3, 128, 128)
        before = model(x)
        folded = fold.fold_batch_norms(model, x)
        assert torch.equal(folded(x), before)
        assert any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_half_precision_finds_nearly_the_same(self, precision: str) -> None:
        torch.manual_seed(0)
        model = models.build(spec(backbone="resnet18")).eval()
        x = torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(1)) * 255
        with torch.inference_mode():
            expected = model(x / 255)
        settings = PredictSettings(precision=precision, exact=False)  # type: ignore[arg-type]
        predictor = ScenePredictor(model, spec(backbone="resnet18"), settings)
        with torch.inference_mode():
            found = predictor.model(predictor._input(x.permute(0, 2, 3, 1).byte().numpy()))
        assert torch.equal(found[..., -4:], expected[..., -4:])
        np.testing.assert_allclose(found[..., :-4], expected[..., :-4], atol=0.1)

    def test_it_is_built_without_weights_and_again_from_its_bundle(self, tmp_path: Path) -> None:
        from rastervision.fastai_backend.backbones import without_weights

        without_weights(lambda: models.build(spec()))
        model = models.build(spec()).eval()
        bundle.save(tmp_path / bundle.NAME, model.state_dict(), spec())
        again, made = bundle.load_model(tmp_path / bundle.NAME)
        x = torch.rand(1, 3, SIZE, SIZE)
        assert torch.equal(model(x), again(x))
        assert made == spec()
        assert made.label_kind == "boxes"

    def test_decoded(self) -> None:
        """An anchor with offsets 0 is its own box; one of two that overlap is left, by class."""
        anchors = tensor((8, 4, 24, 20), (8, 4, 24, 21), (40, 40, 80, 80), (0, 0, 16, 16))
        logits = tensor((3, -9), (2, 1), (1.5, -9), (-9, -9))
        output = torch.cat([logits, torch.zeros(4, 4), anchors], 1)[None]
        ((boxes, scores),) = decode(output, (64, 64), 0.5)
        assert scores.tolist() == pytest.approx(torch.tensor([3, 1.5, 1.0]).sigmoid().tolist())
        assert boxes.tolist() == [[4, 8, 20, 24, 0], [40, 40, 64, 64, 0], [4, 8, 21, 24, 1]]


class TestLoss:
    def test_it_is_that_of_torchvisions_retinanet(self) -> None:
        torch.manual_seed(0)
        model = models.build(spec()).eval()
        x, truth = torch.rand(3, 3, SIZE, SIZE), torch.from_numpy(padded(drawn(3)[1]))
        out = model(x)
        backbone = torch.nn.Identity()
        backbone.out_channels = 16  # type: ignore[assignment]
        theirs = RetinaNet(backbone, 2, anchor_generator=model.anchors, head=model.head)
        targets = [
            {"boxes": real(b)[:, boxes_module.XYXY], "labels": real(b)[:, 4].long()} for b in truth
        ]
        heads = {"cls_logits": out[..., :2], "bbox_regression": out[..., 2:6]}
        expected = theirs.compute_loss(targets, heads, list(out[..., 6:]))
        total = float(sum(expected.values()).detach())
        assert float(DetectionLoss()(out, truth).detach()) == pytest.approx(total, rel=1e-5)

    def test_a_chip_without_objects_is_background(self) -> None:
        out = torch.randn(1, 9, 10, generator=torch.Generator().manual_seed(0))
        nothing = torch.full((1, 2, 5), NO_BOX)
        expected = sigmoid_focal_loss(out[0, :, :2], torch.zeros(9, 2), reduction="sum")
        assert float(DetectionLoss()(out, nothing)) == pytest.approx(float(expected))

    @pytest.mark.parametrize(
        ("group", "option"),
        [
            ("solver", {"loss": "focal"}),
            ("solver", {"class_weights": "balanced"}),
            ("solver", {"ignore_class_index": 0}),
            ("solver", {"label_smoothing": 0.1}),
        ],
    )
    def test_options_of_other_tasks(
        self, settings: Settings, group: str, option: dict[str, Any]
    ) -> None:
        given = settings(model=NETWORK, **{group: option})
        (name,) = option
        (error,) = checks.check(given, CLASSES, gpus=0)
        assert says(str(error), f"{group}.{name}: object detection has no {name}…")

    def test_views(self, settings: Settings) -> None:
        given = settings(model=NETWORK)
        given.predict.tta = True
        (error,) = checks.check(given, CLASSES, gpus=0)
        assert says(str(error), "predict.tta: object detection has no tta…")


class TestTraining:
    @pytest.mark.slow
    def test_it_learns(self, tmp_path: Path, asked: TrainSettings) -> None:
        """Its own few chips, in 60 steps."""
        asked.model.backbone, asked.data.debug = "shufflenet_v2_x0_5", True
        asked.solver.num_epochs, asked.solver.schedule, asked.solver.lr = 30, "flat_cos", 4e-3
        valid = chips(12)
        learner.train(asked, chips(12), valid, CLASSES, tmp_path)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["best"]["macro_f1"] > 0.05, metrics["history"][-1]
        first, last = metrics["history"][0], metrics["history"][-1]
        assert last["valid_loss"] < 0.6 * first["valid_loss"]
        assert 0 < metrics["best"]["score_thresh"] < 1
        assert (tmp_path / "debug" / "train-chips.png").stat().st_size > 1000
        model, made = bundle.load_model(tmp_path / bundle.NAME)
        predictor = ScenePredictor(model, made, PredictSettings())
        images, truth = valid.read(np.arange(12), 0)
        found = predictor.detect_batch(images, metrics["best"]["score_thresh"])
        scored = DetectionScores(CLASSES, beta=1.0)
        for values, boxes in zip(found, torch.from_numpy(truth), strict=True):
            each = torch.from_numpy(values)
            scored.add(each[:, :5], each[:, 5], real(boxes))
        assert scored.value == pytest.approx(metrics["best"]["f_beta"], abs=0.05)

    def test_ranks_learn_together(self, tmp_path: Path, asked: TrainSettings) -> None:
        """Also where a rank's chips hold no object at all."""
        images, found = drawn(6)
        found[0::2] = [np.zeros((0, 5), np.float32)] * 3
        source = ArrayChips(images, padded(found), 2)
        ranked = Ranked(CLASSES, tmp_path)
        said = ranked(asked, source, chips(6, seed=1))
        assert said == ["ok", "ok"]
        assert len(ranked.rows()) == 1


def test_a_step_is_tried_where_memory_ran_out() -> None:
    step = memory._Step(spec(), DetectionLoss(), "fp32", torch.device("cpu"))
    step._do(2)


class Scene:
    """A scene of noise, in memory."""

    id, height, width, channels = "a", 96, 128, 3
    dtype = np.dtype("uint8")
    image_in_strips = labels_in_strips = True
    label_kind: LabelKind = "boxes"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(1, 255, (self.height, self.width, 3)).astype(np.uint8)

    def image(self, w: Window) -> np.ndarray:
        return self.pixels[w.ymin : w.ymax, w.xmin : w.xmax]

    def labels(self, w: Window) -> np.ndarray:
        return np.zeros((0, 5), np.float32)


@pytest.mark.parametrize("img_sz", [None, 2 * SIZE])
def test_boxes_of_windows_lie_in_the_scene(img_sz: int | None) -> None:
    torch.manual_seed(0)
    model, scene = models.build(spec()).eval(), Scene()
    predictor = ScenePredictor(model, spec(), PredictSettings(), img_sz)
    windows = [Window(y, x, y + SIZE, x + SIZE) for y in (0, 32) for x in (0, 32, 64)]
    together, out = Boxes(0.005), Boxes(0.005)
    predictor.detect(scene, windows, together, batch_sz=4)
    predictor.detect(scene, windows, out, batch_sz=1)  # rounds as each alone does
    assert len(out.boxes) == len(together.boxes) == len(windows)
    assert sum(map(len, out.boxes)) > 10
    for i, window in enumerate(windows):
        (alone,) = predictor.detect_batch(scene.image(window)[None], 0.005)
        place = np.array([window.ymin, window.xmin] * 2)
        np.testing.assert_array_equal(out.scores[i], alone[:, 5])
        np.testing.assert_allclose(out.boxes[i][:, :4], alone[:, :4] + place, atol=1e-4)
        assert (out.boxes[i][:, 0] >= window.ymin).all()
        assert (out.boxes[i][:, 3] <= window.xmax).all()
        assert (np.diff(out.scores[i]) <= 0).all()
        np.testing.assert_allclose(together.scores[i][:3], alone[:3, 5], atol=1e-4)
