"""Content of the crops: their boxes in the source image, how they are cut out, and the samples in their pixels.

A crop holds everything that augmentation can show of a sample, at the finest resolution that it can need. It begins at a whole
pixel of the source for any image size, so that the sample's coordinates in the crop depend on the sample alone. This module does
not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.config import AugmentConfig
from hgfast.geometry import crop_and_downscale, downscale_ratio
from hgfast.pipelines.samples import Samples

JPEG_QUALITY = 95
"""JPEG quality; with half the chroma resolution (4:2:0), decoding costs a quarter less than 4:4:4 for a fifth more error."""


@dataclass(frozen=True)
class CropBoxes:
    """Boxes of N crops. Lengths are in source pixels, corner convention.

    low, high: (N, 2) float32, whole numbers: the box's corners x, y. low is inside the image or to its right or below; high is
    not clipped: the crop ends with the image. ratio: (N,) float32 of crop pixels to source pixels, at most 1.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    ratio: NDArray[np.float32]


def boxes(samples: Samples, augment: AugmentConfig, size: int) -> CropBoxes:
    """Return the smallest upright boxes that hold everything that `BatchPlan` can show of samples in source pixels, the extremes
    of rotation, scale and shift included. `size` is the side of the network's input."""
    max_rotation = math.radians(min(abs(augment.rotation), 45.0))  # a square is widest when it stands on a corner
    half_extent = (math.cos(max_rotation) + math.sin(max_rotation)) / (2 * augment.scale_min) + abs(augment.shift)
    half = round(half_extent, 9) * samples.side[:, None]  # rounded because the last digits of a sine differ between machines
    low = np.maximum(np.floor(samples.center - half), 0)
    high = np.ceil(samples.center + half)
    ratio = downscale_ratio(size * augment.scale_max / samples.side)
    return CropBoxes(low.astype(np.float32), high.astype(np.float32), ratio.astype(np.float32))


def to_crop_pixels(samples: Samples, crop_boxes: CropBoxes, paths: NDArray[np.str_]) -> Samples:
    """Convert samples to the pixels of their crops: shift by -low, then multiply by ratio. `paths` (N,) are the crops' files."""
    low, ratio = crop_boxes.low.astype(np.float64), crop_boxes.ratio.astype(np.float64)
    return replace(
        samples,
        paths=paths,
        center=(samples.center - low) * ratio[:, None],
        side=samples.side * ratio,
        keypoints=(samples.keypoints - low[:, None]) * ratio[:, None, None],
        reference=samples.reference * ratio,
    )


def extract_crop(
    image: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32], ratio: np.float32
) -> NDArray[np.uint8]:
    """Cut one of `CropBoxes` out of an (H, W, C) image, from the corner `low` on; one black pixel if they do not overlap."""
    if (high <= 0).any() or low[0] >= image.shape[1] or low[1] >= image.shape[0]:
        return np.zeros((1, 1, image.shape[2]), np.uint8)
    return crop_and_downscale(image, low, high, ratio)[0]


def encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an (H, W, 3) RGB crop as JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
