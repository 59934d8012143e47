"""The user's own pictures to look at a network with, through the same loader as in training.

What may enter: where crops (n, S, S, 3) uint8 RGB come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.distributed import Ranks, pick_device
from hgfast.preprocessing import RAW, Preprocessing, as_bytes, as_floats
from pipelines.datasets import open_loader
from pipelines.samples import Samples


def images(samples: Samples, size: int, preprocessing: Preprocessing | None = None, threads: int | None = None) -> NDArray[Any]:
    """The samples' crops, as an artefact takes them: (n, S, S, 3) uint8, or, normalised, (n, 3, S, S) float32."""
    ranks = Ranks(0, 1, 1, pick_device("cpu"))
    loader = open_loader(samples, size, min(16, len(samples)), preprocessing or RAW, ranks, threads=threads)
    read = as_bytes if preprocessing is None else as_floats
    return np.concatenate([read(batch.images)[~batch.stand_in] for batch in loader.epoch(0)])


def spread(samples: Samples, count: int) -> Samples:
    """`count` samples, or all where there are no more, evenly from the first to the last."""
    return samples.take(np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)))
