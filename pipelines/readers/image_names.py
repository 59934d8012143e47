"""Resolve the names of images that annotation tools write to the names of files in the images' folder.

Tools write backslashes, `./`, absolute paths, percent-encoding, another case or another Unicode form. Files are listed, not
opened.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

OTHER_CASE = "are written in another case"
ODD_NAME = re.compile(r"[\\]|//|^/|(^|/)\.{1,2}(/|$)")


def resolve_names(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names (N,) relative to `folder` of the files that `names` (N,) mean, and one note per kind of difference.

    A name that already is a file's, or that means no file, stays as it is; names that lead out of the folder stay, too: the
    caller refuses them.
    """
    listing = _Listing(folder)
    resolved = {name: _plain_name(name, folder) for name in names}
    reasons: dict[str, list[tuple[str, str]]] = {}
    for name, plain in resolved.items():
        if plain in listing:
            continue
        for reason, candidate in _candidates(plain, folder, listing):
            if candidate in listing and not (reason == OTHER_CASE and candidate in resolved):
                resolved[name] = candidate
                reasons.setdefault(reason, []).append((name, candidate))
                break
    notes = [
        f"{len(pairs)} image names {reason}, the first {pairs[0][0]!r} for {pairs[0][1]!r}" for reason, pairs in reasons.items()
    ]
    return [resolved[name] for name in names], notes


def _plain_name(name: str, folder: Path) -> str:
    """Return the name with forward slashes, without `./`, `//` and inner `..`, and relative to the folder if it lies in it."""
    if not ODD_NAME.search(name):
        return name
    plain = name.replace("\\", "/")
    if plain.rpartition("/")[2] in ("", ".", ".."):
        return name
    plain = re.sub("^/{2,}", "/", posixpath.normpath(plain))
    for root in (os.path.abspath(folder), os.path.realpath(folder)):  # noqa: PTH100
        plain = plain.removeprefix(root.rstrip("/") + "/")
    return plain


def _candidates(name: str, folder: Path, listing: _Listing) -> Iterator[tuple[str, str]]:
    """Yield what else a name may mean: the kind of difference, and the name of a file."""
    decoded = _plain_name(_percent_decoded(name), folder)
    yield "are percent-encoded", decoded
    parts, tail = decoded.split("/"), os.path.abspath(folder).split("/")  # noqa: PTH100
    inner = ["/".join(parts[count:]) for count in range(1, len(parts)) if tail[-count:] == parts[:count]]
    for name_inside in inner:
        yield "start with the folder of the images itself", name_inside
    for variant in (decoded, *inner):
        for form in ("NFC", "NFD"):
            yield "are in another Unicode form", unicodedata.normalize(form, variant)
        yield "have blanks at an end", variant.strip()
        if (found := listing.find_ignoring_case(variant)) is not None:
            yield OTHER_CASE, found


def _percent_decoded(name: str) -> str:
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError:  # a percent sign of the name itself
        return name


class _Listing:
    """The files in a folder and its sub-folders. Every sub-folder is listed once, when a name in it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, set[str]] = {}
        self._folded: dict[str, dict[str, list[str]]] = {}

    def __contains__(self, name: str) -> bool:
        inner, _, last = name.rpartition("/")
        return last in self._list(inner) if _is_inside(name) else False

    def find_ignoring_case(self, name: str) -> str | None:
        """Return the only file whose name differs in case and Unicode form alone; None if there is not exactly one."""
        if not _is_inside(name):
            return None
        found = ""
        for part in name.split("/"):
            if found not in self._folded:
                folded = self._folded[found] = {}
                for entry in self._list(found):
                    folded.setdefault(_fold(entry), []).append(entry)
            matches = self._folded[found].get(_fold(part), [])
            if len(matches) != 1:
                return None
            found = f"{found}/{matches[0]}" if found else matches[0]
        return found

    def _list(self, inner: str) -> set[str]:
        if inner not in self._names:
            try:
                self._names[inner] = set(os.listdir(self._folder / inner))  # noqa: PTH208  (scandir's entries are not needed)
            except (OSError, ValueError):  # no such folder, or one that find_images reports
                self._names[inner] = set()
        return self._names[inner]


def _is_inside(name: str) -> bool:
    return not {"", ".", ".."} & set(name.split("/"))


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
