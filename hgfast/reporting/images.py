"""Find the images of a run and embed them as data URIs: evaluation grids, charts, and the last TensorBoard images.

Grids are split into samples, so that a narrow screen can stack them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hgfast.errors import HgfastError
from hgfast.reporting.events import TensorBoardEvents
from hgfast.visualization.draw import Image, read_image
from hgfast.visualization.gallery import NUM_COLUMNS, TILE_SIZE

MIME_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".svg": "image/svg+xml"}
MAX_IMAGE_BYTES, MAX_TOTAL_BYTES = 8 << 20, 32 << 20  # of one image, and of all images in a page
MAX_OTHER_IMAGES = 12  # images whose names are not in `TITLES`
MAX_DEPTH = 2  # levels of subfolders that are searched
JPEG_QUALITY = 88  # of samples
GRID_TAG, CURVE_TAG = "valid/grid", "valid/curve"
"""TensorBoard's tags of the images that `hgfast.visualization.overlays.log_validation` writes."""
TITLES = {
    "sheet": "Predictions",
    "predictions": "Predictions",
    "worst": "Worst samples",
    "curve": "Accuracy against threshold",
}
"""Titles by stem of the files that evaluate --out and make demo write, in the order of the page."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image as a data URI, its size in pixels (0 if unknown), and its alternative text."""

    uri: str
    width: int
    height: int
    alt_text: str


@dataclass(frozen=True)
class Gallery:
    """Images under a title.

    name: stem of the file, possibly a key of `TITLES`. source: where the images come from. tiles_per_row: number of tiles that
    belong to one sample; 0 if each image stands alone.
    """

    title: str
    name: str
    source: str
    images: Sequence[EmbeddedImage]
    tiles_per_row: int = 0


def find_galleries(folder: Path, excluded: set[str], notes: list[str]) -> list[Gallery]:
    """Return the images in a run's folder: those of evaluations first, then up to `MAX_OTHER_IMAGES` others.

    Args:
        excluded: stems of images to omit, because a table has the same content.
        notes: receives a sentence for each image that cannot be shown.
    """
    evaluation_galleries, other_galleries, total_bytes = list[Gallery](), list[Gallery](), 0
    order = {name: index for index, name in enumerate(TITLES)}
    paths = [path for path in find_images(folder) if path.stem not in excluded]
    paths.sort(key=lambda path: (order.get(path.stem, len(order)), path.as_posix()))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.stem not in TITLES and len(other_galleries) == MAX_OTHER_IMAGES:
            unnamed = len([p for p in paths if p.stem not in TITLES]) - MAX_OTHER_IMAGES
            notes.append(f"{unnamed} more images in the folder are not shown.")
            break
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES or total_bytes + size > MAX_TOTAL_BYTES:
            notes.append(f"{name} is not shown: the page would become too large.")
            continue
        try:
            gallery = _read_gallery(path, name)
        except HgfastError as error:
            notes.append(f"{error}.")
            continue
        total_bytes += size
        (evaluation_galleries if path.stem in TITLES else other_galleries).append(gallery)
    return evaluation_galleries + other_galleries


def gallery_from_events(events: TensorBoardEvents, tag: str) -> Gallery | None:
    """Return the last image of a tag, or None. `GRID_TAG` is split into tiles: truth, prediction and heatmaps of each sample."""
    if tag not in events.images:
        return None
    step, encoded = events.images[tag]
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if decoded is None:
        return None
    image = np.asarray(decoded[..., ::-1], np.uint8)
    source = f"TensorBoard’s {tag}, step {step}"
    if tag == GRID_TAG and image.shape[0] % TILE_SIZE == 0 and image.shape[1] % (3 * TILE_SIZE) == 0:
        return Gallery("Predictions during training", "grid", source, _split_grid(image, 1, source), tiles_per_row=3)
    title = TITLES["curve"] if tag == CURVE_TAG else tag
    return Gallery(title, tag, source, [_embed(_encode(image, ".png"), "image/png", image, title)])


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and up to `MAX_DEPTH` levels below, selected by suffix."""
    for parent, folders, files in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(folders) if depth < MAX_DEPTH else []
        for name in sorted(files):
            path = Path(parent) / name
            if path.suffix.lower() in MIME_TYPES and name[0] != "." and path.is_file():
                yield path


def _read_gallery(path: Path, name: str) -> Gallery:
    """Return a file's image, or its samples if it is a grid. Raises `HgfastError` if the file is not an image."""
    title, mime_type = TITLES.get(path.stem, name), MIME_TYPES[path.suffix.lower()]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror})") from error
    if mime_type == "image/svg+xml":
        if b"<svg" not in data[:4096]:
            raise HgfastError(f"{path} is not an image: remove it")
        return Gallery(title, path.stem, name, [EmbeddedImage(_data_uri(data, mime_type), 0, 0, title)])
    image = read_image(path)
    if (
        path.stem in ("sheet", "predictions", "worst")
        and image.shape[1] == NUM_COLUMNS * TILE_SIZE
        and image.shape[0] % TILE_SIZE == 0
    ):
        return Gallery(title, path.stem, name, _split_grid(image, 2, name))
    return Gallery(title, path.stem, name, [_embed(data, mime_type, image, title)])


def _split_grid(grid: Image, tiles_per_piece: int, name: str) -> list[EmbeddedImage]:
    """Split a grid row by row into pieces of `tiles_per_piece` adjacent tiles; black pieces are dropped."""
    pieces, width = list[EmbeddedImage](), tiles_per_piece * TILE_SIZE
    for top in range(0, grid.shape[0], TILE_SIZE):
        for left in range(0, grid.shape[1], width):
            piece = grid[top : top + TILE_SIZE, left : left + width]
            if piece.max() > 32:  # JPEG's black is not quite 0
                encoded = _encode(piece, ".jpg")
                pieces.append(_embed(encoded, "image/jpeg", piece, f"{name}, sample {len(pieces) + 1}"))
    return pieces


def _encode(image: Image, suffix: str) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    return bytes(cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), quality)[1].tobytes())


def _embed(data: bytes, mime_type: str, image: Image, alt_text: str) -> EmbeddedImage:
    return EmbeddedImage(_data_uri(data, mime_type), image.shape[1], image.shape[0], alt_text)


def _data_uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
