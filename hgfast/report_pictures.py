"""The pictures of a report, as data within the page: sheets of evaluations cut into samples, which a narrow screen can put
below each other, charts, and the last pictures that a run gave to TensorBoard.

What may enter: finding pictures, cutting them and writing them as data URIs.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hgfast.draw import Image, read_image
from hgfast.errors import HgfastError
from hgfast.gallery import COLUMNS, TILE
from hgfast.report_events import Events

KINDS = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".svg": "image/svg+xml"}
LARGEST, WHOLE = 8 << 20, 32 << 20  # bytes of a picture, and of all of them in a page
MOST = 12  # pictures besides those whose names say what they are
DEEPEST = 2  # folders below the run's that are looked into
QUALITY = 88  # of samples, as JPEG
GRID, CURVE = "valid/grid", "valid/curve"
"""TensorBoard's tags of the pictures that `hgfast.looks.show` makes."""
TITLES = {
    "sheet": "Predictions",
    "predictions": "Predictions",
    "worst": "Worst samples",
    "curve": "Accuracy against its threshold",
}
"""By the names that evaluate.py --out and make demo give to files, without their endings, in the order of the page."""


@dataclass(frozen=True)
class Shown:
    """A picture as a data URI, its size in pixels, and what it is for those who cannot see it."""

    uri: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class Gallery:
    """Pictures under a title. kind: its file's name without ending, which `TITLES` may know. across: how many of them belong
    side by side, where they are single tiles; 0: each stands alone."""

    title: str
    kind: str
    source: str
    pictures: Sequence[Shown]
    across: int = 0


def galleries(folder: Path, left_out: set[str], notes: list[str]) -> list[Gallery]:
    """The pictures in a run's folder: first those of evaluations, then a few others. What cannot be shown goes to `notes`.

    Args:
        left_out: names without endings of pictures that are not wanted, as a table says the same.
    """
    known, others, whole = list[Gallery](), list[Gallery](), 0
    order = {name: place for place, name in enumerate(TITLES)}
    paths = [path for path in pictures(folder) if path.stem not in left_out]
    paths.sort(key=lambda path: (order.get(path.stem, len(order)), path.as_posix()))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if path.stem not in TITLES and len(others) == MOST:
            unnamed = len([p for p in paths if p.stem not in TITLES]) - MOST
            notes.append(f"{unnamed} more pictures in the folder are not shown.")
            break
        size = path.stat().st_size
        if size > LARGEST or whole + size > WHOLE:
            notes.append(f"{name} is not shown: the page would become too large.")
            continue
        try:
            gallery = _gallery(path, name)
        except HgfastError as error:
            notes.append(f"{error}.")
            continue
        whole += size
        (known if path.stem in TITLES else others).append(gallery)
    return known + others


def from_events(events: Events, tag: str) -> Gallery | None:
    """The last picture of a tag, or None. Of `GRID`, its tiles: truth, prediction, heatmaps of each sample."""
    if tag not in events.pictures:
        return None
    step, encoded = events.pictures[tag]
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if decoded is None:
        return None
    image = np.asarray(decoded[..., ::-1], np.uint8)
    source = f"TensorBoard’s {tag}, step {step}"
    if tag == GRID and image.shape[0] % TILE == 0 and image.shape[1] % (3 * TILE) == 0:
        return Gallery("Predictions while it was trained", "grid", source, _cut(image, 1, source), across=3)
    title = TITLES["curve"] if tag == CURVE else tag
    return Gallery(title, tag, source, [_shown(_encode(image, ".png"), "image/png", image, title)])


def pictures(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and a little below, by the endings of their names."""
    for parent, folders, files in os.walk(folder):
        depth = len(Path(parent).relative_to(folder).parts)
        folders[:] = sorted(folders) if depth < DEEPEST else []
        for name in sorted(files):
            path = Path(parent) / name
            if path.suffix.lower() in KINDS and name[0] != "." and path.is_file():
                yield path


def _gallery(path: Path, name: str) -> Gallery:
    """A file's picture, or the samples on it where it is a sheet. Raises `HgfastError` for what is no picture."""
    title, kind = TITLES.get(path.stem, name), KINDS[path.suffix.lower()]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HgfastError(f"{path} cannot be read ({error.strerror})") from error
    if kind == "image/svg+xml":
        if b"<svg" not in data[:4096]:
            raise HgfastError(f"{path} is not a picture: remove it")
        return Gallery(title, path.stem, name, [Shown(_uri(data, kind), 0, 0, title)])
    image = read_image(path)
    if path.stem in ("sheet", "predictions", "worst") and image.shape[1] == COLUMNS * TILE and image.shape[0] % TILE == 0:
        return Gallery(title, path.stem, name, _cut(image, 2, name))
    return Gallery(title, path.stem, name, [_shown(data, kind, image, title)])


def _cut(sheet: Image, across: int, name: str) -> list[Shown]:
    """Pieces of so many tiles side by side, row by row, without the black ones at the end."""
    pieces, width = list[Shown](), across * TILE
    for top in range(0, sheet.shape[0], TILE):
        for left in range(0, sheet.shape[1], width):
            piece = sheet[top : top + TILE, left : left + width]
            if piece.max() > 32:  # JPEG's black is not quite 0
                encoded = _encode(piece, ".jpg")
                pieces.append(_shown(encoded, "image/jpeg", piece, f"{name}, sample {len(pieces) + 1}"))
    return pieces


def _encode(image: Image, ending: str) -> bytes:
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if ending == ".jpg" else []
    return bytes(cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]), quality)[1].tobytes())


def _shown(data: bytes, kind: str, image: Image, text: str) -> Shown:
    return Shown(_uri(data, kind), image.shape[1], image.shape[0], text)


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
