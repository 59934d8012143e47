"""Synthetic images as arrays, for benchmarks, verification and tests without a data set."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.pipelines.synthetic_data.hand.scene import render_hand
from hgfast.pipelines.synthetic_data.people.scene import sample_scene
from hgfast.pipelines.synthetic_data.render.camera import IMAGE_SIZE
from hgfast.pipelines.synthetic_data.render.render import empty_gbuffer

SEED = 20161011  # fixed, so that the images are always the same


def render_images(size: int, count: int, hands: bool = False) -> NDArray[np.uint8]:
    """Render `count` square images of people, or of hands: (count, size, size, 3) uint8 RGB."""
    surface = empty_gbuffer((IMAGE_SIZE, IMAGE_SIZE))
    images = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        image = render_hand(rng, surface, ("real",), "facing").images[0] if hands else sample_scene(rng).image
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side, ::-1]
        images.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.stack(images).astype(np.uint8)
