"""Find a data set's images on disk: one rule for all readers. Files are listed, not opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError


class MissingImages(HgfastError):
    """Some images are missing. `missing` holds their paths, each once."""

    def __init__(self, message: str, missing: Sequence[str]) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class AllowedRoots:
    """Where images may lie: in their folder, anywhere in the data set's root if `root` is given, or anywhere if `outside`.

    The folder and the root may themselves be links.
    """

    root: Path | None = None
    outside: bool = False


FOLDER_ONLY = AllowedRoots()


def find_images(
    folder: Path,
    names: Sequence[str],
    skip_missing: bool,
    advice: str,
    allowed: AllowedRoots = FOLDER_ONLY,
    describe: Callable[[int], str] = "sample {}".format,
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Return the paths of the existing images, and a mask (N,) of `names` that exist.

    A name may contain sub-folders ("train2017/0001.jpg") but not lead out of `folder`, and a symbolic link may not lead out of
    `allowed`: other people write annotations and pack folders. With `AllowedRoots.outside` both may. Every folder is listed once;
    only links are examined further.
    Without `skip_missing`, all images must exist; `advice` says what to do about missing ones. `describe` names the sample that
    an entry of `names` belongs to.

    Raises:
        MissingImages: images are missing or, with `skip_missing`, all are; the message has their number and the first names.
        HgfastError: a name or a link leads out.
    """
    distinct = dict.fromkeys(names)
    invalid = next((name for name in distinct if not (_is_file_name(name) and (allowed.outside or _is_inside(name)))), None)
    if invalid is not None:
        raise HgfastError(
            f"{describe(list(names).index(invalid))} names the image {invalid!r}, "
            f"which is no plain name of a file in {folder} or its sub-folders: correct it"
            + (", or give --data-outside" if _is_file_name(invalid) else "")
        )
    split = {name: os.path.split(name) for name in distinct}
    listings = {inner: _list_folder(folder, inner) for inner in {"", *(inner for inner, _ in split.values())}}
    exists = {name: last in listings[inner] for name, (inner, last) in split.items()}
    if not allowed.outside:
        existing = [name for name in distinct if exists[name]]
        _check_links(folder, existing, listings, allowed, lambda name: describe(list(names).index(name)))
    missing = [name for name in distinct if not exists[name]]
    mask = np.array([exists[name] for name in names], bool)
    if missing and (not skip_missing or len(missing) == len(distinct)):
        raise MissingImages(
            f"{len(missing)} of {len(distinct)} images are missing in {folder}, the first {', '.join(missing[:3])}: {advice}"
            + ("" if skip_missing else ", or leave their samples out with --skip-missing"),
            [str(folder / name) for name in missing],
        )
    path_of = {name: str(folder / name) for name in distinct}
    return np.array([path_of[name] for name in names])[mask], mask


def _is_file_name(name: str) -> bool:
    """Return True if a file can have this name."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half a character, from a broken escape in JSON
        return False
    return bool(name) and name.rpartition("/")[2] not in ("", ".", "..") and "\\" not in name and "\0" not in name


def _is_inside(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/"))


def _check_links(
    folder: Path, names: Sequence[str], present: dict[str, dict[str, bool]], bounds: AllowedRoots, describe: Callable[[str], str]
) -> None:
    """Raise `HgfastError` for an image that is a link, or lies in a linked folder, whose target is outside of the bounds."""
    roots = [os.path.realpath(place) for place in (folder, bounds.root) if place is not None]
    folders = {inner: os.path.realpath(folder / inner) for inner in present}
    for name in names:
        inner, last = os.path.split(name)
        is_link = present[inner][last]
        real = os.path.realpath(os.path.join(folders[inner], last)) if is_link else folders[inner]  # noqa: PTH118
        if is_link and os.path.exists(real) and not (os.path.isfile(real) or os.path.isdir(real)):  # noqa: PTH110, PTH112, PTH113
            raise HgfastError(f"{folder / name}, the image of {describe(name)}, is a link to a device or a pipe: remove it")
        if not any(real == place or real.startswith(os.path.join(place, "")) for place in roots):  # noqa: PTH118
            raise HgfastError(
                f"{folder / name}, the image of {describe(name)}, is a link that leads out of the data, to {real}: "
                "copy its target into the data, or allow it with --data-outside"
            )


def _is_openable(entry: os.DirEntry[str]) -> bool:
    """Return False for pipes and devices, which could block when opened. Folders are left to the file check."""
    return entry.is_file(follow_symlinks=False) or entry.is_symlink() or entry.is_dir(follow_symlinks=False)


def _list_folder(folder: Path, inner: str) -> dict[str, bool]:
    """Return the names in a sub-folder of `folder`, and whether each is a link; {} if there is no such sub-folder."""
    try:
        with os.scandir(folder / inner) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if _is_openable(entry)}
    except OSError as error:
        if inner and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return {}
        raise HgfastError(f"{folder / inner} cannot be read ({error.strerror}): check its permissions") from error
