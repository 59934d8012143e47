"""Which of a data set's pictures are there: one rule for all readers.

What may enter: names of files in a folder, without opening them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError


def find_pictures(
    folder: Path, names: Sequence[str], skip_missing: bool, advice: str
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The paths of those pictures that are there, and which of `names` (N,) they are.

    Without `skip_missing` that must be all of them; `advice` says what to do about missing ones.

    Raises:
        HgfastError: pictures that are missing, with their number and the first names; none left; a name with a folder.
    """
    try:
        present = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise HgfastError(f"{folder} cannot be read ({error.strerror}): check its permissions") from error
    strange = next((name for name in names if name in ("", ".", "..") or "/" in name), None)
    if strange is not None:
        raise HgfastError(f"the annotations name the picture {strange!r}, which is no plain file name in {folder}: replace them")
    there = np.array([name in present for name in names], bool)
    missing = list(dict.fromkeys(name for name, found in zip(names, there) if not found))
    if missing and (not skip_missing or not there.any()):
        count = len(set(names))
        raise HgfastError(
            f"{len(missing)} of {count} pictures are missing in {folder}, the first {', '.join(missing[:3])}: {advice}"
            + ("" if skip_missing else ", or leave their samples out with --skip-missing")
        )
    return np.array([str(folder / name) for name in names])[there], there
