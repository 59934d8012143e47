"""Estimate the noise of interleaved measurements: the difference that two results must exceed to count.

A round that was slow for all variants does not distinguish them. Noise is therefore the residual of the logarithm of a result
after the means of its variant and its round are subtracted. A variant that is noisier than the rest has its own standard
deviation; the others have the pooled one, which few rounds estimate better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, inf, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_NOISE = 0.05
"""No difference below 5 % counts, however small the residuals: the memory layout of a process is the same in all rounds."""
CONFIDENCE = 0.99  # share of the differences due to noise alone that do not count
MEDIAN_ERROR_FACTOR = sqrt(pi / 2)  # standard error of the median relative to that of the mean, for Gaussian noise


@dataclass(frozen=True)
class NoiseEstimate:
    """log_stds: standard deviation of the logarithm of each variant's result in a round. t_factor: quantile of Student's t."""

    log_stds: tuple[float, ...]
    rounds: int
    t_factor: float

    def min_ratio(self, one: int, other: int) -> float:
        """Return the relative difference that the medians of two variants must exceed."""
        return self._relative(sqrt(self.log_stds[one] ** 2 + self.log_stds[other] ** 2))

    def margin(self, variant: int) -> float:
        """Return the relative error of a variant's median, compared with other variants of the same run."""
        return self._relative(self.log_stds[variant])

    def _relative(self, noise: float) -> float:
        if self.rounds < 2:
            return inf
        return max(MIN_NOISE, expm1(min(self.t_factor * MEDIAN_ERROR_FACTOR * noise / sqrt(self.rounds), 50.0)))


def estimate_noise(values: ArrayLike) -> NoiseEstimate:
    """Estimate the noise of positive results of shape (variants, rounds)."""
    from scipy.stats import t  # takes a second

    logs: NDArray[np.float64] = np.log(np.asarray(values, np.float64))
    variants, rounds = logs.shape
    if rounds < 2:
        return NoiseEstimate((inf,) * variants, rounds, inf)
    residuals = logs - logs.mean(1, keepdims=True)
    dof = rounds - 1
    if variants > 1:
        residuals = residuals - residuals.mean(0)
        dof *= variants - 1
    squares = (residuals**2).sum(1)
    pooled = sqrt(squares.sum() / dof)
    own_stds = np.sqrt(squares / (dof / variants))
    return NoiseEstimate(tuple(np.maximum(own_stds, pooled).tolist()), rounds, float(t.ppf((1 + CONFIDENCE) / 2, dof)))


def relative_noise(values: Sequence[Sequence[float]]) -> list[float | None]:
    """Return the relative error of each variant's median for the record; None for a single round or none."""
    measured = [variant for variant, rounds in enumerate(values) if rounds]
    noise = estimate_noise([values[variant] for variant in measured])
    margins = {variant: round(noise.margin(number), 4) for number, variant in enumerate(measured) if noise.rounds > 1}
    return [margins.get(variant) for variant in range(len(values))]


def fastest(medians: Sequence[float], noise: NoiseEstimate) -> list[int]:
    """Return the indices of the fastest variant and of those that differ from it by less than noise."""
    first = min(range(len(medians)), key=medians.__getitem__)
    return [variant for variant, value in enumerate(medians) if value <= medians[first] * (1 + noise.min_ratio(first, variant))]
