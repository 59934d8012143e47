"""What happens to RGB values between a picture and the network, kept with the weights that were trained on it.

What may enter: arithmetic of values; where a picture is cut is `geometry`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """input = (rgb / 255 - mean) / std, per channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


RAW = Preprocessing((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""Leaves grey levels as they are: for those who want a loader's pictures, see `as_bytes`."""


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """What a loader gives with `RAW`, (N, 3, H, W) float, as the (N, H, W, 3) uint8 RGB that it was made of."""
    return images.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).contiguous().cpu().numpy()


def as_floats(images: Tensor) -> NDArray[np.float32]:
    """A loader's normalised (N, 3, H, W) as an array in that order of memory."""
    return images.float().contiguous().cpu().numpy()


def fold(colour: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Colour change and normalisation as one affine map of grey levels to the network's input.

    Args:
        colour: (N, 3, 4), maps (r, g, b, 1) in [0, 1] to the changed colour; the identity leaves it alone.

    Returns:
        (N, 3, 4) float32, to be applied to (r, g, b, 1) in [0, 255].
    """
    folded = colour.astype(np.float64)
    folded[:, :, 3] -= preprocessing.mean
    folded /= np.asarray(preprocessing.std)[:, None]
    folded[:, :, :3] /= 255
    return folded.astype(np.float32)


def apply(images: Tensor, affine: Tensor) -> Tensor:
    """Map every pixel's RGB values: on a GPU by one product for the whole batch, on a CPU by OpenCV, which takes a tenth of
    the time that torch takes there.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        affine: (N, 3, 4) float32 from `fold`.

    Returns:
        (N, 3, H, W) float32 in channels_last memory. Values are not clipped.
    """
    count, height, width, _ = images.shape
    if images.device.type == "cpu":
        mapped = torch.empty((count, height, width, 3))
        for image, matrix, out in zip(images.numpy(), affine.numpy(), mapped.numpy()):
            cv2.transform(image.astype(np.float32), matrix, dst=out)
        return mapped.permute(0, 3, 1, 2)
    pixels = images.view(count, height * width, 3).float()
    out = torch.baddbmm(affine[:, None, :, 3], pixels, affine[:, :, :3].transpose(1, 2))
    return out.view(count, height, width, 3).permute(0, 3, 1, 2)
