"""Prediction by sliding windows, against a plain reading of what it should give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import model_spec, models
from rastervision.fastai_backend.chips import LabelKind
from rastervision.fastai_backend.fold import fold_batch_norms
from rastervision.fastai_backend.model_spec import ModelSpec
from rastervision.fastai_backend.options import PredictSettings
from rastervision.fastai_backend.predict import ScenePredictor, Scores, Votes
from rastervision.fastai_backend.windows import Window
from torch import nn

from rvk8s.contract import Env
from rvk8s.errors import InputError

HEIGHT, WIDTH, BANDS, CLASSES = 50, 70, 3, 3


class Scene:
    """A scene in memory, 0 beyond its edges."""

    id, height, width, channels = "a", HEIGHT, WIDTH, BANDS
    image_in_strips = labels_in_strips = True
    label_kind: LabelKind = "pixels"

    def __init__(self, dtype: str = "uint8") -> None:
        self.dtype = np.dtype(dtype)
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 255, (HEIGHT, WIDTH, BANDS)).astype(dtype)
        self.threads: set[str] = set()

    def image(self, w: Window) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        padded = np.pad(self.pixels, ((99, 99), (99, 99), (0, 0)))
        return padded[w.ymin + 99 : w.ymax + 99, w.xmin + 99 : w.xmax + 99]

    def labels(self, w: Window) -> np.ndarray:
        raise AssertionError("prediction reads no labels")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    names = ("a", "b", "c")
    return ModelSpec("unet", "resnet18", BANDS, names, names, None, (127.0,) * 3, (60.0,) * 3, 32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network with the layers that matter here; any size goes in, the same comes out."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(BANDS, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, CLASSES, 5, padding=2),
    )
    with torch.no_grad():  # statistics of batch normalisation that are not 0 and 1
        model(torch.randn(4, BANDS, 64, 64))
    return model.eval()


@pytest.fixture
def model(network: nn.Module) -> nn.Module:
    """A copy that a test may change."""
    return deepcopy(network)


def sliding(size: int, stride: int, start: int = 0) -> list[Window]:
    return [
        Window(y, x, y + size, x + size)
        for y in range(start, HEIGHT, stride)
        for x in range(start, WIDTH, stride)
    ]


def votes() -> Votes:
    return Votes(np.zeros((CLASSES, HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), bool))


def scores() -> Scores:
    size = (HEIGHT, WIDTH)
    return Scores(np.zeros((CLASSES, *size), np.float16), np.zeros(size, np.uint8))


@torch.inference_mode()
def expected(
    network: nn.Module, spec: ModelSpec, windows: list[Window], crop: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of probabilities and votes, (CLASSES, HEIGHT, WIDTH), pixel by pixel of each window."""
    scene = Scene()
    sums = np.zeros((CLASSES, HEIGHT, WIDTH))
    counts = np.zeros((CLASSES, HEIGHT, WIDTH), int)
    for w in windows:
        p = network(model_spec.normalize(spec, scene.image(w)[None])).softmax(1)[0].numpy()
        for y in range(max(0, w.ymin + crop), min(HEIGHT, w.ymax - crop)):
            for x in range(max(0, w.xmin + crop), min(WIDTH, w.xmax - crop)):
                one = p[:, y - w.ymin, x - w.xmin]
                sums[:, y, x] += one
                counts[one.argmax(), y, x] += 1
    return sums, counts


@pytest.mark.parametrize(
    ("windows", "crop"),
    [(sliding(32, 32), None), (sliding(32, 20), None), (sliding(32, 16, -16), 8)],
    ids=["apart", "overlapping", "cropped"],
)
def test_votes_and_scores_of_windows(
    network: nn.Module, model: nn.Module, spec: ModelSpec, windows: list[Window], crop: int | None
) -> None:
    sums, counts = expected(network, spec, windows, crop or 0)
    predictor = ScenePredictor(model, spec, PredictSettings())
    v, s = votes(), scores()
    predictor.predict(Scene(), windows, v, batch_sz=4, crop_sz=crop)
    predictor.predict(Scene(), windows, s, batch_sz=3, crop_sz=crop)
    np.testing.assert_array_equal(v.counts, counts)
    np.testing.assert_array_equal(v.hits, counts.sum(0) > 0)
    np.testing.assert_array_equal(s.hits, counts.sum(0))
    np.testing.assert_allclose(s.sums, sums, atol=4e-3)


def test_windows_that_fill_leave_what_is_predicted(
    network: nn.Module, model: nn.Module, spec: ModelSpec
) -> None:
    windows, more = [Window(0, 0, 32, 32), Window(0, 20, 32, 52)], [Window(16, 24, 48, 56)]
    before, counts = expected(network, spec, windows, 4)
    after, more_counts = expected(network, spec, more, 4)
    there = counts.sum(0) > 0
    predictor = ScenePredictor(model, spec, PredictSettings())
    v, s = votes(), scores()
    predictor.predict(Scene(), windows, v, batch_sz=2, crop_sz=4, fill=more)
    predictor.predict(Scene(), windows, s, batch_sz=2, crop_sz=4, fill=more)
    assert (there & (more_counts.sum(0) > 0)).any()
    np.testing.assert_array_equal(v.counts, np.where(there, counts, more_counts))
    np.testing.assert_array_equal(s.hits, v.counts.sum(0))
    np.testing.assert_array_equal(v.hits, s.hits > 0)
    np.testing.assert_allclose(s.sums, np.where(there, before, after), atol=4e-3)


