"""Which of a data set's pictures are there: one rule for all readers.

What may enter: names of files in a folder and its sub-folders, without opening them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError


class MissingPictures(HgfastError):
    """Pictures that are not there. missing: their paths, each once."""

    def __init__(self, sentence: str, missing: Sequence[str]) -> None:
        super().__init__(sentence)
        self.missing = missing


def find_pictures(
    folder: Path, names: Sequence[str], skip_missing: bool, advice: str
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The paths of those pictures that are there, and which of `names` (N,) they are.

    A name may lead into sub-folders ("train2017/0001.jpg") but not out of `folder`: '..', absolute names and backslashes are
    refused. Symbolic links in the folder are followed, wherever they lead: whoever owns the folder has put them there.
    Every folder is listed once; no file is looked at.
    Without `skip_missing` all must be there; `advice` says what to do about missing ones.

    Raises:
        MissingPictures: some are not there or, with `skip_missing`, none is; the sentence has their number and the first names.
        HgfastError: a name that leads out.
    """
    distinct = dict.fromkeys(names)
    strange = next((name for name in distinct if not _stays_inside(name)), None)
    if strange is not None:
        raise HgfastError(
            f"the annotations name the picture {strange!r}, which is no plain name of a file in {folder} "
            "or its sub-folders: replace them"
        )
    present = {inner: _listing(folder, inner) for inner in {"", *(name.rpartition("/")[0] for name in distinct)}}
    found = {name: name.rpartition("/")[2] in present[name.rpartition("/")[0]] for name in distinct}
    missing = [name for name in distinct if not found[name]]
    there = np.array([found[name] for name in names], bool)
    if missing and (not skip_missing or len(missing) == len(distinct)):
        raise MissingPictures(
            f"{len(missing)} of {len(distinct)} pictures are missing in {folder}, the first {', '.join(missing[:3])}: {advice}"
            + ("" if skip_missing else ", or leave their samples out with --skip-missing"),
            [str(folder / name) for name in missing],
        )
    return np.array([str(folder / name) for name in names])[there], there


def _stays_inside(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character, from a broken escape in JSON
        return False
    return not ({"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name)


def _listing(folder: Path, inner: str) -> set[str]:
    """The names in a sub-folder of `folder`; none where there is no such sub-folder."""
    try:
        return {entry.name for entry in (folder / inner).iterdir()}
    except OSError as error:
        if inner and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return set()
        raise HgfastError(f"{folder / inner} cannot be read ({error.strerror}): check its permissions") from error
