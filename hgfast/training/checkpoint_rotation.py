"""Rotation of a run's checkpoints: checkpoint.pt and the older checkpoint-STEP.pt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hgfast import checkpoints
from hgfast.errors import HgfastError
from hgfast.fileio.files import atomic_write

LATEST = "checkpoint.pt"
ROTATED_PATTERN = f"checkpoint-{'[0-9]' * 8}.pt"  # glob pattern


def write_checkpoint(content: dict[str, Any], folder: Path, keep_checkpoints: int, previous_step: int) -> None:
    """Write checkpoint.pt and keep earlier ones as checkpoint-STEP.pt, `keep_checkpoints` files in all.

    Args:
        previous_step: step of the existing checkpoint.pt.

    Raises:
        HgfastError: the folder cannot be written; checkpoint.pt is then unchanged.
    """
    latest = folder / LATEST
    if keep_checkpoints > 1:
        if latest.exists() and previous_step < content["training"]["step"]:
            _link_or_copy(latest, folder / f"checkpoint-{previous_step:08d}.pt")
        try:
            for old in sorted(folder.glob(ROTATED_PATTERN))[: 1 - keep_checkpoints]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise HgfastError(
                f"cannot remove {error.filename or folder}, which exceeds --train.keep-checkpoints ({error.strerror})"
            ) from error
    checkpoints.save(content, latest)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run. Raises `OSError`."""
    for path in (folder / LATEST, folder / "best.pt", *folder.glob(ROTATED_PATTERN)):
        path.unlink(missing_ok=True)


def _link_or_copy(path: Path, copy_path: Path) -> None:
    """Keep a file that is about to be replaced under another name: as a hard link, or as a copy if links are not supported."""
    try:
        copy_path.unlink(missing_ok=True)
        try:
            os.link(path, copy_path)
        except OSError:
            with atomic_write(copy_path) as temp_path:
                shutil.copyfile(path, temp_path)
    except OSError as error:
        raise HgfastError(
            f"cannot keep {path} as {copy_path.name} ({error.strerror}): leave out --train.keep-checkpoints"
        ) from error
