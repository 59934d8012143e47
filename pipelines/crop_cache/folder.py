"""The folder of a crop cache: crops named by their keys, in sub-folders by the first two digits, and an index.

A crop's key is a hash of everything that determines its content, so an existing file is valid. Files are written under a
temporary name and renamed. The index, written last, holds the length of every file and the unreadable images.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write, remove_leftovers, write_bytes
from hgfast.pipelines.readers.base import READ_ERRORS
from hgfast.pipelines.readers.numpy_file import read_npz

REBUILD_HINT = "run hgfast cache with the same flags"
FOLDER_PATTERN, CROP_PATTERN = re.compile(r"[0-9a-f]{2}"), re.compile(r"([0-9a-f]{32})\.jpg")


@dataclass(frozen=True)
class CacheIndex:
    """Index of the finished runs: bytes of crops by key, 0 if the image cannot be read; options of the runs, in order."""

    sizes: dict[str, int] = field(default_factory=dict)
    options: list[dict[str, float]] = field(default_factory=list)


def crop_file(folder: Path | str, key: str) -> str:
    """Return the path of a crop."""
    return f"{folder}/{key[:2]}/{key}.jpg"


def list_crops(folder: Path, clean: bool = False) -> dict[str, int]:
    """Return the bytes of every existing crop by key. With `clean`, the temporary files of killed processes are removed."""
    sizes: dict[str, int] = {}
    try:
        inner = [entry.path for entry in os.scandir(folder) if FOLDER_PATTERN.fullmatch(entry.name) and entry.is_dir()]
        for path in inner:
            if clean:
                remove_leftovers(Path(path))
            for entry in os.scandir(path):
                if name := CROP_PATTERN.fullmatch(entry.name):
                    sizes[name[1]] = entry.stat().st_size
    except OSError as error:
        raise HgfastError(f"the crop cache {folder} cannot be read ({error.strerror}): {REBUILD_HINT}") from error
    return sizes


def is_complete(folder: Path, key: str, on_disk: dict[str, int], index: CacheIndex) -> bool:
    """Return True if the crop exists, has the length in the index, if any, and ends with a JPEG's last bytes."""
    if on_disk.get(key, 0) < 2 or index.sizes.get(key, 0) not in (0, on_disk[key]):
        return False
    try:
        with Path(crop_file(folder, key)).open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except OSError:  # will be created again
        return False


def read_index(folder: Path) -> CacheIndex | None:
    """Read the index; None if it is missing or unreadable."""
    try:
        content = read_npz(folder / "index.npz", ("keys", "sizes", "options"))
        sizes = dict(zip(map(str, content["keys"].tolist()), map(int, content["sizes"].tolist()), strict=True))
        options = [{str(name): float(value) for name, value in entry.items()} for entry in json.loads(str(content["options"]))]
    except READ_ERRORS:
        return None
    return CacheIndex(sizes, options) if options else None


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write the index atomically. Raises `OSError` if that fails."""
    keys = sorted(index.sizes)
    sizes = np.array([index.sizes[key] for key in keys], np.int64)
    with atomic_write(folder / "index.npz") as partial, partial.open("wb") as file:
        np.savez(file, keys=np.array(keys, "U32"), sizes=sizes, options=json.dumps(index.options))


def write_crop(folder: str, key: str, content: bytes) -> None:
    """Write a whole file or none. It is not flushed to the disk, which would take longer than everything else; the index reveals
    files that a power failure truncated. Raises OSError if the file cannot be written."""
    file = Path(crop_file(folder, key))
    file.parent.mkdir(exist_ok=True)
    write_bytes(file, content)
