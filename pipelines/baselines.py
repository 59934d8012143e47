"""Two baselines that every network should beat: the mean pose, and the pose of the most similar training image.

Poses are compared in the crop's frame, so that a prediction fits an image of any size.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.errors import HgfastError
from hgfast.geometry import crop_matrices, transform_points, warp
from hgfast.pipelines.samples import Samples
from hgfast.visualization.draw import read_image

UNREADABLE = 1e4  # a gray level far from all others
THUMBNAIL = 16  # pixels, the side of the compared thumbnails


def mean_pose(train: Samples, samples: Samples) -> NDArray[np.float64]:
    """Predict the mean of the labeled training keypoints for every evaluation sample: (N, K, 2) source pixels."""
    mean = _mean_keypoints(train)
    return transform_points(np.broadcast_to(mean, (len(samples), *mean.shape)), np.linalg.inv(_unit_from_source(samples)))


def nearest_thumbnail(train: Samples, samples: Samples, chunk: int = 256) -> NDArray[np.float64]:
    """Predict the pose of the training sample whose 16 x 16 RGB crop is nearest (squared difference): (N, K, 2) source pixels.

    Joints that it lacks are those of the mean pose.
    """
    train_thumbnails, queries = thumbnails(train), thumbnails(samples)
    squared_norms = (train_thumbnails**2).sum(1)
    nearest = np.concatenate(
        [(squared_norms - 2 * queries[i : i + chunk] @ train_thumbnails.T).argmin(1) for i in range(0, len(queries), chunk)]
    )
    poses = transform_points(train.keypoints[nearest], _unit_from_source(train)[nearest])
    poses = np.where(train.labeled[nearest][..., None], poses, _mean_keypoints(train))
    return transform_points(poses, np.linalg.inv(_unit_from_source(samples)))


def thumbnails(samples: Samples) -> NDArray[np.float32]:
    """Return every sample's crop, averaged down to 16 x 16 RGB: (N, 768) float32; `UNREADABLE` if the image cannot be read."""
    matrices = crop_matrices(samples.center, samples.side, THUMBNAIL)

    def read_thumbnail(row: int) -> NDArray[np.float32]:
        try:
            image = read_image(samples.paths[row])
        except HgfastError:  # the loader reports it; no thumbnail is near to it
            return np.full(THUMBNAIL * THUMBNAIL * 3, UNREADABLE, np.float32)
        return warp(image, matrices[row], THUMBNAIL).astype(np.float32).ravel()

    with ThreadPoolExecutor() as pool:
        rows = tqdm(
            pool.map(read_thumbnail, range(len(samples))), total=len(samples), desc="thumbnails", disable=None, leave=False
        )
        return np.stack(list(rows))


def _mean_keypoints(samples: Samples) -> NDArray[np.float64]:
    """Return the mean (K, 2) of the labeled keypoints in the crop's frame."""
    weights = samples.labeled[..., None]
    return (transform_points(samples.keypoints, _unit_from_source(samples)) * weights).sum(0) / np.maximum(weights.sum(0), 1)


def _unit_from_source(samples: Samples) -> NDArray[np.float64]:
    return crop_matrices(samples.center, samples.side, 1)
