"""Read and write images, draw skeletons, captions and heatmaps, and arrange images in a grid.

Images are (H, W, 3) uint8 RGB; points are in pixels of the image, corner convention.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError, one_line
from hgfast.fileio.files import write_bytes, writing
from hgfast.fileio.image_format import format_problem, image_kind, undecodable_reason
from hgfast.fileio.image_header import MAX_FILE_BYTES, MAX_PIXELS, check_image_size, too_large_message
from hgfast.skeletons import Skeleton

Image = NDArray[np.uint8]
_SUBPIXEL_BITS = 4  # OpenCV's fixed-point bits: positions are drawn with a resolution of 1/16 pixel


def read_image(path: str | Path) -> Image:
    """Read an image as RGB with 8 bits per channel, rotated by its EXIF orientation, without alpha: any format of OpenCV, AVIF if
    Pillow is installed, and HEIC if pi-heif is, too.

    Raises `HgfastError` if the file is missing, is not an image, declares too many pixels (`fileio.image_header`), or is one that
    readers see differently (`fileio.image_format`).
    """
    data = read_image_bytes(path)
    check_image_size(data.data, path)
    if problem := format_problem(data.data):
        raise HgfastError(f"{path} {problem}")
    if image_kind(data.data) in ("AVIF", "HEIC"):
        return _read_with_pillow(data, path)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
        if image is None and len(data):  # floating point, which OpenCV does not convert to 8 bits
            check_image_size(data.data, path, as_float=True)
            image = _float_to_uint8(cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))
    except cv2.error as error:
        raise HgfastError(f"{path} cannot be decoded ({one_line(error, 200)})") from error
    if image is None:
        raise HgfastError(f"{path} {undecodable_reason(data.data)}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image), np.uint8)


def _read_with_pillow(data: Image, path: str | Path) -> Image:
    """Decode an AVIF or HEIC image, whose rotation OpenCV ignores or which it cannot read."""
    kind = image_kind(data.data)
    try:
        from PIL import Image as PillowImage
        from PIL import ImageOps, UnidentifiedImageError

        if kind == "HEIC":
            import pi_heif

            pi_heif.register_heif_opener()
    except ImportError as error:
        raise HgfastError(f"{path} is an image in {kind}: pip install 'hgfast[images]' to read it, or save it as PNG") from error
    try:
        with PillowImage.open(io.BytesIO(data.tobytes())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise HgfastError(f"{path} {too_large_message(image.width, image.height)}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except UnidentifiedImageError as error:  # broken, or a Pillow without this format
        raise HgfastError(f"{path} is an image in {kind} that Pillow cannot read: save it as PNG") from error
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, PillowImage.DecompressionBombError) as error:
        raise HgfastError(f"{path} cannot be decoded ({one_line(error, 200)})") from error


def read_image_bytes(path: str | Path) -> Image:
    """Read the bytes (n,) of an image file. Raises `HgfastError` if it is not a regular file: pipes and devices may never end."""
    try:
        status = os.stat(path)  # noqa: PTH116  # avoids Path objects for 100 000 images
        if stat.S_ISDIR(status.st_mode):
            raise HgfastError(f"{path} is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise HgfastError(f"{path} is a device or a pipe, not an image")
        if status.st_size > MAX_FILE_BYTES:
            raise HgfastError(f"{path} has {status.st_size / 1e9:.1f} GB, too large for an image: replace it or leave it out")
        return np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: an invalid file name
        raise HgfastError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _float_to_uint8(image: NDArray[Any] | None) -> Image | None:
    """Convert a floating-point image to 8 bits. White is 1 if no value is larger, else the larger of 255 and the maximum."""
    if image is None:
        return None
    with np.errstate(over="ignore"):
        values = np.nan_to_num(image.astype(np.float32, copy=False), copy=False)
    peak = float(values.max())
    white_level = 1.0 if peak <= 1 else max(255.0, peak)
    values *= 255 / white_level
    return np.rint(np.clip(values, 0, 255, out=values), out=values).astype(np.uint8)


def write_image(path: Path, image: Image) -> None:
    """Write an RGB image in the format of the suffix and create its folder. Raises `HgfastError` if that fails."""
    try:
        encoded = cv2.imencode(path.suffix, np.ascontiguousarray(image[..., ::-1]))[1] if path.suffix else None
    except cv2.error:
        encoded = None
    if encoded is None or not len(encoded):
        size = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise HgfastError(f"cannot write the image {path}: the format is unknown, or does not support {size}")
    with writing(path, "choose another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, encoded.tobytes())


def draw_skeleton(image: Image, points: ArrayLike, skeleton: Skeleton, visible: ArrayLike | None = None) -> Image:
    """Return a copy of `image` with the skeleton at `points` (K, 2) drawn. visible: joints to draw, (K,) bool; None: all."""
    canvas = image.copy()
    points = np.asarray(points, np.float64)
    drawn = np.isfinite(points).all(1) & (np.ones(len(points), bool) if visible is None else np.asarray(visible, bool))
    limit = max(image.shape[:2])  # keeps coordinates within OpenCV's integer range
    fixed_point = np.round((np.clip(np.nan_to_num(points), -limit, 2 * limit) - 0.5) * 2**_SUBPIXEL_BITS).astype(int)
    extent = np.ptp(points[drawn], axis=0).max() if drawn.any() else 0.0
    thickness = max(1, round(min(extent, max(image.shape[:2])) / 80))
    for (a, b), color in zip(skeleton.edges, skeleton.colors):
        if drawn[a] and drawn[b]:
            cv2.line(canvas, tuple(fixed_point[a]), tuple(fixed_point[b]), color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    radius = round(thickness * 0.9 * 2**_SUBPIXEL_BITS)
    for point in fixed_point[drawn]:
        cv2.circle(canvas, tuple(point), radius, (255, 255, 255), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas


def add_caption(image: Image, text: str) -> Image:
    """Return a copy of `image` with a line of white text on a dark band at the top."""
    canvas = image.copy()
    canvas[:18] = canvas[:18] // 3
    cv2.putText(canvas, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def image_grid(tiles: Sequence[Image], columns: int) -> Image:
    """Arrange tiles of equal size in rows of `columns`; missing tiles of the last row are black."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        canvas[top : top + height, left : left + width] = tile
    return canvas


def normalize_heatmaps(heatmaps: NDArray[np.float32], heatmap_kind: str) -> NDArray[np.float32]:
    """Scale heatmaps (K, h, w) of kind `heatmap_kind` to [0, 1] for `overlay_heatmap`: each is 1 at its highest cell.

    NaN becomes 0, and so does a "gaussian" heatmap without a value above 0.
    """
    heatmaps = np.clip(np.nan_to_num(heatmaps), -1e6, 1e6)
    highest = heatmaps.max((-2, -1), keepdims=True)
    normalized = np.exp(heatmaps - highest) if heatmap_kind == "logits" else heatmaps / np.maximum(highest, 1e-6)
    return np.asarray(np.clip(normalized, 0, 1), np.float32)


def overlay_heatmap(image: Image, heatmap: NDArray[np.float32]) -> Image:
    """Blend a heatmap (h, w) in [0, 1] over an image (H, W, 3); higher values are more opaque."""
    height, width = image.shape[:2]
    resized = cv2.resize(np.clip(heatmap, 0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    heat_colors = cv2.applyColorMap((255 * resized).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    alpha = (0.8 * np.sqrt(resized))[..., None]
    return np.asarray(image * (1 - alpha) + heat_colors * alpha, np.uint8)
