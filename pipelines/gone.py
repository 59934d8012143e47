"""Folders of pictures that are gone while a run reads them, as a network drive may be for a while: waiting for them.

What may enter: telling a folder that is gone from a picture that is bad, without opening any.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hgfast.errors import HgfastError

LOOK_EVERY = 0.5  # seconds


def gone(paths: Sequence[str]) -> Path | None:
    """The first of these files' folders that is not there, cannot be listed, or is empty as a drive's place is without it."""
    return next((folder for folder in dict.fromkeys(Path(path).parent for path in paths) if not _holds_any(folder)), None)


def wait_for(paths: Sequence[str], minutes: float) -> bool:
    """Wait until all folders of these files are there. Was any of them gone?

    Raises:
        HgfastError: after so many minutes.
    """
    folder = gone(paths)
    if folder is None:
        return False
    end = time.monotonic() + 60 * minutes
    tqdm.write(f"warning: the folder {folder} is gone or empty; waiting for it for {minutes:g} minutes", file=sys.stderr)
    while (missing := gone(paths)) is not None:
        if time.monotonic() >= end:
            raise HgfastError(
                f"the folder {missing} is gone or empty, and has been for {minutes:g} minutes (--loading.wait-minutes): "
                "see that its drive is there"
            )
        time.sleep(LOOK_EVERY)
    tqdm.write(f"the folder {folder} is back", file=sys.stderr)
    return True


def _holds_any(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
