"""Predicted keypoints of the people or hands in one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.fileio.files import to_json
from hgfast.skeletons import Skeleton
from hgfast.visualization.draw import Image, draw_skeleton


@dataclass(frozen=True)
class Pose:
    """One person. keypoints: (K, 2) x, y in source pixels, corner convention. scores: (K,). square: x, y, width, height of the
    crop in source pixels."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    square: tuple[float, float, float, float]

    @property
    def to_dict(self) -> dict[str, Any]:
        """The entry in keypoints.json, rounded to thousandths of a pixel."""
        points = zip(self.keypoints.tolist(), self.scores.tolist())
        return {
            "square": [round(value, 3) for value in self.square],
            "keypoints": [[round(x, 3), round(y, 3), round(score, 4)] for (x, y), score in points],
        }


@dataclass(frozen=True)
class Poses:
    """The people in one image, one per box, in the order of the boxes. keypoints: (P, K, 2) x, y in source pixels, corner
    convention (0 is the outer edge of the first pixel). scores: (P, K). squares: (P, 4) x, y, width, height of the crops,
    in source pixels."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    squares: NDArray[np.float64]
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self.keypoints)

    def __iter__(self) -> Iterator[Pose]:
        for points, scores, (x, y, width, height) in zip(self.keypoints, self.scores, self.squares.tolist()):
            yield Pose(points, scores, (x, y, width, height))

    @property
    def to_dict(self) -> list[dict[str, Any]]:
        """The entries in keypoints.json, one per person."""
        return [pose.to_dict for pose in self]

    def to_json(self) -> str:
        """Return the joint names and the people as JSON; numbers that are not finite become null."""
        return to_json({"joints": self.skeleton.joints, "people": self.to_dict})

    def draw(self, image: Image, min_score: float = 0.2) -> Image:
        """Return a copy of the image, (H, W, 3) uint8 RGB, with the skeletons; joints scored below `min_score` are omitted."""
        for pose in self:
            image = draw_skeleton(image, pose.keypoints, self.skeleton, pose.scores >= min_score)
        return image
