"""Read arrays from HDF5 files safely.

A few bytes of a file may claim arrays of any size, or refer to arrays in other files. Both are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 2**30
"""Limit on the total size of the arrays of one call; those of the largest official file have 10 MB."""
CHUNK_ROWS, MAX_TEXT_LENGTH = 64, 2**16


class MissingDataset(KeyError):
    """The file has no data set with this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no data set {name!r}")
        self.name = name


def list_datasets(path: Path) -> list[str]:
    """Return the names of the data sets at the top level of a file. Raises one of `READ_ERRORS`."""
    with h5py.File(path, "r") as file:
        return [name for name in file if _is_hard_link(file, name) and isinstance(file[name], h5py.Dataset)]


def read_h5(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read data sets by name. Raises `MissingDataset`, or another of `READ_ERRORS`."""
    arrays: dict[str, NDArray[Any]] = {}
    bytes_left = MAX_BYTES
    with h5py.File(path, "r") as file:
        for name in names:
            if name not in file:
                raise MissingDataset(name)
            if not _is_hard_link(file, name):
                raise ValueError(f"{name} is a link, perhaps to another file")
            data = file[name]
            if not isinstance(data, h5py.Dataset):
                raise MissingDataset(name)
            if data.is_virtual or data.external:
                raise ValueError(f"{name} lies in other files")
            if data.shape is None or data.dtype.itemsize * math.prod(data.shape) > bytes_left:
                raise ValueError(f"{name} claims to be {data.shape} of {data.dtype}, more than there is room for")
            arrays[name] = np.asarray(data[()]) if data.dtype.kind != "O" else _read_strings(data, bytes_left)
            bytes_left -= arrays[name].nbytes
    return arrays


def _read_strings(data: Any, bytes_left: int) -> NDArray[Any]:
    """Read strings of any length (N,), a few at a time: in the file, many may share one value, but in memory they do not."""
    if data.ndim != 1:
        raise ValueError(f"it holds strings in the shape {data.shape}")
    values: list[Any] = []
    for start in range(0, len(data), CHUNK_ROWS):
        part = data[start : start + CHUNK_ROWS]
        lengths = [len(value) if isinstance(value, (bytes, str)) else 0 for value in part]
        bytes_left -= sum(lengths)
        if bytes_left < 0 or max(lengths, default=0) > MAX_TEXT_LENGTH:
            raise ValueError(f"it holds a string of more than {MAX_TEXT_LENGTH} characters, or too many strings")
        values += list(part)
    strings = np.empty(len(values), object)
    strings[:] = values
    return strings


def _is_hard_link(file: Any, name: str) -> bool:
    """Return True if the object is stored in this file and is not a link, which could lead out of it."""
    return isinstance(file.get(name, getlink=True), h5py.HardLink)
