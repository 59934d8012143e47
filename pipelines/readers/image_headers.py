"""Sizes and EXIF orientations from the headers of many image files, and points of the stored image moved to the upright one."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hgfast.fileio.image_format import exif_orientation, image_kind
from hgfast.fileio.image_header import HEADER_BYTES, MAX_FILE_BYTES, image_size_from_header
from hgfast.geometry import FloatArray

THREADS = 8  # they wait for the disk


def read_headers(paths: Sequence[str]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return width and height (N, 2) of the images as stored, NaN if unknown, and their EXIF orientations (N,), 1 to 8."""
    size, orientation = np.full((len(paths), 2), np.nan), np.ones(len(paths), np.int64)
    with ThreadPoolExecutor(THREADS) as pool:
        headers = tqdm(pool.map(_read_header, paths), "read headers", len(paths), disable=None, leave=False, delay=2)
        for number, (found, turned) in enumerate(headers):
            orientation[number] = turned
            if found is not None:
                size[number] = found
    return size, orientation


def _read_header(path: str) -> tuple[tuple[int, int] | None, int]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (a Path for each of 100 000 files is slower)
            data = memoryview(file.read(HEADER_BYTES))
            if image_kind(data) in ("TIFF", "WebP"):  # whose directory or EXIF chunk may be at the end
                data = memoryview(bytes(data) + file.read(MAX_FILE_BYTES))
    except OSError:  # the loader reports it
        return None, 1
    return image_size_from_header(data), exif_orientation(data)


def upright_size(size: FloatArray, orientation: NDArray[np.int64]) -> FloatArray:
    """Return width and height (N, 2) of the images after their rotation."""
    return np.where(orientation[:, None] >= 5, size[:, ::-1], size)


def upright_points(points: FloatArray, size: FloatArray, orientation: NDArray[np.int64]) -> FloatArray:
    """Move points (N, K, 2) of stored images, corner convention, to the upright images (EXIF 2.3, tag 0x0112). `size` (N, 2) is
    that of the stored images."""
    x, y = points[..., 0], points[..., 1]
    mirrored_x, mirrored_y = size[:, :1] - x, size[:, 1:] - y
    turn = orientation[:, None]
    new_x = np.choose(turn - 1, [x, mirrored_x, mirrored_x, x, y, mirrored_y, mirrored_y, y])
    new_y = np.choose(turn - 1, [y, y, mirrored_y, mirrored_y, x, x, mirrored_x, mirrored_x])
    return np.stack([new_x, new_y], axis=-1)
