"""Common parts of writing a synthetic data set: an empty folder, JPEG, a marker file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.fileio.files import lock_folder

MARKER_FILE = "synthetic.txt"
"""File that distinguishes a synthetic data set from a real one."""


def check_minimum(**numbers: tuple[int | None, int]) -> None:
    """Raise `HgfastError` if a flag's value is below its minimum; pass `flag=(value, minimum)`, such as `count=(0, 1)`."""
    for name, (value, minimum) in numbers.items():
        if value is not None and value < minimum:
            raise HgfastError(f"--{name} is {value}, but must be at least {minimum}")


@contextmanager
def data_set_folder(
    out: Path, folders: Sequence[str], annotations: Sequence[str], digits: int, overwrite: bool
) -> Iterator[None]:
    """Create the folders of a layout, and turn write errors inside the block into HgfastError.

    Files of an earlier run, `annotations` in writing order and images named by numbers of `digits` digits, are removed with
    `overwrite`, otherwise refused; annotations first and in reverse order, so that an interrupted removal leaves no complete data
    set. Only a synthetic data set is ever removed: a real one has no `MARKER_FILE`.
    """
    with lock_folder(out, "--out"):
        try:
            old = [file for name in reversed(annotations) if (file := out / name).is_file()]
            for path in filter(Path.is_dir, (out / name for name in folders)):
                old += [file for file in path.iterdir() if re.fullmatch(rf"\d{{{digits}}}\.jpg", file.name)]
            if old and not (out / MARKER_FILE).is_file():
                raise HgfastError(f"{out} holds a data set that this command did not write; choose another --out")
            if old and not overwrite:
                raise HgfastError(f"{out} already holds a data set; choose another --out, or replace it with --overwrite")
            for file in old:
                file.unlink()
            (out / MARKER_FILE).write_text("Rendered by hgfast synthetic, which may replace it.\n", "utf-8")
            for folder in folders:
                (out / folder).mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise HgfastError(f"cannot write to {out}: {error}; free some space or choose another --out") from error


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """Encode an image (H, W, 3) BGR or (H, W) as JPEG."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
