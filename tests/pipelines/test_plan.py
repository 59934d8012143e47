"""Order and augmentation: every sample once, the same batch for any number of ranks, colours that mean what they say."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from scipy.stats import kstest

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.geometry import move, square_matrices
from hgfast.skeletons import Skeleton
from pipelines.plan import Plan, colour_matrices
from pipelines.samples import Samples

PAIR = Skeleton("pair", ("left", "right", "nose"), ((0, 1),), (1, 0, 2), ((255, 0, 0),))
RNG = np.random.default_rng(2)


def some(count: int) -> Samples:
    points = RNG.uniform(20, 200, (count, 3, 2))
    return Samples(
        paths=np.array([f"{i}.jpg" for i in range(count)]),
        centre=RNG.uniform(80, 140, (count, 2)),
        side=RNG.uniform(100, 224, count),
        keypoints=points,
        labelled=RNG.random((count, 3)) < 0.8,
        reference=np.ones(count),
        group=np.arange(count),
        row=np.arange(count),
        skeleton=PAIR,
        pixel_offset=0.0,
    )


@pytest.mark.parametrize(("count", "batch", "world"), [(100, 8, 1), (100, 8, 2), (37, 8, 3), (7, 3, 3), (5, 2, 2), (4, 64, 4)])
def test_every_sample_exactly_once_between_the_ranks(count: int, batch: int, world: int) -> None:
    samples = some(count)
    plans = [Plan(samples, 64, batch, augment=AugmentConfig(), seed=3, rank=r, world=world) for r in range(world)]
    assert len({plan.steps for plan in plans}) == 1
    seen: list[int] = []
    for step in range(plans[0].steps):
        shares = [plan.batch(4, step) for plan in plans]
        assert all(0 < len(share.index) <= plan.largest for share, plan in zip(shares, plans))
        assert {share.total for share in shares} == {sum(len(share.index) for share in shares)}
        seen += [i for share in shares for i in share.index]
    assert sorted(seen) == list(range(count))


def test_a_batch_does_not_depend_on_the_number_of_ranks() -> None:
    samples = some(50)
    whole = Plan(samples, 64, 10, augment=AugmentConfig(), seed=3).batch(2, 1)
    halves = [Plan(samples, 64, 10, augment=AugmentConfig(), seed=3, rank=r, world=2).batch(2, 1) for r in range(2)]
    for name in ("index", "input_from_source", "keypoints", "labelled", "colour"):
        assert np.array_equal(np.concatenate([getattr(half, name) for half in halves]), getattr(whole, name))


def test_seed_and_epoch_fix_everything() -> None:
    samples = some(30)

    def order(seed: int, epoch: int) -> list[int]:
        return Plan(samples, 64, 30, augment=AugmentConfig(), seed=seed).batch(epoch, 0).index.tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_without_augmentation_nothing_moves() -> None:
    samples = some(9)
    batch = Plan(samples, 64, 9).batch(0, 0)
    assert batch.index.tolist() == list(range(9))
    assert np.allclose(batch.input_from_source, square_matrices(samples.centre, samples.side, 64))
    assert np.array_equal(batch.colour, np.tile(np.eye(3, 4), (9, 1, 1)))


def test_augmentation_stays_in_its_ranges() -> None:
    samples = some(400)
    a = AugmentConfig(rotation=25, scale_min=0.8, scale_max=1.1, shift=0.1, flip=0)
    batch = Plan(samples, 64, 400, augment=a, seed=1).batch(0, 0)
    linear = batch.input_from_source[:, :2, :2]
    zoom = np.sqrt(np.linalg.det(linear)) / (64 / samples.side[batch.index])
    angle = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    shift = (move(samples.centre[batch.index][:, None], batch.input_from_source)[:, 0] - 32) / 64
    assert 0.8 <= zoom.min() < 0.82 and 1.08 < zoom.max() <= 1.1
    assert -25 <= angle.min() < -23 and 23 < angle.max() <= 25
    assert 0.07 < np.abs(shift).max() <= 0.1 * 1.1 * np.sqrt(2)


def test_augmentation_is_uniform_in_its_ranges() -> None:
    """Kolmogorov-Smirnov against what the configuration's words say, each parameter on its own recovered from its effect."""
    samples, n = some(4000), 4000
    a = AugmentConfig(
        rotation=25, scale_min=0.8, scale_max=1.1, shift=0.1, flip=0.3, brightness=0.2, contrast=0, saturation=0, hue=0
    )
    batch = Plan(samples, 64, n, augment=a, seed=9).batch(2, 0)
    linear, side = batch.input_from_source[:, :2, :2], samples.side[batch.index]
    mirrored = np.linalg.det(linear) < 0
    upright = np.where(mirrored[:, None, None], np.diag([-1.0, 1.0]) @ linear, linear)
    seen = {
        "rotation": (np.degrees(np.arctan2(upright[:, 1, 0], upright[:, 0, 0])), -25, 25),
        "scale": (np.sqrt(np.abs(np.linalg.det(linear))) * side / 64, 0.8, 1.1),
        "brightness": (batch.colour[:, 0, 0], 0.8, 1.2),
    }
    middle = move(np.full((n, 1, 2), 32.0), np.linalg.inv(batch.input_from_source))[:, 0]
    shift = (middle - samples.centre[batch.index]) / side[:, None]
    seen |= {"shift x": (shift[:, 0], -0.1, 0.1), "shift y": (shift[:, 1], -0.1, 0.1)}
    for name, (values, low, high) in seen.items():
        assert kstest(values, "uniform", (low, high - low)).pvalue > 0.01, name
    assert abs(mirrored.mean() - 0.3) < 0.02
    together = np.corrcoef([values for values, _, _ in seen.values()]) - np.eye(len(seen))
    assert np.abs(together).max() < 0.06  # and none depends on another
    for name, get in {
        "contrast": lambda c: c[:, 0, 0],
        "saturation": lambda c: 1 - c[:, 0, 1] / 0.587,
        "hue": lambda c: 1 + np.degrees(np.arctan2((c[:, 1, 0] - c[:, 2, 0]) * np.sqrt(3), 3 * c[:, 0, 0] - 1)) / 10 * 0.2,
    }.items():
        one = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0} | {name: 10.0 if name == "hue" else 0.2}
        colour = Plan(samples, 64, n, augment=AugmentConfig(**one), seed=9).batch(0, 0).colour.astype(float)
        assert kstest(get(colour), "uniform", (0.8, 0.4)).pvalue > 0.01, name


