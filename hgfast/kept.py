"""Which of a run's checkpoints stay on the disk, and under which names.

What may enter: files called checkpoint.pt and checkpoint-STEP.pt. What is in them is for others.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hgfast import checkpoints
from hgfast.errors import HgfastError
from hgfast.files import complete

NEWEST = "checkpoint.pt"
OLDER = f"checkpoint-{'[0-9]' * 8}.pt"  # as a pattern


def write(content: dict[str, Any], folder: Path, keep: int, before: int) -> None:
    """Write the newest checkpoint; of the `keep` latest those before it are kept as checkpoint-STEP.pt.

    Args:
        before: the step of the one that is there now.

    Raises:
        HgfastError: the folder cannot be written; the newest is then as it was.
    """
    newest = folder / NEWEST
    if keep > 1:
        if newest.exists() and before < content["training"]["step"]:
            _keep_copy(newest, folder / f"checkpoint-{before:08d}.pt")
        try:
            for old in sorted(folder.glob(OLDER))[: 1 - keep]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise HgfastError(f"cannot remove {old}, which is older than --train.keep asks for ({error.strerror})") from error
    checkpoints.save(content, newest)


def remove(folder: Path) -> None:
    """Make room for a fresh run. Raises `OSError`."""
    for path in (folder / NEWEST, folder / "best.pt", *folder.glob(OLDER)):
        path.unlink(missing_ok=True)


def _keep_copy(path: Path, name: Path) -> None:
    """A file that is about to be replaced under another name, where links exist without a copy of its content."""
    try:
        name.unlink(missing_ok=True)
        try:
            os.link(path, name)
        except OSError:
            with complete(name) as beside:
                shutil.copyfile(path, beside)
    except OSError as error:
        raise HgfastError(f"cannot keep {path} as {name.name} ({error.strerror}): leave out --train.keep") from error
