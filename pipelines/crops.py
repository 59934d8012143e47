"""What a crop of the cache shows of its picture, how it is made, and where its sample lies in it.

A crop holds everything that augmentation can show of a sample, at the finest resolution at which it can show it. It begins
at a whole pixel of the source, whatever the picture's size, so that where a sample lies follows from the sample alone.
What may enter: arithmetic on samples and on one picture, without torch; files and folders of crops are `pipelines.cache`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.geometry import cut_and_shrink, shrink_ratio
from pipelines.samples import Samples

if TYPE_CHECKING:
    from hgfast.config import AugmentConfig  # brings torch

QUALITY = 95
"""Of the JPEG, whose colours have half the resolution (4:2:0): a quarter less to decode than 4:4:4, for a fifth more error."""


@dataclass(frozen=True)
class Boxes:
    """What each of N crops shows. Lengths are in source pixels, corner convention.

    low, high: (N, 2) float32, whole numbers: the box's corners x, y. low is inside the picture or to its right or below,
    high is not clipped: the crop ends with the picture. ratio: (N,) float32 of crop pixels to source pixels, at most 1.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    ratio: NDArray[np.float32]


def boxes(samples: Samples, augment: AugmentConfig, size: int) -> Boxes:
    """The smallest upright boxes that hold all that `pipelines.plan.Plan` can show of the samples.

    Args:
        samples: in source pixels.
        augment: its rotation, scale and shift, the extremes included.
        size: side of the network's input, pixels.
    """
    turn = math.radians(min(abs(augment.rotation), 45.0))  # a square is widest when it stands on a corner
    reach = (math.cos(turn) + math.sin(turn)) / (2 * augment.scale_min) + abs(augment.shift)
    half = round(reach, 9) * samples.side[:, None]  # rounded as the last digits of a sine differ between machines
    low = np.maximum(np.floor(samples.centre - half), 0)
    high = np.ceil(samples.centre + half)
    ratio = shrink_ratio(size * augment.scale_max / samples.side)
    return Boxes(low.astype(np.float32), high.astype(np.float32), ratio.astype(np.float32))


def moved(samples: Samples, where: Boxes, paths: NDArray[np.str_]) -> Samples:
    """The same samples in their crops' pixels: everything shifted by -low, then multiplied by ratio. `paths` (N,): the crops."""
    low, ratio = where.low.astype(np.float64), where.ratio.astype(np.float64)
    return replace(
        samples,
        paths=paths,
        centre=(samples.centre - low) * ratio[:, None],
        side=samples.side * ratio,
        keypoints=(samples.keypoints - low[:, None]) * ratio[:, None, None],
        reference=samples.reference * ratio,
    )


def crop(image: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32], ratio: np.float32) -> NDArray[np.uint8]:
    """One of `Boxes` of an (H, W, C) picture, its first pixel's corner at `low`; a black pixel where they do not overlap."""
    if (high <= 0).any() or low[0] >= image.shape[1] or low[1] >= image.shape[0]:
        return np.zeros((1, 1, image.shape[2]), np.uint8)
    return cut_and_shrink(image, low, high, ratio)[0]


def encode(image: NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) RGB crop as the JPEG file that is kept."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
