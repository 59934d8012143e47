"""What annotations can be asked without a person looking: joints and squares against their pictures, hands against hands.

What may enter: questions to `Samples` and, for FreiHAND, to its joints in space. Nothing here opens a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.samples import Samples

Array = NDArray[np.float64]
SAME = 0.0005
"""Metres. Two sets of joints are the same instant's where the distances within them differ by less, root mean square.

A hand seen by two cameras has the same joints but for its place and orientation, so its distances agree to the rounding of
the file, far below this. Among 68 000 different synthetic hands the nearest two differ by 1.2 mm.
"""


@dataclass(frozen=True)
class Problem:
    """One sample that an annotation is wrong for: its row in the annotations, its picture, what is wrong, how far in pixels,
    and with how many joints."""

    row: int
    picture: str
    detail: str
    amount: float
    count: int = 1


def joints_outside(samples: Samples, rows: NDArray[np.int64], size: Array) -> list[Problem]:
    """Samples with labelled joints outside their picture, the worst first.

    Args:
        rows: (N,) of the samples in the annotations.
        size: (N, 2) width and height of the pictures, NaN where they cannot be read.
    """
    beyond = np.maximum(-samples.keypoints, samples.keypoints - size[:, None])
    far = np.linalg.norm(np.maximum(beyond, 0), axis=-1)
    far = np.where(samples.labelled & (far > 0), far, 0)  # NaN is not above 0
    problems = []
    for n in np.nonzero(far.any(1))[0]:
        count, worst = int((far[n] > 0).sum()), int(far[n].argmax())
        number = "" if count == 1 else f"{count} joints, the farthest "
        detail = f"{number}{samples.skeleton.joints[worst]}, {far[n, worst]:.1f} px outside"
        problems.append(Problem(int(rows[n]), str(samples.paths[n]), detail, float(far[n, worst]), count))
    return _worst_first(problems)


def squares_astray(samples: Samples, rows: NDArray[np.int64], size: Array) -> list[Problem]:
    """Samples whose square to crop has no side or does not touch its picture, the farthest first. Arguments as above."""
    half = samples.side[:, None] / 2
    gap = np.maximum(-(samples.centre + half), samples.centre - half - size).max(1)
    problems = []
    for n in np.nonzero(~(samples.side > 0) | (gap >= 0))[0]:
        (x, y), side = samples.centre[n], samples.side[n]
        square = f"the square of {side:g} px around ({x:.1f}, {y:.1f})"
        detail = f"{square} does not touch the picture" if side > 0 else f"{square} has no side"
        problems.append(Problem(int(rows[n]), str(samples.paths[n]), detail, float(gap[n]) if side > 0 else np.inf))
    return _worst_first(problems)


def _worst_first(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (-problem.amount, problem.row))


@dataclass(frozen=True)
class Twins:
    """A hand `row` of one split that looks like the same instant as a hand `other_row` of another: `difference` in metres."""

    split: str
    row: int
    other_split: str
    other_row: int
    difference: float


def same_instants(hands: dict[str, tuple[NDArray[np.int64], Array]], within: float = SAME) -> list[Twins]:
    """Hands of different splits that may be one hand seen from two cameras: for each, the nearest of every split before.

    The 210 distances between 21 joints stay what they are when a hand is moved or turned.

    Args:
        hands: split -> rows (N,), and joints (N, 21, 3) in metres.
        within: the root mean square of their differences below which two hands are the same.
    """
    found = []
    described = {split: _distances(xyz) for split, (_, xyz) in hands.items()}
    for other, split in combinations(hands, 2):
        if len(described[other]) == 0 or len(described[split]) == 0:
            continue
        scale = np.sqrt(described[split].shape[1])
        answer = cKDTree(described[other]).query(described[split], distance_upper_bound=within * scale)
        far, nearest = (np.atleast_1d(column) for column in answer)
        for n in np.nonzero(np.isfinite(far))[0]:
            rows = int(hands[split][0][n]), int(hands[other][0][nearest[n]])
            found.append(Twins(split, rows[0], other, rows[1], float(far[n] / scale)))
    return sorted(found, key=lambda pair: pair.difference)


def _distances(xyz: Array) -> Array:
    """(N, K, 3) -> (N, K (K - 1) / 2)."""
    first, second = np.triu_indices(xyz.shape[1], 1)
    return np.asarray(np.linalg.norm(xyz[:, first] - xyz[:, second], axis=-1), np.float64)
