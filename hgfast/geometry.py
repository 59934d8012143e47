"""The one coordinate convention, and the matrices that move points and pictures.

Continuous coordinates: x right, y down, (0, 0) at the outer corner of the first pixel, so pixel column c has its centre
at c + 0.5 and a picture spans [0, W] x [0, H]. A matrix named `a_from_b` maps b's points to a's. Points are (..., 2) as x, y.
What may enter: numpy geometry that knows no data set and no network.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def square_matrices(
    centre: ArrayLike,
    side: ArrayLike,
    size: int,
    *,
    rotation: ArrayLike = 0.0,
    flip: ArrayLike = False,
) -> Array:
    """The map of one square of each source picture to a size x size network input.

    Args:
        centre: (N, 2) the square's centre, source pixels.
        side: (N,) the square's side, source pixels.
        size: side of the input, pixels.
        rotation: (N,) or scalar, radians; positive turns the content clockwise as seen (y points down).
        flip: (N,) or scalar bool, mirror left and right after the rotation.

    Returns:
        (N, 3, 3) float64 `input_from_source`.
    """
    centre = np.asarray(centre, np.float64)
    zoom = size / np.asarray(side, np.float64)
    count = len(centre)
    angle = np.broadcast_to(np.asarray(rotation, np.float64), count)
    mirror = np.where(np.broadcast_to(np.asarray(flip, bool), count), -1.0, 1.0)
    matrices = np.zeros((count, 3, 3))
    matrices[:, 0, 0] = mirror * zoom * np.cos(angle)
    matrices[:, 0, 1] = -mirror * zoom * np.sin(angle)
    matrices[:, 1, 0] = zoom * np.sin(angle)
    matrices[:, 1, 1] = zoom * np.cos(angle)
    matrices[:, :2, 2] = size / 2 - np.einsum("nij,nj->ni", matrices[:, :2, :2], centre)
    matrices[:, 2, 2] = 1
    return matrices


def move(points: ArrayLike, matrices: ArrayLike) -> Array:
    """Points (N, K, 2) through affine matrices (N, 3, 3); returns (N, K, 2) float64."""
    m = np.asarray(matrices, np.float64)
    return np.asarray(points, np.float64) @ m[:, :2, :2].transpose(0, 2, 1) + m[:, None, :2, 2]


def opencv_matrix(matrix: ArrayLike) -> Array:
    """A (3, 3) matrix of corner coordinates as OpenCV's warps want it: (0, 0) is there the centre of the first pixel."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.linalg.inv(half) @ np.asarray(matrix, np.float64) @ half


def warp(image: NDArray[np.uint8], input_from_source: ArrayLike, size: int) -> NDArray[np.uint8]:
    """One bilinear warp of an (H, W, C) picture to (size, size, C), black outside, by OpenCV."""
    m = opencv_matrix(input_from_source)[:2]
    return np.asarray(cv2.warpAffine(image, m, (size, size), flags=cv2.INTER_LINEAR), np.uint8)
