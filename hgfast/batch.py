"""What every loader yields.

What may enter: what loaders and the network must agree on, and nothing that makes or uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's share of a batch of `total` samples, on the device.

    images: (n, 3, S, S) float32, normalised, channels_last. keypoints: (n, K, 2) float32 input pixels.
    labelled: (n, K) bool. On the host: index (n,) rows of Samples; stand_in (n,) bool, true where that row takes the place of
    one whose picture cannot be read; input_from_source (n, 3, 3) float64.
    """

    images: Tensor
    keypoints: Tensor
    labelled: Tensor
    index: NDArray[np.int64]
    stand_in: NDArray[np.bool_]
    input_from_source: NDArray[np.float64]
    total: int
