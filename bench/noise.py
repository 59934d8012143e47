"""What a difference between two measured figures must exceed to be called one.

The ways of a contest are measured in rounds, so a round that was slow for all says nothing about any of them: what is left of
the logarithm of a figure after its way's mean and its round's mean are taken off is noise. Ways that are noisier than the rest
count with their own spread, the others with that of all, which few rounds know better.
What may enter: the arithmetic of noise; nothing that measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, inf, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

FLOOR = 0.05
"""No difference below five in a hundred is called one, however little the rounds differ: what a process finds in memory when it
starts stays as it is for all rounds."""
SURE = 0.99  # of the differences that are only noise, the share that is not called one
OF_MEDIANS = sqrt(pi / 2)  # the standard error of a median over that of a mean, of Gaussian noise


@dataclass(frozen=True)
class Noise:
    """spreads: standard deviation of the logarithm of each way's figure in a round. rounds: how many. factor: Student's t."""

    spreads: tuple[float, ...]
    rounds: int
    factor: float

    def between(self, one: int, other: int) -> float:
        """By what share two ways' medians must differ, at least."""
        return self._share(sqrt(self.spreads[one] ** 2 + self.spreads[other] ** 2))

    def of(self, one: int) -> float:
        """By what share one way's median may be off, beside other ways' of the same contest."""
        return self._share(self.spreads[one])

    def _share(self, spread: float) -> float:
        if self.rounds < 2:
            return inf
        return max(FLOOR, expm1(min(self.factor * OF_MEDIANS * spread / sqrt(self.rounds), 50.0)))


def noise(figures: ArrayLike) -> Noise:
    """The noise of figures (ways, rounds), all above 0."""
    logs: NDArray[np.float64] = np.log(np.asarray(figures, np.float64))
    ways, rounds = logs.shape
    if rounds < 2:
        return Noise((inf,) * ways, rounds, inf)
    left = logs - logs.mean(1, keepdims=True)
    freedom = rounds - 1
    if ways > 1:
        left = left - left.mean(0)
        freedom *= ways - 1
    squares = (left**2).sum(1)
    pooled = sqrt(squares.sum() / freedom)
    own = np.sqrt(squares / (freedom / ways))
    return Noise(tuple(np.maximum(own, pooled).tolist()), rounds, float(t.ppf((1 + SURE) / 2, freedom)))


def shares(figures: Sequence[Sequence[float]]) -> list[float | None]:
    """By what share each way's median may be off, for the record: None where one round says nothing of it."""
    found = noise(figures)
    return [round(found.of(way), 4) if found.rounds > 1 else None for way in range(len(figures))]


def best(medians: Sequence[float], found: Noise) -> list[int]:
    """The ways of which no other is known to be faster: the one with the least, and what differs from it by less than noise."""
    first = min(range(len(medians)), key=medians.__getitem__)
    return [way for way, value in enumerate(medians) if value <= medians[first] * (1 + found.between(first, way))]
