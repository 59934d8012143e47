"""Two guesses that no network should lose to: the mean pose, and the pose of the most similar training picture.

Poses are compared in the crop's own frame, so that a guess fits a picture of any size. What may enter: predictors that
learn nothing but look-ups.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.draw import read_image
from hgfast.errors import HgfastError
from hgfast.geometry import move, square_matrices, warp
from pipelines.samples import Samples

FAR = 1e4  # a grey level unlike any
THUMBNAIL = 16  # pixels, the side of the compared thumbnails


def mean_pose(train: Samples, held_out: Samples) -> NDArray[np.float64]:
    """The mean of the labelled training keypoints, for every held-out sample: (N, K, 2) source pixels."""
    mean = _mean(train)
    return move(np.broadcast_to(mean, (len(held_out), *mean.shape)), np.linalg.inv(_unit_from_source(held_out)))


def nearest_thumbnail(train: Samples, held_out: Samples, chunk: int = 256) -> NDArray[np.float64]:
    """The pose of the training sample whose 16 x 16 RGB crop is nearest (squared difference): (N, K, 2) source pixels.

    Joints that it lacks are the mean pose's.
    """
    known, asked = thumbnails(train), thumbnails(held_out)
    squares = (known**2).sum(1)
    nearest = np.concatenate([(squares - 2 * asked[i : i + chunk] @ known.T).argmin(1) for i in range(0, len(asked), chunk)])
    poses = move(train.keypoints[nearest], _unit_from_source(train)[nearest])
    poses = np.where(train.labelled[nearest][..., None], poses, _mean(train))
    return move(poses, np.linalg.inv(_unit_from_source(held_out)))


def thumbnails(samples: Samples) -> NDArray[np.float32]:
    """Every sample's crop, averaged down to 16 x 16 RGB: (N, 768) float32; `FAR` where the picture cannot be read."""
    matrices = square_matrices(samples.centre, samples.side, THUMBNAIL)

    def one(row: int) -> NDArray[np.float32]:
        try:
            image = read_image(samples.paths[row])
        except HgfastError:  # the loader has named it or will; nothing is near to it
            return np.full(THUMBNAIL * THUMBNAIL * 3, FAR, np.float32)
        return warp(image, matrices[row], THUMBNAIL).astype(np.float32).ravel()

    with ThreadPoolExecutor() as pool:
        rows = tqdm(pool.map(one, range(len(samples))), total=len(samples), desc="thumbnails", disable=None, leave=False)
        return np.stack(list(rows))


def _mean(samples: Samples) -> NDArray[np.float64]:
    """The mean (K, 2) of the labelled keypoints in the crop's frame."""
    weights = samples.labelled[..., None]
    return (move(samples.keypoints, _unit_from_source(samples)) * weights).sum(0) / np.maximum(weights.sum(0), 1)


def _unit_from_source(samples: Samples) -> NDArray[np.float64]:
    return square_matrices(samples.centre, samples.side, 1)
