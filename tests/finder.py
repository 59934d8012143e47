"""A fake network for tests that finds dots of known colors without training."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.skeletons import Skeleton

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
SKELETON = Skeleton("dots", ("red", "left_green", "right_blue"), ((0, 1), (0, 2)), (0, 2, 1), COLORS[:2])
SIZE = 128  # the network's input, pixels


class DotDetector(nn.Module):
    """Returns maps that are brightest where an image has COLORS[k]; a flip must not swap joints, as colors stay."""

    def __init__(self, skeleton: Skeleton = SKELETON) -> None:
        super().__init__()
        self.meta = Meta(skeleton, Normalization(), SIZE, "gaussian", "dark", 0.0)
        self.colors = nn.Parameter(torch.tensor(COLORS) / 255)

    def forward(self, images: Tensor) -> Tensor:
        rgb = images * 0.25 + 0.5
        wanted = self.colors[None, :, :, None, None]
        similarity = (rgb[:, None] * wanted).sum(2) - (rgb[:, None] * (1 - wanted)).sum(2)
        return avg_pool2d(similarity.clamp_min(0), 4)[:, None]


def draw_dots(width: int, height: int, points: NDArray[np.float64], radius: float) -> NDArray[np.uint8]:
    """A black image (H, W, 3) with a soft dot of each of COLORS at points (3, 2), corner convention."""
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    image = np.zeros((height, width, 3))
    for (x, y), color in zip(points, COLORS):
        image += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))[..., None] * color
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def save(path: str, rgb: NDArray[np.uint8]) -> None:
    assert cv2.imwrite(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
