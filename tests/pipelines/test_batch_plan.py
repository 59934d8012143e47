"""Order and augmentation: every sample once, the same batch for any number of ranks, and correct color maps."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scipy.stats import kstest

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.geometry import crop_matrices, transform_points
from hgfast.pipelines.batch_plan import BatchPlan, color_matrices
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import Skeleton

PAIR = Skeleton("pair", ("left", "right", "nose"), ((0, 1),), (1, 0, 2), ((255, 0, 0),))
RNG = np.random.default_rng(2)


def make_samples(count: int) -> Samples:
    points = RNG.uniform(20, 200, (count, 3, 2))
    return Samples(
        paths=np.array([f"{i}.jpg" for i in range(count)]),
        center=RNG.uniform(80, 140, (count, 2)),
        side=RNG.uniform(100, 224, count),
        keypoints=points,
        labeled=RNG.random((count, 3)) < 0.8,
        reference=np.ones(count),
        group=np.arange(count),
        row=np.arange(count),
        skeleton=PAIR,
        pixel_offset=0.0,
    )


@pytest.mark.parametrize(("count", "batch", "world"), [(100, 8, 1), (100, 8, 2), (37, 8, 3), (7, 3, 3), (5, 2, 2), (4, 64, 4)])
def test_every_sample_exactly_once_between_the_ranks(count: int, batch: int, world: int) -> None:
    samples = make_samples(count)
    plans = [BatchPlan(samples, 64, batch, augment=AugmentConfig(), seed=3, rank=r, world_size=world) for r in range(world)]
    assert len({plan.steps for plan in plans}) == 1
    seen: list[int] = []
    for step in range(plans[0].steps):
        shares = [plan.batch(4, step) for plan in plans]
        assert all(0 < len(share.index) <= plan.max_local_batch for share, plan in zip(shares, plans))
        assert {share.global_size for share in shares} == {sum(len(share.index) for share in shares)}
        seen += [i for share in shares for i in share.index]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize(
    ("count", "batch", "world"), [(1000, 32, 1), (1000, 32, 4), (7, 4, 2), (64, 32, 2), (33, 32, 1), (9, 9, 3)]
)
def test_batches_of_one_size(count: int, batch: int, world: int) -> None:
    """Every batch of every rank has the same size; no sample comes twice, and other samples are left out in another epoch."""
    samples = make_samples(count)
    plans = [
        BatchPlan(samples, 64, batch, augment=AugmentConfig(), seed=3, rank=r, world_size=world, equal_sizes=True)
        for r in range(world)
    ]
    unequal = BatchPlan(samples, 64, batch, augment=AugmentConfig(), seed=3, world_size=world)
    missing = []
    for epoch in range(6):
        batches = [plan.batch(epoch, step) for step in range(unequal.steps) for plan in plans]
        assert {len(part.index) for part in batches} == {plans[0].max_local_batch}
        assert {part.global_size for part in batches} == {world * plans[0].max_local_batch}
        seen = [i for part in batches for i in part.index]
        assert len(set(seen)) == len(seen) and count - len(seen) < unequal.steps * world
        missing.append(set(range(count)) - set(seen))
    assert not missing[0] or any(rows != missing[0] for rows in missing)


def test_a_batch_does_not_depend_on_the_number_of_ranks() -> None:
    samples = make_samples(50)
    whole = BatchPlan(samples, 64, 10, augment=AugmentConfig(), seed=3).batch(2, 1)
    halves = [BatchPlan(samples, 64, 10, augment=AugmentConfig(), seed=3, rank=r, world_size=2).batch(2, 1) for r in range(2)]
    for name in ("index", "input_from_source", "keypoints", "labeled", "color"):
        assert np.array_equal(np.concatenate([getattr(half, name) for half in halves]), getattr(whole, name))


def test_seed_and_epoch_fix_everything() -> None:
    samples = make_samples(30)

    def order(seed: int, epoch: int) -> list[int]:
        return BatchPlan(samples, 64, 30, augment=AugmentConfig(), seed=seed).batch(epoch, 0).index.tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_without_augmentation_nothing_changes() -> None:
    samples = make_samples(9)
    batch = BatchPlan(samples, 64, 9).batch(0, 0)
    assert batch.index.tolist() == list(range(9))
    assert np.allclose(batch.input_from_source, crop_matrices(samples.center, samples.side, 64))
    assert np.array_equal(batch.color, np.tile(np.eye(3, 4), (9, 1, 1)))


def test_augmentation_stays_in_its_ranges() -> None:
    samples = make_samples(400)
    a = AugmentConfig(rotation=25, scale_min=0.8, scale_max=1.1, shift=0.1, flip=0)
    batch = BatchPlan(samples, 64, 400, augment=a, seed=1).batch(0, 0)
    linear = batch.input_from_source[:, :2, :2]
    zoom = np.sqrt(np.linalg.det(linear)) / (64 / samples.side[batch.index])
    angle = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    shift = (transform_points(samples.center[batch.index][:, None], batch.input_from_source)[:, 0] - 32) / 64
    assert 0.8 <= zoom.min() < 0.82 and 1.08 < zoom.max() <= 1.1
    assert -25 <= angle.min() < -23 and 23 < angle.max() <= 25
    assert 0.07 < np.abs(shift).max() <= 0.1 * 1.1 * np.sqrt(2)


def test_augmentation_is_uniform_in_its_ranges() -> None:
    """Kolmogorov-Smirnov test against the configured distributions; each parameter is recovered from its effect."""
    samples, n = make_samples(4000), 4000
    a = AugmentConfig(
        rotation=25, scale_min=0.8, scale_max=1.1, shift=0.1, flip=0.3, brightness=0.2, contrast=0, saturation=0, hue=0
    )
    batch = BatchPlan(samples, 64, n, augment=a, seed=9).batch(2, 0)
    linear, side = batch.input_from_source[:, :2, :2], samples.side[batch.index]
    mirrored = np.linalg.det(linear) < 0
    upright = np.where(mirrored[:, None, None], np.diag([-1.0, 1.0]) @ linear, linear)
    seen = {
        "rotation": (np.degrees(np.arctan2(upright[:, 1, 0], upright[:, 0, 0])), -25, 25),
        "scale": (np.sqrt(np.abs(np.linalg.det(linear))) * side / 64, 0.8, 1.1),
        "brightness": (batch.color[:, 0, 0], 0.8, 1.2),
    }
    middle = transform_points(np.full((n, 1, 2), 32.0), np.linalg.inv(batch.input_from_source))[:, 0]
    shift = (middle - samples.center[batch.index]) / side[:, None]
    seen |= {"shift x": (shift[:, 0], -0.1, 0.1), "shift y": (shift[:, 1], -0.1, 0.1)}
    for name, (values, low, high) in seen.items():
        assert kstest(values, "uniform", (low, high - low)).pvalue > 0.01, name
    assert abs(mirrored.mean() - 0.3) < 0.02
    together = np.corrcoef([values for values, _, _ in seen.values()]) - np.eye(len(seen))
    assert np.abs(together).max() < 0.06  # and they are independent
    for name, get in {
        "contrast": lambda c: c[:, 0, 0],
        "saturation": lambda c: 1 - c[:, 0, 1] / 0.587,
        "hue": lambda c: 1 + np.degrees(np.arctan2((c[:, 1, 0] - c[:, 2, 0]) * np.sqrt(3), 3 * c[:, 0, 0] - 1)) / 10 * 0.2,
    }.items():
        one = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: 10.0 if name == "hue" else 0.2}
        color = BatchPlan(samples, 64, n, augment=AugmentConfig(**one), seed=9).batch(0, 0).color.astype(float)
        assert kstest(get(color), "uniform", (0.8, 0.4)).pvalue > 0.01, name


def test_excluded_samples_are_replaced_without_changing_others() -> None:
    samples = make_samples(50)
    before, after = (
        BatchPlan(samples, 64, 20, augment=AugmentConfig(), seed=3),
        BatchPlan(samples, 64, 20, augment=AugmentConfig(), seed=3),
    )
    after.exclude([7, 8, 30])
    assert not after.is_usable(7) and after.is_usable(9)
    instead: list[int] = []
    for epoch in range(30):
        for step in range(after.steps):
            one, other = before.batch(epoch, step), after.batch(epoch, step)
            assert np.array_equal(other.is_replacement, np.isin(one.index, [7, 8, 30]))
            assert np.array_equal(one.index[~other.is_replacement], other.index[~other.is_replacement])
            assert np.array_equal(one.input_from_source[~other.is_replacement], other.input_from_source[~other.is_replacement])
            instead += other.index[other.is_replacement].tolist()
    assert not {7, 8, 30} & set(instead) and len(set(instead)) > 25  # not always the same one
    with pytest.raises(HgfastError, match="none of the 50 images"):
        after.exclude(range(50))


def test_flips_swap_left_and_right() -> None:
    samples = make_samples(200)
    still = {"rotation": 0.0, "scale_min": 1.0, "scale_max": 1.0, "shift": 0.0}
    batch = BatchPlan(samples, 64, 200, augment=AugmentConfig(flip=0.5, **still), seed=1).batch(0, 0)
    flipped = batch.input_from_source[:, 0, 0] < 0
    assert 60 < flipped.sum() < 140
    plain = BatchPlan(samples, 64, 200, augment=AugmentConfig(flip=0.0, **still), seed=1).batch(0, 0)
    assert np.array_equal(plain.index, batch.index)
    swapped = plain.keypoints[flipped][:, [1, 0, 2]] * [-1, 1] + [64, 0]
    assert np.allclose(batch.keypoints[flipped], swapped)
    assert np.array_equal(batch.labeled[flipped], plain.labeled[flipped][:, [1, 0, 2]])
    assert np.allclose(batch.keypoints[~flipped], plain.keypoints[~flipped])


def apply_color(rgb: list[float], **by: float) -> np.ndarray:
    values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | by
    return color_matrices(**{name: np.array([value]) for name, value in values.items()})[0] @ [*rgb, 1]


def test_colors() -> None:
    color, gray = [0.7, 0.4, 0.2], [0.3, 0.3, 0.3]
    luma = 0.299 * 0.7 + 0.587 * 0.4 + 0.114 * 0.2
    assert apply_color(color) == pytest.approx(color)
    assert apply_color(color, brightness=1.2) == pytest.approx([0.84, 0.48, 0.24])
    assert apply_color(color, contrast=0.5) == pytest.approx([0.6, 0.45, 0.35])
    assert apply_color(color, saturation=0) == pytest.approx([luma] * 3)
    assert apply_color(gray, hue=1.0, saturation=1.4) == pytest.approx(gray)
    red_to_green = apply_color([1, 0, 0], hue=2 * np.pi / 3)
    assert red_to_green == pytest.approx([0, 1, 0], abs=1e-6)
    assert colorsys.rgb_to_hsv(*apply_color([0.8, 0.3, 0.3], hue=0.3))[0] == pytest.approx(0.3 / (2 * np.pi), abs=0.02)


def test_too_few_samples_for_the_ranks() -> None:
    with pytest.raises(HgfastError, match="less than the 4 ranks"):
        BatchPlan(make_samples(100), 64, 2, world_size=4)
    with pytest.raises(HgfastError, match="3 samples cannot be shared among 4 ranks"):
        BatchPlan(make_samples(3), 64, 8, world_size=4)
