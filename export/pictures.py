"""Pictures to look at a network with: the user's own, through the same loader as in training, or drawn ones.

What may enter: where crops (n, S, S, 3) uint8 RGB come from.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.checkpoints import Meta
from hgfast.distributed import Ranks, pick_device
from hgfast.preprocessing import RAW, as_bytes, as_floats
from hgfast.skeletons import HAND21, Skeleton
from pipelines.datasets import open_loader
from pipelines.drawn.camera import PICTURE
from pipelines.drawn.render import blank
from pipelines.drawn.scene import photograph
from pipelines.drawn.snapshot import snapshot
from pipelines.samples import Samples

Crops = NDArray[np.uint8]
SEED = 20161011  # of the drawn pictures: the same ones every time


def drawn(skeleton: Skeleton, size: int, count: int) -> Crops:
    """`count` synthetic hands, or, for any other skeleton, people: (count, size, size, 3)."""
    hand = skeleton.joints == HAND21.joints
    surface = blank((PICTURE, PICTURE))
    pictures = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        picture = photograph(rng, surface, ("real",), "facing").pictures[0] if hand else snapshot(rng).picture
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = picture[top : top + side, left : left + side, ::-1]
        pictures.append(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR))
    return np.stack(pictures).astype(np.uint8)


def images(samples: Samples, meta: Meta, normalised: bool, threads: int | None = None) -> NDArray[Any]:
    """The samples' crops, as an artefact takes them: (n, S, S, 3) uint8, or (n, 3, S, S) float32 that are normalised."""
    preprocessing = meta.preprocessing if normalised else RAW
    ranks = Ranks(0, 1, 1, pick_device("cpu"))
    loader = open_loader(samples, meta.input_size, min(16, len(samples)), preprocessing, ranks, threads=threads)
    read = as_floats if normalised else as_bytes
    return np.concatenate([read(batch.images)[~batch.stand_in] for batch in loader.epoch(0)])


def spread(samples: Samples, count: int) -> Samples:
    """`count` samples, or all where there are no more, evenly from the first to the last."""
    return samples.take(np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)))
