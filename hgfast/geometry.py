"""The coordinate convention, and matrices that transform points and images.

Continuous coordinates: x right, y down, (0, 0) at the outer corner of the first pixel, so pixel column c has its center
at c + 0.5 and an image spans [0, W] x [0, H]. A matrix named `a_from_b` maps b's points to a's. Points are (..., 2) as x, y.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def crop_matrices(
    center: ArrayLike, side: ArrayLike, size: int | tuple[int, int], *, rotation: ArrayLike = 0.0, flip: ArrayLike = False
) -> FloatArray:
    """Return matrices that map one square of each source image to the network's input.

    Args:
        center: (N, 2) center of the square, source pixels.
        side: (N,) side of the square, source pixels.
        size: side of the input, pixels; or its (height, width), to which the square is stretched, as princeton-vl's `res`.
        rotation: (N,) or scalar, radians; positive rotates the content clockwise (y points down).
        flip: (N,) or scalar bool, mirror left and right after the rotation.

    Returns:
        (N, 3, 3) float64 `input_from_source`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    center, side = np.asarray(center, np.float64), np.asarray(side, np.float64)
    count = len(center)
    angle = np.broadcast_to(np.asarray(rotation, np.float64), count)
    mirror = np.where(np.broadcast_to(np.asarray(flip, bool), count), -1.0, 1.0)
    matrices = np.zeros((count, 3, 3))
    matrices[:, 0, 0] = mirror * width / side * np.cos(angle)
    matrices[:, 0, 1] = -mirror * height / side * np.sin(angle)
    matrices[:, 1, 0] = width / side * np.sin(angle)
    matrices[:, 1, 1] = height / side * np.cos(angle)
    matrices[:, :2, 2] = (width / 2, height / 2) - np.einsum("nij,nj->ni", matrices[:, :2, :2], center)
    matrices[:, 2, 2] = 1
    return matrices


def transform_points(points: ArrayLike, matrices: ArrayLike) -> FloatArray:
    """Apply affine matrices (N, 3, 3) to points (N, K, 2); returns (N, K, 2) float64."""
    matrix = np.asarray(matrices, np.float64)
    return np.asarray(points, np.float64) @ matrix[:, :2, :2].transpose(0, 2, 1) + matrix[:, None, :2, 2]


def to_opencv_matrix(matrix: ArrayLike) -> FloatArray:
    """Convert a (3, 3) matrix from corner coordinates to those of OpenCV's warps, where (0, 0) is the first pixel's center."""
    half_pixel = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.linalg.inv(half_pixel) @ np.asarray(matrix, np.float64) @ half_pixel


