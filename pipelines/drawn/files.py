"""What drawing a data set takes whatever is drawn: an empty folder, JPEG, a mark that says so.

What may enter: folders and encoding. Layouts and pictures are elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError

MARK = "synthetic.txt"
"""The file that tells a drawn data set from a real one."""


def at_least(**numbers: tuple[int | None, int]) -> None:
    """Refuse a flag's value below the least one that makes sense, `count=(0, 1)` say."""
    for name, (value, least) in numbers.items():
        if value is not None and value < least:
            raise HgfastError(f"--{name} is {value}, but must be at least {least}")


def make_room(out: Path, folders: Sequence[str], leftovers: Callable[[Path], Iterator[Path]], overwrite: bool) -> None:
    """Make the folders of a layout; remove what an earlier run left in them if `overwrite`, or else refuse to.

    Only what was drawn here is ever removed: a data set that people photographed has no `MARK`.
    """
    try:
        old = list(leftovers(out))
        if old and not (out / MARK).is_file():
            raise HgfastError(f"{out} holds a data set that was not drawn by this command; choose another --out")
        if old and not overwrite:
            raise HgfastError(f"{out} already holds a data set; choose another --out, or replace it with --overwrite")
        for file in old:
            file.unlink()
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("Drawn by pipelines/synthetic.py, which may replace it.\n")
        for folder in folders:
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HgfastError(f"cannot write to {out}: {error}; choose another --out") from error
    if not os.access(out, os.W_OK):
        raise HgfastError(f"cannot write to {out}: no permission; choose another --out")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Failures to write, in one sentence."""
    try:
        yield
    except OSError as error:
        raise HgfastError(f"cannot write to {out}: {error}; free some space or choose another --out") from error


def jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """A picture (H, W, 3) BGR or (H, W) as a JPEG file."""
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
