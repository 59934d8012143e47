"""Drawn pictures as arrays, for whoever needs something to look at and has no data set at hand.

What may enter: cutting squares out of what is drawn elsewhere.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.drawn.camera import PICTURE
from pipelines.drawn.render import blank
from pipelines.drawn.scene import photograph
from pipelines.drawn.snapshot import snapshot

SEED = 20161011  # the same pictures every time


def draw_pictures(size: int, count: int, hands: bool = False) -> NDArray[np.uint8]:
    """`count` synthetic people, or hands: (count, size, size, 3) RGB."""
    surface = blank((PICTURE, PICTURE))
    pictures = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        picture = photograph(rng, surface, ("real",), "facing").pictures[0] if hands else snapshot(rng).picture
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = picture[top : top + side, left : left + side, ::-1]
        pictures.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.stack(pictures).astype(np.uint8)