def test_windows_that_miss_the_scene_change_nothing(model: nn.Module, spec: ModelSpec) -> None:
    v = votes()
    outside = [Window(-40, 0, -8, 32), Window(HEIGHT, WIDTH, HEIGHT + 32, WIDTH + 32)]
    ScenePredictor(model, spec, PredictSettings()).predict(Scene(), outside, v, batch_sz=2)
    assert not v.hits.any()
    assert not v.counts.any()


def test_inexact_fp32_folds_and_gives_the_same_but_for_ties(
    model: nn.Module, network: nn.Module, spec: ModelSpec
) -> None:
    windows = sliding(32, 32)
    _, counts = expected(network, spec, windows)
    v = votes()
    predictor = ScenePredictor(model, spec, PredictSettings(exact=False))
    assert predictor.layout == torch.channels_last
    assert not any(isinstance(m, nn.BatchNorm2d) for m in predictor.model.modules())
    predictor.predict(Scene(), windows, v, batch_sz=4)
    assert (v.counts == counts).mean() > 0.999


def test_bf16_gives_nearly_the_same(model: nn.Module, network: nn.Module, spec: ModelSpec) -> None:
    windows = sliding(32, 32)
    _, counts = expected(network, spec, windows)
    v = votes()
    predictor = ScenePredictor(model, spec, PredictSettings(precision="bf16"))
    predictor.predict(Scene(), windows, v, batch_sz=4)
    # Noise as imagery: the classes of untrained weights lie close together.
    assert (v.counts == counts).all(0).mean() > 0.97


def test_tta_is_the_mean_over_8_symmetries(
    network: nn.Module, model: nn.Module, spec: ModelSpec
) -> None:
    image = Scene().image(Window(0, 0, 32, 32))
    total = np.zeros((CLASSES, 32, 32))
    for turns in range(4):
        for flip in (False, True):
            x = np.rot90(image[:, ::-1] if flip else image, turns).copy()
            with torch.inference_mode():
                p = network(model_spec.normalize(spec, x[None])).softmax(1)[0].numpy()
            p = np.rot90(p, -turns, axes=(1, 2))
            total += p[:, :, ::-1] if flip else p
    predictor = ScenePredictor(model, spec, PredictSettings(tta=True))
    p = predictor.predict_batch(image[None], True)[0].numpy()
    np.testing.assert_allclose(p, total / 8, atol=1e-5)


def test_img_sz_is_the_size_that_the_network_sees(model: nn.Module, spec: ModelSpec) -> None:
    seen = []
    model.register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape)))
    predictor = ScenePredictor(model, spec, PredictSettings(), img_sz=64)
    out = predictor.predict_batch(Scene().image(Window(0, 0, 32, 32))[None], False)
    assert seen == [(1, BANDS, 64, 64)]
    assert out.shape == (1, 32, 32)


def test_scenes_are_read_ahead_in_a_thread(model: nn.Module, spec: ModelSpec) -> None:
    scene = Scene()
    ScenePredictor(model, spec, PredictSettings()).predict(
        scene, sliding(32, 32), votes(), batch_sz=2
    )
    assert scene.threads == {"read-ahead"}


def test_errors_of_reading_reach_the_caller(model: nn.Module, spec: ModelSpec) -> None:
    class Broken(Scene):
        def image(self, w: Window) -> np.ndarray:
            raise OSError("read error in block 3")

    predictor = ScenePredictor(model, spec, PredictSettings())
    with pytest.raises(OSError, match="block 3"):
        predictor.predict(Broken(), sliding(32, 32), votes(), batch_sz=2)
    assert not [t for t in threading.enumerate() if t.name == "read-ahead"]


def test_a_scene_of_other_bands_is_refused(model: nn.Module, spec: ModelSpec) -> None:
    scene = Scene()
    scene.channels = 4
    predictor = ScenePredictor(model, spec, PredictSettings())
    with pytest.raises(InputError, match=r"scene a .*4 bands, .*3"):
        predictor.predict(scene, sliding(32, 32), votes(), batch_sz=2)


def test_progress_says_the_share_of_pixels(
    model: nn.Module, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Env.PROGRESS_FILE, str(tmp_path / "progress.json"))
    predictor = ScenePredictor(model, spec, PredictSettings())
    predictor.predict(Scene(), sliding(32, 32), votes(), batch_sz=2)
    text = (tmp_path / "progress.json").read_text()
    assert f'"pixelsDone": {HEIGHT * WIDTH}' in text
    assert f'"pixelsTotal": {HEIGHT * WIDTH}' in text


def test_folding_keeps_the_output(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    network = models.build(spec)
    x = torch.randn(2, BANDS, 64, 64)
    with torch.no_grad():
        network(x)
    model = deepcopy(network.eval())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    folded = fold_batch_norms(model, x)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert norms - left >= 20
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), atol=1e-4, rtol=1e-4)


def test_a_normalisation_after_an_operation_in_place_is_not_folded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)).eval()
    folded = fold_batch_norms(model, torch.randn(1, 3, 8, 8))
    assert isinstance(folded[2], nn.BatchNorm2d)


def test_a_convolution_that_is_also_read_elsewhere_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean = torch.full((4,), 5.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y

    model = Twice().eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = model(x)
        assert torch.equal(fold_batch_norms(model, x)(x), before)