def warp(image: NDArray[np.uint8], input_from_source: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Warp an (H, W, C) image to (size, size, C), black outside: `crop_and_downscale`, then OpenCV's bilinear warp."""
    matrix = np.asarray(input_from_source, np.float64)
    low, high, ratio = (values[0] for values in crop_regions(matrix[None], size))
    part, source_from_part = crop_and_downscale(image, low, high, ratio)
    m = to_opencv_matrix(matrix @ source_from_part)[:2]
    return np.asarray(cv2.warpAffine(part, m, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


DOWNSCALE_BELOW = 0.75  # input pixels per source pixel; below it, bilinear interpolation alone would alias


def crop_regions(matrices: ArrayLike, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the source region of each input, and its downscaling ratio before the warp.

    Args:
        matrices: (N, 3, 3) `input_from_source`.
        size: side of the input, pixels.

    Returns:
        low, high: (N, 2) float32, corners x, y of the region's axis-aligned bounding box, source pixels, not clipped.
        ratio: (N,) float32, downscaled pixels per source pixel: the input's resolution, or 1 where downscaling does not pay.
    """
    matrix = np.asarray(matrices, np.float64)
    zoom = np.sqrt(np.abs(np.linalg.det(matrix[:, :2, :2])))
    ratio = downscale_ratio(zoom)
    corners = np.array([(0.0, 0.0), (size, 0.0), (0.0, size), (size, size)])
    source_corners = transform_points(np.broadcast_to(corners, (len(matrix), 4, 2)), np.linalg.inv(matrix))
    return source_corners.min(1).astype(np.float32), source_corners.max(1).astype(np.float32), ratio.astype(np.float32)


def downscale_ratio(zoom: ArrayLike) -> FloatArray:
    """Return the ratio (...,) of downscaling before a warp to `zoom` input pixels per source pixel; 1 where it does not pay."""
    zoom = np.asarray(zoom, np.float64)
    return np.where(zoom < DOWNSCALE_BELOW, zoom, 1.0)


def crop_and_downscale(
    image: NDArray[np.uint8], low: NDArray[np.float32], high: NDArray[np.float32], ratio: np.float32
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Cut one of `crop_regions` from an (H, W, C) image; returns the part and its matrix `source_from_part` (3, 3).

    The region is cut at whole pixels, so that pixels outside it have no effect. If `ratio` is below 1, the part is downscaled
    with a triangular filter (as in PIL and DALI) on a grid that starts at `low`, independent of the image's size.
    """
    limits = np.array([image.shape[1], image.shape[0]], np.float32)
    start = np.clip(np.floor(low), 0, limits - 1)
    end = np.clip(np.ceil(high), start + 1, limits)
    (left, top), (right, bottom) = start.astype(int), end.astype(int)
    part = image[top:bottom, left:right]
    if ratio == 1:
        return part, np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float64)
    first = np.floor((start - low) * ratio + EPSILON)
    first = np.where(low < end, np.maximum(0, first), first)  # an image outside the region stays outside
    last = np.ceil((np.minimum(high, end) - low) * ratio - EPSILON)
    count = np.maximum(1, last - first)
    begin = low + first / ratio
    column_weights, row_weights = (
        _triangle_weights(n, b, r, c) for n, b, r, c in zip(end - start, begin - start, (ratio, ratio), count)
    )
    transposed = _apply_weights(row_weights, part.astype(np.float32)).transpose(1, 0, 2)
    downscaled = _apply_weights(column_weights, transposed).transpose(1, 0, 2)
    source_from_part = np.array([[1 / ratio, 0, begin[0]], [0, 1 / ratio, begin[1]], [0, 0, 1]], np.float64)
    return np.rint(downscaled, order="C").astype(np.uint8), source_from_part


EPSILON = np.float32(1e-2)  # downscaled pixels: a narrower remainder at a region's end is a rounding error


def _triangle_weights(pixels: np.float32, begin: np.float32, ratio: np.float32, count: np.float32) -> NDArray[np.float32]:
    """Return the weights (count, pixels) of source pixels in downscaled pixels that start at `begin`; the border is repeated."""
    support = 1 / ratio
    centers = begin + (np.arange(count) + 0.5) * support
    border = int(np.ceil(max(support - centers[0], centers[-1] + support - pixels, 0)))
    cells = np.arange(-border, pixels + border) + 0.5
    weights = np.maximum(0, 1 - np.abs(cells - centers[:, None]) / support)
    weights /= weights.sum(1, keepdims=True)
    inside = weights[:, border : len(cells) - border]
    inside[:, 0] += weights[:, :border].sum(1)
    inside[:, -1] += weights[:, len(cells) - border :].sum(1)
    return inside.astype(np.float32)


def _apply_weights(weights: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply banded `weights` (count, n) with rows (n, m, C) in blocks that skip most zeros; returns (count, m, C)."""
    flat = rows.reshape(len(rows), -1)
    out = np.empty((len(weights), flat.shape[1]), np.float32)
    for block in (slice(start, start + ROW_BLOCK) for start in range(0, len(weights), ROW_BLOCK)):
        (nonzero,) = np.nonzero(weights[block].any(0))
        band = slice(nonzero[0], nonzero[-1] + 1)
        np.matmul(weights[block, band], flat[band], out=out[block])
    return out.reshape(len(weights), *rows.shape[1:])


ROW_BLOCK = 16  # rows in a block: fewer rows need more calls, more rows multiply more zeros
