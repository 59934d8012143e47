"""Pictures for people: skeletons drawn on photographs, and sheets of many of them.

Pictures are (H, W, 3) uint8 RGB; points are in their pixels, corner convention. What may enter: drawing with OpenCV.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.picture_size import FILE_BYTES, check_size
from hgfast.skeletons import Skeleton

Image = NDArray[np.uint8]
_SHIFT = 4  # OpenCV's fixed-point bits: points are drawn to a sixteenth of a pixel


def read_image(path: str | Path) -> Image:
    """A picture of any kind OpenCV reads, as it is meant to be seen: turned as its EXIF orientation says, 8 bits a channel,
    RGB, without transparency.

    Raises:
        HgfastError: a file that is missing, no such picture, or one that claims more pixels than `picture_size.PIXELS`; it
            names the file.
    """
    data = content_of(path)
    check_size(data.data, path)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if image is None and len(data):  # floating point, which OpenCV does not bring to 8 bits itself
            check_size(data.data, path, floating=True)
            image = _to_bytes(cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))
    except cv2.error as error:
        raise HgfastError(f"{path} cannot be decoded ({' '.join(str(error).split())[:200]})") from error
    if image is None:
        raise HgfastError(f"{path} is not a picture that OpenCV can read: replace it or leave it out")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def content_of(path: str | Path) -> Image:
    """The bytes (n,) of a picture's file. Raises `HgfastError` where there is none; a pipe's or a device's might never end."""
    try:
        status = os.stat(path)  # noqa: PTH116  # paths of 100 000 pictures stay text
        if stat.S_ISDIR(status.st_mode):
            raise HgfastError(f"{path} is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise HgfastError(f"{path} is a device or a pipe, not a picture")
        if status.st_size > FILE_BYTES:
            raise HgfastError(f"{path} has {status.st_size / 1e9:.1f} GB, more than any picture: replace it or leave it out")
        return np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise HgfastError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _to_bytes(image: NDArray[Any] | None) -> Image | None:
    """A picture in floating point, from 0 to 1, to 255 or to whatever its brightest is, as 8 bits."""
    if image is None:
        return None
    with np.errstate(over="ignore"):
        values = np.nan_to_num(image.astype(np.float32, copy=False), copy=False)
    most = float(values.max())
    white = 1.0 if most <= 1 else max(255.0, most)
    values *= 255 / white
    return np.rint(np.clip(values, 0, 255, out=values), out=values).astype(np.uint8)


def write_image(path: Path, image: Image) -> None:
    """Write RGB by the ending of the name, making its folder. Raises `HgfastError` where that fails."""
    try:
        encoded = cv2.imencode(path.suffix, np.ascontiguousarray(image[..., ::-1]))[1] if path.suffix else None
    except cv2.error:
        encoded = None
    if encoded is None or not len(encoded):
        size = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise HgfastError(f"cannot write the picture {path}: no such format, or {size} are too many for it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise HgfastError(f"cannot write the picture {path} ({error.strerror}): choose another folder") from error


def draw_skeleton(image: Image, points: ArrayLike, skeleton: Skeleton, shown: ArrayLike | None = None) -> Image:
    """A copy of `image` with the edges between `points` (K, 2) drawn; `shown` (K,) bool leaves joints out."""
    canvas = image.copy()
    points = np.asarray(points, np.float64)
    visible = np.isfinite(points).all(1) & (np.ones(len(points), bool) if shown is None else np.asarray(shown, bool))
    far = max(image.shape[:2])  # beyond which OpenCV's whole numbers need not reach
    fixed = np.round((np.clip(np.nan_to_num(points), -far, 2 * far) - 0.5) * 2**_SHIFT).astype(int)
    extent = np.ptp(points[visible], axis=0).max() if visible.any() else 0.0
    thick = max(1, round(min(extent, max(image.shape[:2])) / 80))
    for (a, b), colour in zip(skeleton.edges, skeleton.colours):
        if visible[a] and visible[b]:
            cv2.line(canvas, tuple(fixed[a]), tuple(fixed[b]), colour, thick, cv2.LINE_AA, _SHIFT)
    for point, seen in zip(fixed, visible):
        if seen:
            cv2.circle(canvas, tuple(point), round(thick * 0.9 * 2**_SHIFT), (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
    return canvas


def caption(image: Image, text: str) -> Image:
    """A copy of `image` with a line of white text on a dark band at its top."""
    canvas = image.copy()
    canvas[:18] = canvas[:18] // 3
    cv2.putText(canvas, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def sheet(tiles: Sequence[Image], columns: int) -> Image:
    """Tiles of equal size in rows of `columns`, black where the last row is not full."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        canvas[top : top + height, left : left + width] = tile
    return canvas


def glow(maps: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """A network's maps (K, h, w) of a kind of `hgfast.heatmaps.KINDS` as `overlay` wants them: each is 1 at its highest cell.

    What is no number is 0, and so is a map of "gaussian" without a value above 0.
    """
    maps = np.clip(np.nan_to_num(maps), -1e6, 1e6)
    highest = maps.max((-2, -1), keepdims=True)
    likely = np.exp(maps - highest) if kind == "logits" else maps / np.maximum(highest, 1e-6)
    return np.asarray(np.clip(likely, 0, 1), np.float32)


def overlay(image: Image, heat: NDArray[np.float32]) -> Image:
    """Heat (h, w) in [0, 1] over an (H, W, 3) picture: the hotter, the less of the picture is left."""
    height, width = image.shape[:2]
    full = cv2.resize(np.clip(heat, 0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * full).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    share = (0.8 * np.sqrt(full))[..., None]
    return np.asarray(image * (1 - share) + colours * share, np.uint8)
