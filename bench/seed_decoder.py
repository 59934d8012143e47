"""Keypoints from heatmaps in the manner of princeton-vl/pytorch_stacked_hourglass: a sample at a time, a joint at a time.

What may enter: that way of decoding, in all its costs; nothing that makes it faster.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import max_pool2d


def parse(heatmaps: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, K, H, W) maps -> (N, K, 3): x, y in cells from the first one's corner, and the peak's value.

    Cells that are not the highest of their 3 x 3 are put to zero, the best of the rest is taken, and moved a quarter of a cell
    towards its higher neighbour, back where they are equal; a joint whose peak is not above zero stays.
    """
    return np.stack([_parse_one(maps) for maps in heatmaps])


def _parse_one(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    width = maps.shape[-1]
    whole = torch.from_numpy(maps)[None]
    peaks = whole * torch.eq(max_pool2d(whole, 3, 1, 1), whole).float()
    values, places = peaks.flatten(2).topk(1, dim=2)
    found = np.concatenate([(places % width).numpy(), (places // width).numpy(), values.numpy()], 2)[0].astype(np.float64)
    for joint, (x, y, value) in enumerate(found):
        if value > 0:
            column, row, one = int(x), int(y), maps[joint]
            x += 0.25 if one[row, min(column + 1, width - 1)] > one[row, max(column - 1, 0)] else -0.25
            y += 0.25 if one[min(row + 1, len(one) - 1), column] > one[max(row - 1, 0), column] else -0.25
        found[joint, :2] = x + 0.5, y + 0.5
    return found
