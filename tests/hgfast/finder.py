"""A stand-in for a trained network that needs no training: it finds dots of known colours."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from hgfast.model import Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import Skeleton

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
SKELETON = Skeleton("dots", ("red", "left_green", "right_blue"), ((0, 1), (0, 2)), (0, 2, 1), COLOURS[:2])
SIZE = 128  # the network's input, pixels


class Finder(nn.Module):
    """Maps that are brightest where a picture has COLOURS[k]; no joints are exchanged by mirroring (the colours stay)."""

    def __init__(self, skeleton: Skeleton = SKELETON) -> None:
        super().__init__()
        self.meta = Meta(skeleton, Preprocessing(), SIZE, "gaussian", "dark", 0.0)
        self.colours = nn.Parameter(torch.tensor(COLOURS) / 255)

    def forward(self, images: Tensor) -> Tensor:
        rgb = images * 0.25 + 0.5
        wanted = self.colours[None, :, :, None, None]
        likeness = (rgb[:, None] * wanted).sum(2) - (rgb[:, None] * (1 - wanted)).sum(2)
        return avg_pool2d(likeness.clamp_min(0), 4)[:, None]


def dots(width: int, height: int, points: NDArray[np.float64], radius: float) -> NDArray[np.uint8]:
    """A black picture (H, W, 3) with a soft dot of each of COLOURS at points (3, 2), corner convention."""
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    picture = np.zeros((height, width, 3))
    for (x, y), colour in zip(points, COLOURS):
        picture += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))[..., None] * colour
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)


def save(path: str, rgb: NDArray[np.uint8]) -> None:
    assert cv2.imwrite(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
