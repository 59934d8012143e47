"""What happens to RGB values between a picture and the network, kept with the weights that were trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """input = (rgb / 255 - mean) / std, per channel."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


def apply(images: Tensor, colour: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Colour change and normalisation as one affine map of each picture's RGB values.

    Args:
        images: (N, H, W, 3) uint8 RGB.
        colour: (N, 3, 4) float32, maps (r, g, b, 1) in [0, 1] to the changed colour; the identity leaves it alone.

    Returns:
        (N, 3, H, W) float32 in channels_last memory. Values are not clipped.
    """
    count, height, width, _ = images.shape
    std = torch.tensor(preprocessing.std, device=images.device)
    mean = torch.tensor(preprocessing.mean, device=images.device)
    factors = colour[:, :, :3] / std[:, None] / 255
    offset = (colour[:, :, 3] - mean) / std
    pixels = images.view(count, height * width, 3).float()
    out = torch.baddbmm(offset[:, None, :], pixels, factors.transpose(1, 2))
    return out.view(count, height, width, 3).permute(0, 3, 1, 2)
