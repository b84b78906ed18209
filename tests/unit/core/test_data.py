"""Which chips the network sees, in what order, and how they are changed on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rastervision.fastai_backend import sampling
from rastervision.fastai_backend.augment import Augment, turned
from rastervision.fastai_backend.chips import (
    ArrayChips,
    ChipSource,
    Classes,
    SubsetChips,
    band_statistics,
    class_pixels,
)
from rastervision.fastai_backend.data import ChipLoader, check_sources
from rastervision.fastai_backend.model_spec import ModelSpec, normalize
from rastervision.fastai_backend.options import DataOptions, Oversample

from rvk8s.errors import InputError

MakeChips = Callable[..., ArrayChips]
CPU = torch.device("cpu")


def spec(channels: int = 3, img_sz: int = 32, mean: float = 0.0, std: float = 1.0) -> ModelSpec:
    names = ("ground", "house", "road")
    means, deviations = (mean,) * channels, (std,) * channels
    return ModelSpec(
        "unet", "resnet18", channels, names, ("grey",) * 3, None, means, deviations, img_sz
    )


def numbered(n: int) -> ArrayChips:
    """Chips whose pixels are all their own position."""
    images = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, 4, 4, 1))
    return ArrayChips(images, np.zeros((n, 4, 4), np.uint8), 3)


def loader(chips: ArrayChips, bs: int = 4, **kwargs: object) -> ChipLoader:
    shape = spec(chips.channels, chips.size)
    return ChipLoader(chips, bs, shape, device=CPU, **kwargs)  # type: ignore[arg-type]


def positions(loader: ChipLoader) -> list[list[int]]:
    return [x[:, 0, 0, 0].int().tolist() for x, _ in loader]


class TestOrder:
    def test_an_epoch_shows_each_chip_once_and_epochs_differ(self) -> None:
        order = sampling.EpochOrder(50, seed=1)
        assert sorted(order(0)) == list(range(50))
        assert order(0).tolist() == sampling.EpochOrder(50, seed=1)(0).tolist()
        assert order(0).tolist() != order(1).tolist()
        assert order(0).tolist() != sampling.EpochOrder(50, seed=2)(0).tolist()

    def test_train_count_and_train_prop_choose_a_subset(self) -> None:
        chips = numbered(20)
        by_count = sampling.subset(chips, DataOptions(train_count=5), seed=0)
        by_prop = sampling.subset(chips, DataOptions(train_prop=0.25), seed=0)
        assert isinstance(by_count, SubsetChips)
        assert isinstance(by_prop, SubsetChips)
        assert len(by_count) == len(by_prop) == 5
        assert by_count.indices.tolist() == by_prop.indices.tolist()
        other = sampling.subset(chips, DataOptions(train_count=5), seed=1)
        assert isinstance(other, SubsetChips)
        assert other.indices.tolist() != by_count.indices.tolist()
        images, _ = by_count.read(np.array([4, 0]), 0)
        assert images[:, 0, 0, 0].tolist() == by_count.indices[[4, 0]].tolist()
        assert sampling.subset(chips, DataOptions(train_count=100), seed=0) is chips

    def test_no_chips_left(self) -> None:
        with pytest.raises(InputError, match=r"no training chip .*train_prop"):
            sampling.subset(numbered(3), DataOptions(train_prop=0.0), 0)
        with pytest.raises(InputError, match="no training chips"):
            sampling.subset(numbered(0), DataOptions(), 0)

    def test_oversampling_draws_rare_chips_in_the_target_proportion(self) -> None:
        labels = np.zeros((40, 4, 4), np.uint8)
        labels[[3, 9], 0, 0] = 2
        chips = ArrayChips(np.zeros((40, 4, 4, 1), np.uint8), labels, 3)
        rare = Oversample(rare_class_ids=[2], rare_target_prop=0.5)
        order = sampling.epoch_order(chips, rare, 3, seed=0)
        drawn = order(0)
        assert len(drawn) == 40
        assert np.isin(drawn, [3, 9]).sum() == 20
        assert (drawn == 3).sum() == (drawn == 9).sum() == 10
        common = drawn[~np.isin(drawn, [3, 9])]
        assert len(set(common.tolist())) == 20
        plain = Oversample(rare_class_ids=[0], rare_target_prop=0.5)
        assert sorted(sampling.epoch_order(chips, plain, 3, 0)(0)) == list(range(40))

    def test_oversampling_counts_chips_with_enough_of_the_class(self) -> None:
        labels = np.zeros((10, 4, 4), np.uint8)
        labels[2, 0, 0] = 1  # 1 of 16 pixels
        labels[7, :2] = 1  # half of them
        chips = ArrayChips(np.zeros((10, 4, 4, 1), np.uint8), labels, 2)
        rare = Oversample(rare_class_ids=[1], rare_target_prop=0.5, rare_min_prop=0.2)
        drawn = sampling.epoch_order(chips, rare, 2, seed=0)(0)
        assert (drawn == 7).sum() == 5

    def test_oversampling_of_what_is_not_there(self) -> None:
        chips = numbered(4)
        absent = Oversample(rare_class_ids=[2], rare_target_prop=0.5)
        with pytest.raises(InputError, match=r"no training chip .*classes \[2\]"):
            sampling.epoch_order(chips, absent, 3, 0)
        unknown = Oversample(rare_class_ids=[7], rare_target_prop=0.5)
        with pytest.raises(InputError, match=r"7: no such class.* 0 to 2"):
            sampling.epoch_order(chips, unknown, 3, 0)

    def test_windows_that_change_with_the_epoch_are_not_oversampled(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chips = numbered(4)
        monkeypatch.setattr(chips, "class_pixels", lambda: None)
        rare = Oversample(rare_class_ids=[2], rare_target_prop=0.5)
        with pytest.raises(InputError, match=r"each epoch .*can't be oversampled"):
            sampling.epoch_order(chips, rare, 3, 0)


class TestLoader:
    def test_batches_and_what_is_left_over(self) -> None:
        chips = numbered(10)
        assert positions(loader(chips)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert positions(loader(chips, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert len(loader(chips, drop_last=True)) == 2

    def test_an_epoch_goes_on_where_it_stopped(self) -> None:
        order = sampling.EpochOrder(10, seed=0)
        whole, resumed = (loader(numbered(10), order=order) for _ in range(2))
        whole.epoch = resumed.epoch = 7
        resumed.first_batch = 2
        assert positions(resumed) == positions(whole)[2:]
        assert len(resumed) == 3

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
    def test_workers_give_the_same_batches(self, make_chips: MakeChips, dtype: str) -> None:
        chips = make_chips(10, 8, 4, dtype)
        options = DataOptions(dihedral=True, lighting=0.3)
        order = sampling.EpochOrder(10, seed=0)
        plain, parallel = (
            list(loader(chips, 2, order=order, augment=Augment(options, 0), num_workers=n))
            for n in (0, 2)
        )
        assert len(plain) == len(parallel) == 5
        for (x, y), (x2, y2) in zip(plain, parallel, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)

    def test_batches_are_normalised_floats_in_channels_last(self, make_chips: MakeChips) -> None:
        chips = make_chips(4, 8, 5, "uint16")
        x, y = next(iter(ChipLoader(chips, 4, spec(5, 8, mean=100, std=50), device=CPU)))
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.dtype is torch.float32
        assert y.dtype is torch.int64
        expected = (chips.images.astype(np.float32) - 100) / 50
        np.testing.assert_allclose(x.permute(0, 2, 3, 1), expected, rtol=1e-6)
        assert np.array_equal(y, chips.labels)

    def test_img_sz_resizes_images_and_labels(self, make_chips: MakeChips) -> None:
        chips = make_chips(2, 64)
        x, y = next(iter(ChipLoader(chips, 2, spec(3, 32), device=CPU)))
        assert x.shape == (2, 3, 32, 32)
        assert y.shape == (2, 32, 32)
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert set(y.unique().tolist()) <= {0, 1, 2}
        # Classes have brightness of their own: image and label still lie upon each other.
        assert x[:, 2][y == 2].mean() > x[:, 2][y == 1].mean() > x[:, 2][y == 0].mean()

    def test_sources_that_do_not_fit(self, make_chips: MakeChips) -> None:
        with pytest.raises(InputError, match=r"training .*channels 3, validation .*4"):
            check_sources(make_chips(2, 8, 3), make_chips(2, 8, 4))
        with pytest.raises(InputError, match=r"training .*size 8, validation .*16"):
            check_sources(make_chips(2, 8), make_chips(2, 16))
        with pytest.raises(InputError, match="no validation chips"):
            check_sources(make_chips(2, 8), make_chips(2, 8).__class__(*empty()))


def empty() -> tuple[np.ndarray, np.ndarray, int]:
    return np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8), np.uint8), 3


class TestAugment:
    IMAGE = torch.arange(16).reshape(1, 4, 4, 1)

    def seen(self, options: DataOptions) -> set[tuple[int, ...]]:
        """All versions of a 4 x 4 image among many draws; the label is always turned alike."""
        images = self.IMAGE.expand(200, 4, 4, 1)
        x, y = Augment(options, seed=0).turn(images, images[..., 0], epoch=0, batch=0)
        assert torch.equal(x[..., 0], y)
        return {tuple(chip.flatten().tolist()) for chip in x}

    def version(self, code: int) -> tuple[int, ...]:
        return tuple(turned(self.IMAGE, code).flatten().tolist())

    def test_each_option_gives_its_versions_and_no_others(self) -> None:
        none = DataOptions(flip_horiz=False)
        assert self.seen(none) == {self.version(0)}
        assert self.seen(DataOptions()) == {self.version(0), self.version(1)}
        vertical = DataOptions(flip_horiz=False, flip_vert=True)
        assert self.seen(vertical) == {self.version(0), self.version(2)}
        assert len({self.version(code) for code in range(8)}) == 8
        assert self.seen(DataOptions(dihedral=True)) == {self.version(c) for c in range(8)}

    def test_flip_horiz_mirrors_left_to_right(self) -> None:
        assert turned(self.IMAGE, 1)[0, 0, :, 0].tolist() == [3, 2, 1, 0]

    def test_draws_depend_on_seed_epoch_and_batch_only(self) -> None:
        images = self.IMAGE.expand(64, 4, 4, 1)

        def draw(seed: int, epoch: int, batch: int) -> torch.Tensor:
            augment = Augment(DataOptions(dihedral=True), seed)
            return augment.turn(images, images[..., 0], epoch, batch)[0]

        assert torch.equal(draw(0, 1, 2), draw(0, 1, 2))
        for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
            assert not torch.equal(draw(0, 1, 2), draw(*other))

    def test_lighting_changes_within_its_bounds(self) -> None:
        x = torch.ones(500, 1, 2, 2)
        lit = Augment(DataOptions(lighting=0.2), 0).light(x.clone(), 0, 0)
        assert lit.min() >= np.exp(-0.2) - 0.2
        assert lit.max() <= np.exp(0.2) + 0.2
        assert lit.std() > 0.1
        assert torch.equal(Augment(DataOptions(), 0).light(x.clone(), 0, 0), x)


class TestStatistics:
    def test_means_leave_out_nodata_and_constant_bands_are_harmless(self) -> None:
        images = np.full((2, 4, 4, 2), 7, np.uint16)
        images[0, ..., 0] = [[100, 200, 100, 200]] * 4
        images[1] = 0
        chips = ArrayChips(images, np.zeros((2, 4, 4), np.uint8), 3)
        mean, std = band_statistics(chips)
        assert mean == (150, 7)
        assert std == (50, 1)

    def test_only_nodata(self) -> None:
        chips = ArrayChips(np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 4, 4), np.uint8), 3)
        with pytest.raises(InputError, match=r"every pixel .* 0"):
            band_statistics(chips)

    def test_normalize_rejects_other_bands(self) -> None:
        with pytest.raises(InputError, match=r"the model takes \(N, H, W, 3\)"):
            normalize(spec(), np.zeros((1, 8, 8, 4), np.uint8))

    def test_class_pixels_are_counted_where_the_source_does_not_know(
        self, make_chips: MakeChips
    ) -> None:
        chips = make_chips(5)

        class Unknowing(ArrayChips):
            def class_pixels(self) -> None:  # type: ignore[override]
                return None

        source = Unknowing(chips.images, chips.labels, 3)
        assert isinstance(source, ChipSource)
        assert np.array_equal(class_pixels(source, 3, batch=2), chips.class_pixels())
        assert chips.class_pixels().sum() == 5 * 32 * 32

    def test_classes_are_checked(self) -> None:
        with pytest.raises(InputError, match="2 class names but 1 colors"):
            Classes(("a", "b"), ("red",))
        with pytest.raises(InputError, match=r"null class 2 .*2 classes"):
            Classes(("a", "b"), ("red", "blue"), null_id=2)
