"""The batch that every loader yields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's n samples of a global batch of `global_batch_size` samples.

    On the device: images (n, 3, S, S), normalized, channels_last, in float32 or, for a network that is compiled on a GPU, in its
    precision; keypoints (n, K, 2) float32, input pixels; labeled
    (n, K) bool. On the host: index (n,) rows of Samples; is_replacement (n,) bool, true where that row replaces a sample whose
    image cannot be read; input_from_source (n, 3, 3) float64.
    """

    images: Tensor
    keypoints: Tensor
    labeled: Tensor
    index: NDArray[np.int64]
    is_replacement: NDArray[np.bool_]
    input_from_source: NDArray[np.float64]
    global_batch_size: int
