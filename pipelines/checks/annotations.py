"""Plausibility checks of annotations: joints and crop squares against their images, hands of one split against another's.

The checks need `Samples` and, for FreiHAND, the joints in space; they open no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hgfast.geometry import FloatArray
from hgfast.pipelines.readers.base import Hands
from hgfast.pipelines.samples import Samples

SAME_HAND_RMS = 0.0005
"""Meters. Two sets of joints show one instant if the root mean square difference of their inner distances is smaller.

A hand seen by two cameras differs only in position and orientation, so its inner distances agree to the rounding of the
file, far below this threshold. Among 68 000 different synthetic hands the nearest two differ by 1.2 mm.
"""


@dataclass(frozen=True)
class AnnotationIssue:
    """One sample with a suspicious annotation: number in the annotations, path, the problem in words, how far off in pixels,
    number of joints concerned."""

    row: int
    image: str
    detail: str
    distance: float
    count: int = 1


def joints_outside_image(samples: Samples, rows: NDArray[np.int64], size: FloatArray) -> list[AnnotationIssue]:
    """Return the samples with labeled joints outside their image, the worst first.

    `rows` (N,) are the samples' numbers in the annotations, `size` (N, 2) width and height of the images, NaN if unreadable.
    """
    overshoot = np.maximum(-samples.keypoints, samples.keypoints - size[:, None])
    distance = np.linalg.norm(np.maximum(overshoot, 0), axis=-1)
    distance = np.where(samples.labeled & (distance > 0), distance, 0)  # NaN is not above 0
    problems = []
    for n in np.nonzero(distance.any(1))[0]:
        count, worst = int((distance[n] > 0).sum()), int(distance[n].argmax())
        number = "" if count == 1 else f"{count} joints, the farthest "
        detail = f"{number}{samples.skeleton.joints[worst]}, {distance[n, worst]:.1f} px outside"
        problems.append(AnnotationIssue(int(rows[n]), str(samples.paths[n]), detail, float(distance[n, worst]), count))
    return _worst_first(problems)


def crops_outside_image(samples: Samples, rows: NDArray[np.int64], size: FloatArray) -> list[AnnotationIssue]:
    """Return the samples whose crop square has no side or does not touch its image, the farthest first; arguments as above."""
    half = samples.side[:, None] / 2
    distance = np.maximum(-(samples.center + half), samples.center - half - size).max(1)
    problems = []
    for n in np.nonzero(~(samples.side > 0) | (distance >= 0))[0]:
        (x, y), side = samples.center[n], samples.side[n]
        square = f"the square of {side:g} px around ({x:.1f}, {y:.1f})"
        detail = f"{square} does not touch the image" if side > 0 else f"{square} has no side"
        problems.append(AnnotationIssue(int(rows[n]), str(samples.paths[n]), detail, float(distance[n]) if side > 0 else np.inf))
    return _worst_first(problems)


def _worst_first(issues: list[AnnotationIssue]) -> list[AnnotationIssue]:
    return sorted(issues, key=lambda issue: (-issue.distance, issue.row))


@dataclass(frozen=True)
class DuplicateHand:
    """Two hands of different splits that may show the same instant; `difference` of their inner distances in meters (RMS)."""

    split: str
    row: int
    other_split: str
    other_row: int
    difference: float


def find_duplicate_hands(hands: Hands) -> list[DuplicateHand]:
    """Return hands of different splits that may be one hand seen by two cameras: for each hand the nearest of every earlier
    split.

    Moving or turning a hand does not change the 210 distances between its 21 joints.
    """
    duplicates = []
    descriptors = {split: _distances(xyz) for split, (_, xyz) in hands.items()}
    for other, split in combinations(hands, 2):
        if len(descriptors[other]) == 0 or len(descriptors[split]) == 0:
            continue
        scale = np.sqrt(descriptors[split].shape[1])
        answer = cKDTree(descriptors[other]).query(descriptors[split], distance_upper_bound=SAME_HAND_RMS * scale)
        distance, nearest = (np.atleast_1d(column) for column in answer)
        for n in np.nonzero(np.isfinite(distance))[0]:
            rows = int(hands[split][0][n]), int(hands[other][0][nearest[n]])
            duplicates.append(DuplicateHand(split, rows[0], other, rows[1], float(distance[n] / scale)))
    return sorted(duplicates, key=lambda pair: pair.difference)


def _distances(xyz: FloatArray) -> FloatArray:
    """Return the distances between all pairs of joints: (N, K, 3) -> (N, K (K - 1) / 2)."""
    first, second = np.triu_indices(xyz.shape[1], 1)
    return np.asarray(np.linalg.norm(xyz[:, first] - xyz[:, second], axis=-1), np.float64)
