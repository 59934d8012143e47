"""Boxes around people and hands, and the squares that a network looks at.

What may enter: numpy geometry of boxes in source pixels. No torch: applications use it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError

Array = NDArray[np.float64]
LARGEST = 100
"""How many times larger than the picture a box may be: more is a slip, and would be all black."""


def squares(image: NDArray[np.uint8], boxes: ArrayLike | None = None, padding: float = 1.0) -> tuple[Array, Array]:
    """The squares to look at: centre (P, 2) and side (P,) in source pixels.

    Args:
        image: (H, W, 3).
        boxes: (P, 4) as x, y, width, height; None is one box, the whole picture.
        padding: the square's side over the longer side of its box; a whole picture is not padded.

    Raises:
        HgfastError: what is no table of boxes, a box without area, or outside the picture.
    """
    height, width = image.shape[:2]
    if boxes is None:
        return np.array([[width / 2, height / 2]]), np.array([float(max(width, height))])
    table = as_table(boxes)
    check_boxes(table)
    for x, y, w, h in table:
        box = ",".join(f"{value:g}" for value in (x, y, w, h))
        if max(w, h) * padding > LARGEST * max(width, height):
            raise HgfastError(f"the box {box} is more than {LARGEST} times as large as the picture of {width} x {height} pixels")
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise HgfastError(f"the box {box} lies outside the picture of {width} x {height} pixels")
    return table[:, :2] + table[:, 2:] / 2, table[:, 2:].max(1) * padding


def as_table(boxes: ArrayLike) -> Array:
    """One box or rows of them as (P, 4). Raises `HgfastError` for anything else."""
    try:
        table = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        table = np.empty((0, 0))
    if table.shape in ((4,), (0,)):
        table = table.reshape(-1, 4)
    if table.ndim != 2 or table.shape[1] != 4:
        raise HgfastError(f"boxes must be rows of x, y, width and height in pixels, not {str(boxes)[:60]}")
    return table


def check_boxes(boxes: Array) -> None:
    """Raises `HgfastError` for the first of (P, 4) that is not finite or has no area."""
    for box in boxes:
        words = ",".join(f"{value:g}" for value in box)
        if not np.isfinite(box).all():
            raise HgfastError(f"the box {words} is not finite: give x,y,width,height in pixels")
        if box[2] <= 0 or box[3] <= 0:
            raise HgfastError(f"the box {words} has no area: give x,y,width,height in pixels")


def as_boxes(centre: Array, side: Array) -> Array:
    """Squares by centre (P, 2) and side (P,) as (P, 4) x, y, width, height."""
    return np.column_stack([centre - side[:, None] / 2, side, side])
