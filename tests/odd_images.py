"""Image files in many formats, valid and broken, of one scene."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hgfast.pipelines.loaders.self_test import exif_segment as exif

WIDTH, HEIGHT = 240, 160
POINTS = np.array([[60.0, 50.0], [170.0, 60.0], [110.0, 120.0]])
"""Three white dots, in corner coordinates of the upright image."""


def scene() -> NDArray[np.uint8]:
    """Render the scene (HEIGHT, WIDTH, 3) RGB: a gradient with a bright dot at each of POINTS."""
    columns, rows = np.arange(WIDTH) + 0.5, np.arange(HEIGHT)[:, None] + 0.5
    image = np.stack(np.broadcast_arrays(columns * 0.25, rows * 0.3, 30 + 0 * columns * rows), -1)
    for x, y in POINTS:
        image = image + 180 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4**2))[..., None]
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


STORAGE_TRANSFORMS = {  # by orientation: from the upright image to the stored one
    1: lambda i: i, 2: lambda i: i[:, ::-1], 3: lambda i: i[::-1, ::-1], 4: lambda i: i[::-1], 5: lambda i: i.swapaxes(0, 1),
    6: lambda i: np.rot90(i), 7: lambda i: i[::-1, ::-1].swapaxes(0, 1), 8: lambda i: np.rot90(i, -1),
}  # fmt: skip


def rotated_jpeg(rgb: NDArray[np.uint8], orientation: int) -> bytes:
    """Encode a transformed JPEG with the EXIF orientation that makes it upright."""
    stored = np.ascontiguousarray(STORAGE_TRANSFORMS[orientation](rgb)[..., ::-1])
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    return jpeg[:2] + exif(orientation) + jpeg[2:]


def jpeg_with_scans(count: int, side: int = 4096) -> bytes:
    """Encode a gray progressive JPEG of `count` scans, the first of which has the DC coefficients. `side`: a multiple of 1024.

    A scan takes 40 bytes for 4096 x 4096 pixels, because one code of 15 bits ends 16384 blocks (ITU T.81, G.1.2.2), but the
    decoder visits all blocks. Up to 883 scans are valid; further ones repeat them, which decoders accept with a warning.
    """

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    def scan(coefficient: int, high: int, low: int, data: bytes) -> bytes:
        return segment(0xDA, bytes([1, 1, 0, coefficient, coefficient, high << 4 | low])) + data

    blocks, one_code = (side // 8) ** 2, bytes([1]) + bytes(15)  # of 1 bit
    size = side.to_bytes(2, "big")
    parts = [
        segment(0xDB, bytes([0]) + bytes([1] * 64)),
        segment(0xC2, bytes([8]) + size + size + bytes([1, 1, 0x11, 0])),
        segment(0xC4, bytes([0x00]) + one_code + bytes([0])),  # the same value as in the last block
        segment(0xC4, bytes([0x10]) + one_code + bytes([0xE0])),  # nothing in 16384 + (14 bits) blocks
        scan(0, 0, 0, bytes(blocks // 8)),
    ]
    for number in range(count - 1):
        low = 13 - number // 63 % 14
        parts.append(scan(1 + number % 63, 0 if low == 13 else low + 1, low, bytes(math.ceil(blocks / 16384 * 15 / 8))))
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def write_readable(folder: Path) -> dict[str, tuple[int, int]]:
    """Write readable files of many formats; returns the (width, height) of the upright image by name."""
    rgb = scene()
    pil = Image.fromarray(rgb)
    pil.save(folder / "plain.jpg", quality=97)
    pil.convert("L").save(folder / "gray.jpg", quality=97)
    pil.convert("CMYK").save(folder / "cmyk.jpg", quality=97)
    pil.save(folder / "progressive.jpg", quality=97, progressive=True)
    pil.save(folder / "lossless.webp", lossless=True)
    pil.save(folder / "png_inside.jpg", format="PNG")
    pil.convert("RGBA").save(folder / "rgba.png")
    cv2.imwrite(str(folder / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "large.jpg"), cv2.resize(rgb[..., ::-1], (4800, 3600), interpolation=cv2.INTER_LINEAR))
    Image.fromarray(rgb[:1, :1]).save(folder / "pixel.png")
    for orientation in (3, 6, 8):
        (folder / f"exif{orientation}.jpg").write_bytes(rotated_jpeg(rgb, orientation))
    sizes = {name.name: (WIDTH, HEIGHT) for name in folder.iterdir()}
    return {**sizes, "large.jpg": (4800, 3600), "pixel.png": (1, 1)}


def write_unreadable(folder: Path) -> list[str]:
    """Write files that cannot be decoded as images; returns their names."""
    jpeg = cv2.imencode(".jpg", scene())[1].tobytes()
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.jpg").write_bytes(jpeg[:300])
    (folder / "folder.jpg").mkdir()
    (folder / "nowhere.jpg").symlink_to(folder / "missing")
    return ["zero.jpg", "text.jpg", "cut.jpg", "folder.jpg", "nowhere.jpg"]
