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
    """An (H, W, C) picture through a matrix to (size, size, C), black outside: `shrink` where need be, then one bilinear
    warp by OpenCV."""
    matrix = np.asarray(input_from_source, np.float64)
    low, high, ratio = (values[0] for values in regions(matrix[None], size))
    if ratio < 1:
        image, source_from_small = shrink(image, low, high, ratio)
        matrix = matrix @ source_from_small
    m = opencv_matrix(matrix)[:2]
    return np.asarray(cv2.warpAffine(image, m, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


SHRINK_BELOW = 0.75  # input pixels a source pixel; from there on bilinear interpolation alone would skip too much


def regions(matrices: ArrayLike, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What each input shows of its source, and by how much that is shrunk before the warp.

    Args:
        matrices: (N, 3, 3) `input_from_source`.
        size: side of the input, pixels.

    Returns:
        low, high: (N, 2) float32, whole source pixels x, y of a box with some margin, not clipped to the picture.
        ratio: (N,) float32 of shrunk pixels to source pixels: the input's resolution, or 1 where it is not worth the work.
    """
    m = np.asarray(matrices, np.float64)
    zoom = np.sqrt(np.abs(np.linalg.det(m[:, :2, :2])))
    ratio = np.where(zoom < SHRINK_BELOW, zoom, 1.0)
    corners = np.array([(0.0, 0.0), (size, 0.0), (0.0, size), (size, size)])
    seen = move(np.broadcast_to(corners, (len(m), 4, 2)), np.linalg.inv(m))
    margin = np.ceil(2 / ratio)[:, None]
    low, high = np.floor(seen.min(1)) - margin, np.ceil(seen.max(1)) + margin
    return low.astype(np.float32), high.astype(np.float32), ratio.astype(np.float32)


def shrink(
    image: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32], ratio: np.float32
) -> tuple[NDArray[np.uint8], Array]:
    """One of `regions` of an (H, W, C) picture, shrunk with a triangular filter (as PIL and DALI do it), and the matrix
    `source_from_small` (3, 3)."""
    limits = np.array([image.shape[1], image.shape[0]], np.float32)
    low = np.clip(low, 0, limits - 1)
    high = np.clip(high, low + 1, limits)
    small = np.maximum(1, np.floor((high - low) * ratio + np.float32(0.5))).astype(int)
    zoom = (high - low).astype(np.float64) / small
    across, left = _triangles(image.shape[1], low[0], zoom[0], small[0])
    down, top = _triangles(image.shape[0], low[1], zoom[1], small[1])
    part = image[top : top + down.shape[1], left : left + across.shape[1]].astype(np.float32)
    columns = down @ part.reshape(len(part), -1)
    rows = across @ columns.reshape(small[1], -1, image.shape[2])
    moved = np.array([[zoom[0], 0, low[0]], [0, zoom[1], low[1]], [0, 0, 1]])
    return np.rint(rows).astype(np.uint8), moved


def _triangles(count: int, low: float, zoom: float, small: int) -> tuple[NDArray[np.float32], int]:
    """The weights (small, n) of n source pixels from the returned one on; pixels beyond the picture repeat its border."""
    support = max(zoom, 1.0)
    centres = low + (np.arange(small) + 0.5) * zoom
    first, last = int(np.floor(centres[0] - support)), int(np.ceil(centres[-1] + support))
    cells = np.arange(first, last)
    weights = np.maximum(0, 1 - np.abs(cells + 0.5 - centres[:, None]) / support)
    weights /= weights.sum(1, keepdims=True)
    start, end = max(first, 0), min(last, count)
    inside = weights[:, start - first : end - first]
    inside[:, 0] += weights[:, : start - first].sum(1)
    inside[:, -1] += weights[:, end - first :].sum(1)
    return inside.astype(np.float32), start
