"""Find images that two splits share: such images make the accuracy on the second one look better than it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hgfast.pipelines.samples import Samples

MAX_IMAGES = 20_000
"""Images of both splits up to which the start of training also compares their content; `hgfast check` always does."""


def shared_images(train: Samples, valid: Samples, max_images: float = float("inf")) -> list[str]:
    """Return one warning for images of both splits with the same path, and one for others with the same content.

    The content of files is compared only up to `max_images` distinct images together, and only of files of the same size.
    """
    train_paths, valid_paths = (sorted({os.path.realpath(path) for path in samples.paths.tolist()}) for samples in (train, valid))
    warnings = []
    same_paths = set(train_paths) & set(valid_paths)
    if same_paths:
        warnings.append(_warning(len(same_paths), len(valid_paths), f"are also trained on (the first {min(same_paths)})"))
    others = [path for path in valid_paths if path not in same_paths]
    if others and len(train_paths) + len(others) <= max_images:
        copies = _same_content(train_paths, others)
        if copies:
            first = min(copies)
            what = f"are copies of images to train on (the first {first} of {copies[first]})"
            warnings.append(_warning(len(copies), len(valid_paths), what))
    return warnings


def _warning(count: int, total: int, what: str) -> str:
    return (
        f"{count} of {total} images to validate on {what}: the accuracy will look better than it is; remove them from one split"
    )


def _same_content(known: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Return those of `paths` whose content is that of one of `known`, with the latter."""
    of_size: dict[int, list[str]] = {}
    for path in known:
        of_size.setdefault(_size(path), []).append(path)
    candidates = [path for path in paths if _size(path) in of_size]
    digests: dict[str, str] = {}
    needed = {size for path in candidates if (size := _size(path)) > 0}
    for size in tqdm(sorted(needed), "compare images", unit="size", disable=None, leave=False, delay=2):
        for path in of_size[size]:
            digests.setdefault(_digest(path), path)
    return {path: digests[digest] for path in candidates if _size(path) > 0 and (digest := _digest(path)) in digests}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (a Path for each of 100 000 files is slower)
    except OSError:
        return 0


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:  # the loader reports it
        return f"unreadable {path}"
