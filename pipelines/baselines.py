"""Two guesses that no network should lose to: the mean pose, and the pose of the most similar training picture.

Poses are compared in the crop's own frame, so that a guess fits a picture of any size. What may enter: predictors that
learn nothing but look-ups.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.draw import read_image
from hgfast.geometry import move, square_matrices
from pipelines.samples import Samples

THUMBNAIL = 16  # pixels, the side of the compared thumbnails


def mean_pose(train: Samples, held_out: Samples) -> NDArray[np.float64]:
    """The mean of the labelled training keypoints, for every held-out sample: (N, K, 2) source pixels."""
    poses = move(train.keypoints, _unit_from_source(train))
    weights = train.labelled[..., None]
    mean = (poses * weights).sum(0) / np.maximum(weights.sum(0), 1)
    return move(np.broadcast_to(mean, (len(held_out), *mean.shape)), np.linalg.inv(_unit_from_source(held_out)))


def nearest_thumbnail(train: Samples, held_out: Samples, chunk: int = 256) -> NDArray[np.float64]:
    """The pose of the training sample whose 16 x 16 RGB crop is nearest (squared difference): (N, K, 2) source pixels."""
    known, asked = thumbnails(train), thumbnails(held_out)
    squares = (known**2).sum(1)
    nearest = np.concatenate([(squares - 2 * asked[i : i + chunk] @ known.T).argmin(1) for i in range(0, len(asked), chunk)])
    poses = move(train.keypoints[nearest], _unit_from_source(train)[nearest])
    return move(poses, np.linalg.inv(_unit_from_source(held_out)))


def thumbnails(samples: Samples) -> NDArray[np.float32]:
    """Every sample's crop, averaged down to 16 x 16 RGB: (N, 768) float32."""

    def one(row: int) -> NDArray[np.float32]:
        (x, y), half = samples.centre[row], samples.side[row] / 2
        image = read_image(samples.paths[row])
        left, top, right, bottom = (round(v) for v in (x - half, y - half, x + half, y + half))
        crop = image[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
        return cv2.resize(crop, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()

    with ThreadPoolExecutor() as pool:
        rows = tqdm(pool.map(one, range(len(samples))), total=len(samples), desc="thumbnails", disable=None, leave=False)
        return np.stack(list(rows))


def _unit_from_source(samples: Samples) -> NDArray[np.float64]:
    return square_matrices(samples.centre, samples.side, 1)
