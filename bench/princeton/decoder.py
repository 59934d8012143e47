"""Heatmap decoder of princeton-vl/pytorch_stacked_hourglass, re-implemented as a baseline: one sample and one joint at a time.

Do not optimize this code.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import max_pool2d


def parse(heatmaps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Decode heatmaps (N, K, H, W) to (N, K, 3): x, y in heatmap coordinates (origin at the corner) and the value of the peak.

    The peak is the largest cell after 3 x 3 non-maximum suppression. It is moved a quarter of a cell towards the higher neighbor,
    and in the negative direction if both are equal. A joint whose peak is not above zero is not moved.
    """
    return np.stack([_decode_one(sample) for sample in heatmaps])


def _decode_one(heatmaps: NDArray[np.float32]) -> NDArray[np.float64]:
    width = heatmaps.shape[-1]
    batch = torch.from_numpy(heatmaps)[None]
    peaks = batch * torch.eq(max_pool2d(batch, 3, 1, 1), batch).float()
    values, indices = peaks.flatten(2).topk(1, dim=2)
    keypoints = np.concatenate([(indices % width).numpy(), (indices // width).numpy(), values.numpy()], 2)[0].astype(np.float64)
    for joint, (x, y, value) in enumerate(keypoints):
        if value > 0:
            column, row, heatmap = int(x), int(y), heatmaps[joint]
            x += 0.25 if heatmap[row, min(column + 1, width - 1)] > heatmap[row, max(column - 1, 0)] else -0.25
            y += 0.25 if heatmap[min(row + 1, len(heatmap) - 1), column] > heatmap[max(row - 1, 0), column] else -0.25
        keypoints[joint, :2] = x + 0.5, y + 0.5
    return keypoints
