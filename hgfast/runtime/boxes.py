"""Boxes around people or hands, and the square crops that the network sees, in source pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray, crop_matrices, warp

MAX_BOX_SCALE = 100
"""Maximum size of a padded box relative to the image. A larger one is a mistake and would give a black crop."""


def crop_squares(image: NDArray[np.uint8], boxes: ArrayLike | None = None, padding: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Return the square crops: center (P, 2) and side (P,) in source pixels.

    Args:
        image: (H, W, 3).
        boxes: (P, 4) as x, y, width, height; None: one box, the whole image.
        padding: side of the square divided by the longer side of its box; a whole image is not padded.

    Raises:
        HgfastError: the boxes have another shape, or a box has no area, is far too large or lies outside the image.
    """
    height, width = image.shape[:2]
    if boxes is None:
        return np.array([[width / 2, height / 2]]), np.array([float(max(width, height))])
    box_array = as_box_array(boxes)
    check_boxes(box_array)
    for x, y, w, h in box_array:
        box = ",".join(f"{value:g}" for value in (x, y, w, h))
        if max(w, h) * padding > MAX_BOX_SCALE * max(width, height):
            raise HgfastError(
                f"the box {box} is more than {MAX_BOX_SCALE} times as large as the image of {width} x {height} pixels"
            )
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise HgfastError(f"the box {box} lies outside the image of {width} x {height} pixels")
    return box_array[:, :2] + box_array[:, 2:] / 2, box_array[:, 2:].max(1) * padding


def as_box_array(boxes: ArrayLike) -> FloatArray:
    """Convert one box or rows of boxes to (P, 4). Raises `HgfastError` for anything else."""
    try:
        box_array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        box_array = np.empty((0, 0))
    if box_array.shape in ((4,), (0,)):
        box_array = box_array.reshape(-1, 4)
    if box_array.ndim != 2 or box_array.shape[1] != 4:
        raise HgfastError(f"boxes must be rows of x, y, width and height in pixels, not {str(boxes)[:60]}")
    return box_array


def check_boxes(boxes: FloatArray) -> None:
    """Raise `HgfastError` for the first box of (P, 4) that is not finite or has no area."""
    for box in boxes:
        text = ",".join(f"{value:g}" for value in box)
        if not np.isfinite(box).all():
            raise HgfastError(f"the box {text} is not finite: give x,y,width,height in pixels")
        if box[2] <= 0 or box[3] <= 0:
            raise HgfastError(f"the box {text} has no area: give x,y,width,height in pixels")


def crop_image(image: NDArray[np.uint8], center: FloatArray, side: FloatArray, size: int) -> tuple[NDArray[np.uint8], FloatArray]:
    """Return the crops (P, size, size, 3) of squares with center (P, 2) and side (P,), and their input_from_source matrices."""
    matrices = crop_matrices(center, side, size)
    crops = [warp(image, matrix, size) for matrix in matrices]
    return np.stack(crops) if crops else np.empty((0, size, size, 3), np.uint8), matrices


def squares_to_boxes(center: FloatArray, side: FloatArray) -> FloatArray:
    """Convert squares with center (P, 2) and side (P,) to (P, 4) x, y, width, height."""
    return np.column_stack([center - side[:, None] / 2, side, side])