def test_what_is_left_out_gives_its_place_to_others_and_disturbs_nobody() -> None:
    samples = some(50)
    before, after = Plan(samples, 64, 20, augment=AugmentConfig(), seed=3), Plan(samples, 64, 20, augment=AugmentConfig(), seed=3)
    after.leave_out([7, 8, 30])
    assert not after.usable(7) and after.usable(9)
    instead: list[int] = []
    for epoch in range(30):
        for step in range(after.steps):
            one, other = before.batch(epoch, step), after.batch(epoch, step)
            assert np.array_equal(other.stand_in, np.isin(one.index, [7, 8, 30]))
            assert np.array_equal(one.index[~other.stand_in], other.index[~other.stand_in])
            assert np.array_equal(one.input_from_source[~other.stand_in], other.input_from_source[~other.stand_in])
            instead += other.index[other.stand_in].tolist()
    assert not {7, 8, 30} & set(instead) and len(set(instead)) > 25  # not always the same one
    with pytest.raises(HgfastError, match="none of the 50 pictures"):
        after.leave_out(range(50))


def test_flips_swap_left_and_right() -> None:
    samples = some(200)
    still = {"rotation": 0.0, "scale_min": 1.0, "scale_max": 1.0, "shift": 0.0}
    batch = Plan(samples, 64, 200, augment=AugmentConfig(flip=0.5, **still), seed=1).batch(0, 0)
    flipped = batch.input_from_source[:, 0, 0] < 0
    assert 60 < flipped.sum() < 140
    plain = Plan(samples, 64, 200, augment=AugmentConfig(flip=0.0, **still), seed=1).batch(0, 0)
    assert np.array_equal(plain.index, batch.index)
    swapped = plain.keypoints[flipped][:, [1, 0, 2]] * [-1, 1] + [64, 0]
    assert np.allclose(batch.keypoints[flipped], swapped)
    assert np.array_equal(batch.labelled[flipped], plain.labelled[flipped][:, [1, 0, 2]])
    assert np.allclose(batch.keypoints[~flipped], plain.keypoints[~flipped])


def change(rgb: list[float], **by: float) -> np.ndarray:
    values = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | by
    return colour_matrices(**{name: np.array([value]) for name, value in values.items()})[0] @ [*rgb, 1]


def test_colours() -> None:
    colour, grey = [0.7, 0.4, 0.2], [0.3, 0.3, 0.3]
    luma = 0.299 * 0.7 + 0.587 * 0.4 + 0.114 * 0.2
    assert change(colour) == pytest.approx(colour)
    assert change(colour, brightness=1.2) == pytest.approx([0.84, 0.48, 0.24])
    assert change(colour, contrast=0.5) == pytest.approx([0.6, 0.45, 0.35])
    assert change(colour, saturation=0) == pytest.approx([luma] * 3)
    assert change(grey, hue=1.0, saturation=1.4) == pytest.approx(grey)
    red_to_green = change([1, 0, 0], hue=2 * np.pi / 3)
    assert red_to_green == pytest.approx([0, 1, 0], abs=1e-6)
    assert colorsys.rgb_to_hsv(*change([0.8, 0.3, 0.3], hue=0.3))[0] == pytest.approx(0.3 / (2 * np.pi), abs=0.02)


def test_too_few_samples_for_the_ranks() -> None:
    with pytest.raises(HgfastError, match="less than the 4 ranks"):
        Plan(some(100), 64, 2, world=4)
    with pytest.raises(HgfastError, match="3 samples cannot be shared among 4 ranks"):
        Plan(some(3), 64, 8, world=4)
