"""The user's own pictures to look at a network with, through the same loader as in training.

What may enter: where crops (n, S, S, 3) uint8 RGB come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.checkpoints import Meta
from hgfast.distributed import Ranks, pick_device
from hgfast.preprocessing import RAW, as_bytes, as_floats
from pipelines.datasets import open_loader
from pipelines.samples import Samples


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
