"""The folder of a crop cache: crops under their keys, in sub-folders by the first two digits, and an index of them.

A crop's key is a hash of all that decides what is in it, so that a file which is there is right. Files are written beside
their place and renamed. The index, written last, says how long every file is and which pictures cannot be read.
What may enter: names, listings and the index. Nothing here decodes a picture or knows what a key is made of.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hgfast.errors import HgfastError
from hgfast.files import complete
from pipelines.numpy_file import BROKEN, read_npz

ADVICE = "run python pipelines/cache.py with the same flags"
PARTIAL = ".partial"
ABANDONED = 3600.0
"""Seconds after which a partial file must have been left by a process that was killed."""
FOLDER, CROP = re.compile(r"[0-9a-f]{2}"), re.compile(r"([0-9a-f]{32})\.jpg")


@dataclass(frozen=True)
class Index:
    """What finished runs left: the bytes of crops by their keys, 0 where the picture cannot be read; their options, in order."""

    sizes: dict[str, int] = field(default_factory=dict)
    options: list[dict[str, float]] = field(default_factory=list)


def crop_file(folder: Path | str, key: str) -> str:
    """Where a crop lies."""
    return f"{folder}/{key[:2]}/{key}.jpg"


def present(folder: Path, sweep: bool = False) -> dict[str, int]:
    """The bytes of every crop that is there, by its key. With `sweep`, partial files that nobody writes any more are removed."""
    found: dict[str, int] = {}
    try:
        inner = [entry.path for entry in os.scandir(folder) if FOLDER.fullmatch(entry.name) and entry.is_dir()]
        for entry in (entry for path in [*inner, str(folder)] for entry in os.scandir(path)):
            if name := CROP.fullmatch(entry.name):
                found[name[1]] = entry.stat().st_size
            elif sweep and entry.name.endswith(PARTIAL) and entry.stat().st_mtime < time.time() - ABANDONED:
                Path(entry.path).unlink(missing_ok=True)
    except OSError as error:
        raise HgfastError(f"the crop cache {folder} cannot be read ({error.strerror}): {ADVICE}") from error
    return found


def is_whole(folder: Path, key: str, there: dict[str, int], index: Index) -> bool:
    """Is this crop there, as long as the index says, if it knows it, and with a JPEG's last bytes?"""
    if there.get(key, 0) < 2 or index.sizes.get(key, 0) not in (0, there[key]):
        return False
    try:
        with Path(crop_file(folder, key)).open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"\xff\xd9"
    except OSError:  # to be made again
        return False


def read_index(folder: Path) -> Index | None:
    """The index; None where there is none, or none that can be read."""
    try:
        content = read_npz(folder / "index.npz", ("keys", "sizes", "options"))
        sizes = dict(zip(map(str, content["keys"].tolist()), map(int, content["sizes"].tolist()), strict=True))
        options = [{str(name): float(value) for name, value in one.items()} for one in json.loads(str(content["options"]))]
    except (*BROKEN, AttributeError):
        return None
    return Index(sizes, options) if options else None


def write_index(folder: Path, index: Index) -> None:
    """Raises `OSError` where that fails."""
    keys = sorted(index.sizes)
    sizes = np.array([index.sizes[key] for key in keys], np.int64)
    with complete(folder / "index.npz") as beside, beside.open("wb") as file:
        np.savez(file, keys=np.array(keys, "U32"), sizes=sizes, options=json.dumps(index.options))


def write_crop(folder: str, key: str, content: bytes) -> None:
    """A whole file or none. Not flushed, which would take longer than all the rest: the index tells what a power cut left.

    Raises:
        OSError: it cannot be written.
    """
    file = crop_file(folder, key)
    partial = Path(f"{file}.{os.getpid()}{PARTIAL}")  # of this process alone, so that two runs may fill a folder together
    partial.parent.mkdir(exist_ok=True)
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
