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
    size: int | tuple[int, int],
    *,
    rotation: ArrayLike = 0.0,
    flip: ArrayLike = False,
) -> Array:
    """The map of one square of each source picture to the network's input.

    Args:
        centre: (N, 2) the square's centre, source pixels.
        side: (N,) the square's side, source pixels.
        size: side of the input, pixels; or its (height, width), to which the square is stretched, as the seed's `res` has it.
        rotation: (N,) or scalar, radians; positive turns the content clockwise as seen (y points down).
        flip: (N,) or scalar bool, mirror left and right after the rotation.

    Returns:
        (N, 3, 3) float64 `input_from_source`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    centre, side = np.asarray(centre, np.float64), np.asarray(side, np.float64)
    count = len(centre)
    angle = np.broadcast_to(np.asarray(rotation, np.float64), count)
    mirror = np.where(np.broadcast_to(np.asarray(flip, bool), count), -1.0, 1.0)
    matrices = np.zeros((count, 3, 3))
    matrices[:, 0, 0] = mirror * width / side * np.cos(angle)
    matrices[:, 0, 1] = -mirror * height / side * np.sin(angle)
    matrices[:, 1, 0] = width / side * np.sin(angle)
    matrices[:, 1, 1] = height / side * np.cos(angle)
    matrices[:, :2, 2] = (width / 2, height / 2) - np.einsum("nij,nj->ni", matrices[:, :2, :2], centre)
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
    """An (H, W, C) picture through a matrix to (size, size, C), black outside: `cut_and_shrink`, then one bilinear warp by
    OpenCV."""
    matrix = np.asarray(input_from_source, np.float64)
    low, high, ratio = (values[0] for values in regions(matrix[None], size))
    part, source_from_part = cut_and_shrink(image, low, high, ratio)
    m = opencv_matrix(matrix @ source_from_part)[:2]
    return np.asarray(cv2.warpAffine(part, m, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


SHRINK_BELOW = 0.75  # input pixels a source pixel; from there on bilinear interpolation alone would skip too much


def regions(matrices: ArrayLike, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """What each input shows of its source, and by how much that is shrunk before the warp.

    Args:
        matrices: (N, 3, 3) `input_from_source`.
        size: side of the input, pixels.

    Returns:
        low, high: (N, 2) float32, the corners x, y of the smallest upright box around it, source pixels, not clipped.
        ratio: (N,) float32 of shrunk pixels to source pixels: the input's resolution, or 1 where it is not worth the work.
    """
    m = np.asarray(matrices, np.float64)
    zoom = np.sqrt(np.abs(np.linalg.det(m[:, :2, :2])))
    ratio = shrink_ratio(zoom)
    corners = np.array([(0.0, 0.0), (size, 0.0), (0.0, size), (size, size)])
    seen = move(np.broadcast_to(corners, (len(m), 4, 2)), np.linalg.inv(m))
    return seen.min(1).astype(np.float32), seen.max(1).astype(np.float32), ratio.astype(np.float32)


def shrink_ratio(zoom: ArrayLike) -> Array:
    """By how much to shrink (...,) before a warp with this many input pixels a source pixel: 1 where it is not worth the work."""
    zoom = np.asarray(zoom, np.float64)
    return np.where(zoom < SHRINK_BELOW, zoom, 1.0)


def cut_and_shrink(
    image: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32], ratio: np.float32
) -> tuple[NDArray[np.uint8], Array]:
    """One of `regions` of an (H, W, C) picture, and the matrix `source_from_part` (3, 3).

    It is cut at whole pixels, so that nothing outside the region matters, and where `ratio` is below 1 shrunk with a
    triangular filter (as PIL and DALI have it) on a grid that begins at `low`, whatever the picture's size.
    """
    limits = np.array([image.shape[1], image.shape[0]], np.float32)
    start = np.clip(np.floor(low), 0, limits - 1)
    end = np.clip(np.ceil(high), start + 1, limits)
    (left, top), (right, bottom) = start.astype(int), end.astype(int)
    part = image[top:bottom, left:right]
    if ratio == 1:
        return part, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float64)
    first = np.floor((start - low) * ratio + GRAIN)
    first = np.where(low < end, np.maximum(0, first), first)  # a picture beside the region stays beside it
    last = np.ceil((np.minimum(high, end) - low) * ratio - GRAIN)
    count = np.maximum(1, last - first)
    begin = low + first / ratio
    across, down = (_triangles(n, b, r, c) for n, b, r, c in zip(end - start, begin - start, (ratio, ratio), count))
    turned = _weigh(down, part.astype(np.float32)).transpose(1, 0, 2)
    shrunk = _weigh(across, turned).transpose(1, 0, 2)
    moved = np.array([[1 / ratio, 0, begin[0]], [0, 1 / ratio, begin[1]], [0, 0, 1]], np.float64)
    return np.rint(shrunk, order="C").astype(np.uint8), moved


GRAIN = np.float32(1e-2)  # shrunk pixels: a sliver narrower than this at a region's end is rounding


def _triangles(pixels: np.float32, begin: np.float32, ratio: np.float32, count: np.float32) -> NDArray[np.float32]:
    """The weights (count, pixels) of pixels that cover [0, pixels] for shrunk ones from `begin` on; the border is repeated."""
    support = 1 / ratio
    centres = begin + (np.arange(count) + 0.5) * support
    reach = int(np.ceil(max(support - centres[0], centres[-1] + support - pixels, 0)))
    cells = np.arange(-reach, pixels + reach) + 0.5
    weights = np.maximum(0, 1 - np.abs(cells - centres[:, None]) / support)
    weights /= weights.sum(1, keepdims=True)
    inside = weights[:, reach : len(cells) - reach]
    inside[:, 0] += weights[:, :reach].sum(1)
    inside[:, -1] += weights[:, len(cells) - reach :].sum(1)
    return inside.astype(np.float32)


def _weigh(weights: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """`weights` (count, n) times rows (n, m, C), several at a time and without most of the zeros: (count, m, C)."""
    flat = rows.reshape(len(rows), -1)
    out = np.empty((len(weights), flat.shape[1]), np.float32)
    for some in (slice(start, start + BLOCK) for start in range(0, len(weights), BLOCK)):
        (used,) = np.nonzero(weights[some].any(0))
        band = slice(used[0], used[-1] + 1)
        np.matmul(weights[some, band], flat[band], out=out[some])
    return out.reshape(len(weights), *rows.shape[1:])


BLOCK = 16  # rows that are weighed together: fewer cost calls, more multiply by zeros
