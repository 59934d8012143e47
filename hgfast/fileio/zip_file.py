"""Size checks of zip files, as PyTorch and numpy write them, before they are unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

MAX_UNPACKED_BYTES = 2**30
"""Largest total size of compressed members after unpacking, in bytes."""


def is_zip(path: Path) -> bool:
    """Return whether a file starts like a zip file with members. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_zip(path: Path, allow_compressed: bool = False) -> None:
    """Raise ValueError for a zip file that is broken or claims to unpack to more than is allowed.

    Args:
        allow_compressed: accept compressed members of up to `MAX_UNPACKED_BYTES` in total. `torch.save` never compresses;
            TorchScript compresses its code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"its zip directory is broken: {error}") from error
    total, file_size = sum(member.file_size for member in members), path.stat().st_size
    is_stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if total > max(file_size, MAX_UNPACKED_BYTES if allow_compressed else 0) or not (is_stored or allow_compressed):
        raise ValueError(f"it has {file_size} bytes and claims to unpack to {total}")
