"""Arrays in numpy's files, .npy and .npz, of no more bytes than there are.

What may enter: reading arrays from such files; what they mean is for others. No pickled objects.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as layout
from numpy.typing import NDArray

from hgfast.zip_file import check_zip

BROKEN = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    MemoryError,
    OverflowError,
    SyntaxError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What reading a broken file may raise."""


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a .npy file. Raises one of `BROKEN`."""
    with path.open("rb") as file:
        return _array(file, path.stat().st_size)


def names(path: Path) -> list[str]:
    """What the arrays of a .npz file are called. Raises one of `BROKEN`."""
    check_zip(path, compressed=True)
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a .npz file by their names. Raises one of `BROKEN`, KeyError where one is not there."""
    check_zip(path, compressed=True)
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in wanted:
            part = archive.getinfo(f"{name}.npy")
            with archive.open(part) as file:
                found[name] = _array(file, part.file_size)
    return found


def _array(file: IO[bytes], length: int) -> NDArray[Any]:
    """The array in a file of so many bytes. numpy would make room for whatever the header claims."""
    version = layout.read_magic(file)
    read = {(1, 0): layout.read_array_header_1_0, (2, 0): layout.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format holds no plain arrays")
    shape, fortran, kind = read(file)
    count = 1
    for side in shape:
        count *= side
    if kind.hasobject or min(shape, default=0) < 0 or kind.itemsize * count > length:
        raise ValueError(f"its header claims {shape} of {kind}, which the file does not hold")
    values = np.frombuffer(file.read(kind.itemsize * count), kind, count) if kind.itemsize else np.empty(count, kind)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
