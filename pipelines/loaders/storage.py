"""Wait for image folders that are temporarily missing, such as those of a network drive.

Only folders are listed, to distinguish a missing folder from a bad image; no image is opened.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hgfast.errors import HgfastError

POLL_SECONDS = 0.5


def find_missing_folder(paths: Sequence[str]) -> Path | None:
    """Return the first folder of these files that is missing, cannot be listed, or is empty like an unmounted mount point."""
    return next((folder for folder in dict.fromkeys(Path(path).parent for path in paths) if not _has_entries(folder)), None)


def wait_for_folders(paths: Sequence[str], minutes: float) -> bool:
    """Wait until all folders of these files exist. Returns True if one was missing.

    Raises:
        HgfastError: a folder is still missing after `minutes`.
    """
    folder = find_missing_folder(paths)
    if folder is None:
        return False
    end = time.monotonic() + 60 * minutes
    tqdm.write(f"warning: the folder {folder} is missing or empty; waiting up to {minutes:g} minutes", file=sys.stderr)
    while (missing := find_missing_folder(paths)) is not None:
        if time.monotonic() >= end:
            raise HgfastError(
                f"the folder {missing} has been missing or empty for {minutes:g} minutes (--loading.storage-timeout): "
                "check that its drive is mounted"
            )
        time.sleep(POLL_SECONDS)
    tqdm.write(f"the folder {folder} is back", file=sys.stderr)
    return True


def _has_entries(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
