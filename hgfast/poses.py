"""What was found in one picture: people (or hands), their keypoints, as a typed value.

What may enter: the result of looking at a picture, as JSON and drawn. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.draw import Image, draw_skeleton
from hgfast.files import to_json
from hgfast.skeletons import Skeleton


@dataclass(frozen=True)
class Pose:
    """One person. keypoints: (K, 2) x, y in source pixels, corner convention. scores: (K,). square: x, y, width, height that
    the network looked at, source pixels."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]
    square: tuple[float, float, float, float]

    @property
    def plain(self) -> dict[str, Any]:
        """As keypoints.json has it: thousandths of a pixel."""
        points = zip(self.keypoints.tolist(), self.scores.tolist())
        return {
            "square": [round(value, 3) for value in self.square],
            "keypoints": [[round(x, 3), round(y, 3), round(score, 4)] for (x, y), score in points],
        }


@dataclass(frozen=True)
class Poses:
    """The people of one picture, one a box, in the boxes' order. keypoints: (P, K, 2) x, y in source pixels, corner convention
    (0 is the outer edge of the first pixel). scores: (P, K). squares: (P, 4) x, y, width, height that were looked at."""

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
    def plain(self) -> list[dict[str, Any]]:
        """Plain values, one a person."""
        return [pose.plain for pose in self]

    def to_json(self) -> str:
        """The joints' names and the people; numbers that are not finite are null."""
        return to_json({"joints": self.skeleton.joints, "people": self.plain})

    def draw(self, image: Image, min_score: float = 0.2) -> Image:
        """A copy of the picture, (H, W, 3) uint8 RGB, with the skeletons of joints scored at least `min_score`."""
        for pose in self:
            image = draw_skeleton(image, pose.keypoints, self.skeleton, pose.scores >= min_score)
        return image
