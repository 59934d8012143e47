"""What is called a difference, on figures whose noise is known."""

from __future__ import annotations

import sys
from math import expm1, inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script

from noise import FLOOR, OF_MEDIANS, best, noise, shares


def test_rounds_that_are_slow_for_all_are_no_noise() -> None:
    slow = np.array([1.0, 3.0, 1.5, 8.0])
    found = noise([10 * slow, 20 * slow, 30 * slow])
    assert max(found.spreads) < 1e-12
    assert found.between(0, 2) == found.of(1) == FLOOR


def test_the_spread_is_students() -> None:
    """Two ways, one of which alternates: worked out by hand."""
    change = 0.2
    found = noise([[1, 1, 1, 1], np.exp([change, -change, change, -change])])
    left = change / 2  # after the round's mean is taken off, in both ways
    spread = sqrt(8 * left**2 / 3)
    assert found.spreads == pytest.approx((spread, spread))
    factor = t.ppf(0.995, 3)
    assert found.between(0, 1) == pytest.approx(expm1(factor * OF_MEDIANS * sqrt(2) * spread / 2))


def test_ways_that_are_noisier_count_with_their_own() -> None:
    rng = np.random.default_rng(3)
    logs = rng.normal(size=(6, 200)) * np.array([0.01] * 5 + [0.3])[:, None]
    found = noise(np.exp(logs))
    assert found.spreads[5] == pytest.approx(0.3, rel=0.2) and found.between(0, 5) > found.between(0, 1) >= FLOOR


@pytest.mark.parametrize("rounds", [3, 5])
def test_equal_ways_are_seldom_told_apart(rounds: int) -> None:
    """A thousand contests of six equal ways with a noise of one fifth, on a machine whose rounds differ by as much."""
    rng, told = np.random.default_rng(rounds), 0
    for _ in range(1000):
        figures = np.exp(0.2 * rng.normal(size=(6, rounds)) + 0.2 * rng.normal(size=(1, rounds)))
        found, medians = noise(figures), np.median(figures, 1)
        told += medians[1] / medians[0] > 1 + found.between(0, 1) or medians[0] / medians[1] > 1 + found.between(0, 1)
    assert told < 15


def test_large_differences_are_found() -> None:
    rng = np.random.default_rng(1)
    figures = np.exp(0.05 * rng.normal(size=(4, 5))) * np.array([1, 1, 2, 4])[:, None]
    found = noise(figures)
    medians = np.median(figures, 1).tolist()
    assert medians[2] / medians[0] > 1 + found.between(0, 2) and sorted(best(medians, found)) == [0, 1]


def test_one_round_says_nothing() -> None:
    found = noise([[1.0], [100.0]])
    assert found.between(0, 1) == found.of(0) == inf
    assert shares([[1.0], [100.0]]) == [None, None] and sorted(best([1.0, 100.0], found)) == [0, 1]


def test_one_way_alone() -> None:
    assert shares([[1.0, 1.0, 1.0]]) == [FLOOR]
