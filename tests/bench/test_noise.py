"""What is called a difference, on figures whose noise is known."""

from __future__ import annotations

from math import expm1, inf, sqrt

import numpy as np
import pytest
from scipy.stats import t

from hgfast.bench.harness.noise import MEDIAN_ERROR_FACTOR, MIN_NOISE, estimate_noise, fastest, relative_noise


def test_slow_rounds_are_not_noise() -> None:
    slow = np.array([1.0, 3.0, 1.5, 8.0])
    found = estimate_noise([10 * slow, 20 * slow, 30 * slow])
    assert max(found.log_stds) < 1e-12
    assert found.min_ratio(0, 2) == found.margin(1) == MIN_NOISE


def test_margin_uses_students_t() -> None:
    """Two ways, one of which alternates: worked out by hand."""
    change = 0.2
    found = estimate_noise([[1, 1, 1, 1], np.exp([change, -change, change, -change])])
    residual = change / 2  # after the round's mean is taken off, in both ways
    expected = sqrt(8 * residual**2 / 3)
    assert found.log_stds == pytest.approx((expected, expected))
    factor = t.ppf(0.995, 3)
    assert found.min_ratio(0, 1) == pytest.approx(expm1(factor * MEDIAN_ERROR_FACTOR * sqrt(2) * expected / 2))


def test_noisy_variants_use_their_own_spread() -> None:
    rng = np.random.default_rng(3)
    logs = rng.normal(size=(6, 200)) * np.array([0.01] * 5 + [0.3])[:, None]
    found = estimate_noise(np.exp(logs))
    assert found.log_stds[5] == pytest.approx(0.3, rel=0.2) and found.min_ratio(0, 5) > found.min_ratio(0, 1) >= MIN_NOISE


@pytest.mark.parametrize("rounds", [3, 5])
def test_equal_variants_are_rarely_distinguished(rounds: int) -> None:
    """A thousand contests of six equal ways with a noise of one fifth, on a machine whose rounds differ by as much."""
    rng, false_positives = np.random.default_rng(rounds), 0
    for _ in range(1000):
        figures = np.exp(0.2 * rng.normal(size=(6, rounds)) + 0.2 * rng.normal(size=(1, rounds)))
        found, medians = estimate_noise(figures), np.median(figures, 1)
        false_positives += medians[1] / medians[0] > 1 + found.min_ratio(0, 1) or medians[0] / medians[1] > 1 + found.min_ratio(
            0, 1
        )
    assert false_positives < 15


def test_large_differences_are_found() -> None:
    rng = np.random.default_rng(1)
    figures = np.exp(0.05 * rng.normal(size=(4, 5))) * np.array([1, 1, 2, 4])[:, None]
    found = estimate_noise(figures)
    medians = np.median(figures, 1).tolist()
    assert medians[2] / medians[0] > 1 + found.min_ratio(0, 2) and sorted(fastest(medians, found)) == [0, 1]


def test_one_round_gives_no_estimate() -> None:
    found = estimate_noise([[1.0], [100.0]])
    assert found.min_ratio(0, 1) == found.margin(0) == inf
    assert relative_noise([[1.0], [100.0]]) == [None, None] and sorted(fastest([1.0, 100.0], found)) == [0, 1]


def test_single_variant() -> None:
    assert relative_noise([[1.0, 1.0, 1.0]]) == [MIN_NOISE]
