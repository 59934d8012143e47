"""Zip files, as PyTorch and numpy write them, measured before anybody unpacks them.

What may enter: what a zip file says of its parts; what these are is for others.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOM = 2**30
"""Bytes that compressed parts may have together once they are unpacked."""


def is_zip(path: Path) -> bool:
    """Does it begin as zip files do that hold something? Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_zip(path: Path, compressed: bool = False) -> None:
    """Raise ValueError for a zip file that is broken or claims to hold more than there is room for.

    Args:
        compressed: whether parts may be, `ROOM` being their limit then. `torch.save` never compresses: its files hold what they
            weigh; TorchScript's code is compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise ValueError(f"its zip directory is broken: {error}") from error
    total, there = sum(part.file_size for part in parts), path.stat().st_size
    plain = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if total > max(there, ROOM if compressed else 0) or not (plain or compressed):
        raise ValueError(f"it has {there} bytes and claims to unpack to {total}")
