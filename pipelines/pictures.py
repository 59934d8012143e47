"""Which of a data set's pictures are there: one rule for all readers.

What may enter: names of files in a folder and its sub-folders, without opening them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError


class MissingPictures(HgfastError):
    """Pictures that are not there. missing: their paths, each once."""

    def __init__(self, sentence: str, missing: Sequence[str]) -> None:
        super().__init__(sentence)
        self.missing = missing


@dataclass(frozen=True)
class Bounds:
    """Where pictures may lie: in their folder or, if it is given, anywhere in the data set's root, or, `outside`, anywhere.

    The folder and the root may be links themselves.
    """

    root: Path | None = None
    outside: bool = False


INSIDE = Bounds()


def find_pictures(
    folder: Path,
    names: Sequence[str],
    skip_missing: bool,
    advice: str,
    bounds: Bounds = INSIDE,
    called: Callable[[int], str] = "sample {}".format,
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """The paths of those pictures that are there, and which of `names` (N,) they are.

    A name may lead into sub-folders ("train2017/0001.jpg") but not out of `folder`, and a symbolic link not out of the
    `bounds`: annotations are read that others have written, in folders that others have packed. With `Bounds.outside` both may.
    Every folder is listed once; no file is looked at but links.
    Without `skip_missing` all must be there; `advice` says what to do about missing ones. `called` says which sample one of
    `names` belongs to.

    Raises:
        MissingPictures: some are not there or, with `skip_missing`, none is; the sentence has their number and the first names.
        HgfastError: a name or a link that leads out.
    """
    distinct = dict.fromkeys(names)
    strange = next((name for name in distinct if not (_is_name(name) and (bounds.outside or _stays_inside(name)))), None)
    if strange is not None:
        raise HgfastError(
            f"the annotations name the picture {strange!r}, which is no plain name of a file in {folder} "
            f"or its sub-folders, in {called(list(names).index(strange))}: correct it"
            + (", or give --data-outside" if _is_name(strange) else "")
        )
    present = {inner: _listing(folder, inner) for inner in {"", *(os.path.split(name)[0] for name in distinct)}}
    found = {name: os.path.split(name)[1] in present[os.path.split(name)[0]] for name in distinct}
    if not bounds.outside:
        reached = [name for name in distinct if found[name]]
        _check_links(folder, reached, present, bounds, lambda name: called(list(names).index(name)))
    missing = [name for name in distinct if not found[name]]
    there = np.array([found[name] for name in names], bool)
    if missing and (not skip_missing or len(missing) == len(distinct)):
        raise MissingPictures(
            f"{len(missing)} of {len(distinct)} pictures are missing in {folder}, the first {', '.join(missing[:3])}: {advice}"
            + ("" if skip_missing else ", or leave their samples out with --skip-missing"),
            [str(folder / name) for name in missing],
        )
    return np.array([str(folder / name) for name in names])[there], there


def _is_name(name: str) -> bool:
    """Can a file be called that?"""
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character, from a broken escape in JSON
        return False
    return bool(name) and name.rpartition("/")[2] not in ("", ".", "..") and "\\" not in name and "\0" not in name


def _stays_inside(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/"))


def _check_links(
    folder: Path, names: Sequence[str], present: dict[str, dict[str, bool]], bounds: Bounds, called: Callable[[str], str]
) -> None:
    """Raise `HgfastError` for a picture that is a link, or in a folder that is one, which leads out of the bounds."""
    within = [os.path.realpath(place) for place in (folder, bounds.root) if place is not None]
    folders = {inner: os.path.realpath(folder / inner) for inner in present}
    for name in names:
        inner, last = os.path.split(name)
        is_link = present[inner][last]
        real = os.path.realpath(os.path.join(folders[inner], last)) if is_link else folders[inner]  # noqa: PTH118
        if is_link and os.path.exists(real) and not (os.path.isfile(real) or os.path.isdir(real)):  # noqa: PTH110, PTH112, PTH113
            raise HgfastError(f"{folder / name}, the picture of {called(name)}, is a link to a device or a pipe: remove it")
        if not any(real == place or real.startswith(os.path.join(place, "")) for place in within):  # noqa: PTH118
            raise HgfastError(
                f"{folder / name}, the picture of {called(name)}, is a link that leads out of the data, to {real}: "
                "copy what it leads to, or give --data-outside if that is meant"
            )


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Pipes and devices may not: who opens them may wait for ever. Folders are for the file check to complain of."""
    return entry.is_file(follow_symlinks=False) or entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def _listing(folder: Path, inner: str) -> dict[str, bool]:
    """The names in a sub-folder of `folder`, and whether each is a link; none where there is no such sub-folder."""
    try:
        with os.scandir(folder / inner) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if _may_be_read(entry)}
    except OSError as error:
        if inner and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return {}
        raise HgfastError(f"{folder / inner} cannot be read ({error.strerror}): check its permissions") from error
