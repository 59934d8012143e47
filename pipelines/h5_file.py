"""Arrays in HDF5 files, of this file alone and of no more bytes than annotations have.

A file may claim arrays of any size in a few bytes, and may have them read from other files, wherever these are: neither is
followed.
What may enter: reading data sets from HDF5 by name; what they mean is for others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

BYTES = 2**30
"""The most that the arrays of one reading may have together; the largest official file's have 10 MB."""
FEW, LETTERS = 64, 2**16
BROKEN = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError, AttributeError, NotImplementedError)
"""What reading a broken file may raise; those who ask name the file."""


class NoSuchData(KeyError):
    """There is no data set of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no data set {name!r}")
        self.name = name


def keys(path: Path) -> list[str]:
    """The names of the data sets at the top of a file. Raises one of `BROKEN`."""
    with h5py.File(path, "r") as file:
        return [name for name in file if _is_own(file, name) and isinstance(file[name], h5py.Dataset)]


def read_h5(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Data sets by name. Raises `NoSuchData`, or another of `BROKEN`."""
    found: dict[str, NDArray[Any]] = {}
    room = BYTES
    with h5py.File(path, "r") as file:
        for name in names:
            if name not in file:
                raise NoSuchData(name)
            if not _is_own(file, name):
                raise ValueError(f"{name} is a link, perhaps to another file")
            data = file[name]
            if not isinstance(data, h5py.Dataset):
                raise NoSuchData(name)
            if data.is_virtual or data.external:
                raise ValueError(f"{name} lies in other files")
            if data.shape is None or data.dtype.itemsize * math.prod(data.shape) > room:
                raise ValueError(f"{name} claims to be {data.shape} of {data.dtype}, more than there is room for")
            found[name] = np.asarray(data[()]) if data.dtype.kind != "O" else _texts(data, room)
            room -= found[name].nbytes
    return found


def _texts(data: Any, room: int) -> NDArray[Any]:
    """Texts of any length (N,), a few at a time: many may be one and the same in the file, and are not once they are read."""
    if data.ndim != 1:
        raise ValueError(f"it holds texts in the shape {data.shape}")
    found: list[Any] = []
    for start in range(0, len(data), FEW):
        part = data[start : start + FEW]
        lengths = [len(value) if isinstance(value, (bytes, str)) else 0 for value in part]
        room -= sum(lengths)
        if room < 0 or max(lengths, default=0) > LETTERS:
            raise ValueError(f"it holds a text of more than {LETTERS} letters, or too many")
        found += list(part)
    texts = np.empty(len(found), object)
    texts[:] = found
    return texts


def _is_own(file: Any, name: str) -> bool:
    """Is it in this file, and no link that leads out of it?"""
    return isinstance(file.get(name, getlink=True), h5py.HardLink)
