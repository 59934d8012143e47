"""Read arrays from .npy and .npz files safely: no pickled objects, and no array larger than its file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as layout
from numpy.typing import NDArray

from hgfast.fileio.zip_file import check_zip


def read_npy(path: Path) -> NDArray[Any]:
    """Read the array of a .npy file. Raises one of `READ_ERRORS`."""
    with path.open("rb") as file:
        return _read_array(file, path.stat().st_size)


def list_arrays(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz file. Raises one of `READ_ERRORS`."""
    check_zip(path, allow_compressed=True)
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read arrays of a .npz file by name. Raises one of `READ_ERRORS`, KeyError if one is missing."""
    check_zip(path, allow_compressed=True)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            part = archive.getinfo(f"{name}.npy")
            with archive.open(part) as file:
                arrays[name] = _read_array(file, part.file_size)
    return arrays


def _read_array(file: IO[bytes], length: int) -> NDArray[Any]:
    """Read the array of a file with `length` bytes. numpy itself would allocate any size that the header claims."""
    version = layout.read_magic(file)
    read = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format holds no plain arrays")
    shape, fortran, dtype = read(file)
    count = 1
    for dim in shape:
        count *= dim
    if dtype.hasobject or min(shape, default=0) < 0 or dtype.itemsize * count > length:
        raise ValueError(f"its header claims {shape} of {dtype}, which the file does not hold")
    values = np.frombuffer(file.read(dtype.itemsize * count), dtype, count) if dtype.itemsize else np.empty(count, dtype)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
