"""`Samples`, one struct of arrays for every data set: code after the readers does not depend on the data set."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.skeletons import Skeleton


@dataclass(frozen=True)
class Samples:
    """N samples with K joints. Points and lengths are in source pixels, corner convention (hgfast.geometry).

    paths: (N,) str. center: (N, 2) and side: (N,) of the square to crop. keypoints: (N, K, 2). labeled: (N, K) bool. reference:
    (N,) length that normalizes errors. group: (N,) int, equal for samples that must stay in one split. row: (N,) int, number of
    the sample in the data set's own files, as the reader defines it; leaving other samples out does not change it.
    pixel_offset: offset that was added to the files' coordinates to reach the convention. skipped: number of samples left out
    because their image is missing; unreadable: because the file check or the crop cache found their image to be bad. notes: one
    warning per element, about everything in the files that may be wrong.
    """

    paths: NDArray[np.str_]
    center: NDArray[np.float64]
    side: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    labeled: NDArray[np.bool_]
    reference: NDArray[np.float64]
    group: NDArray[np.int64]
    row: NDArray[np.int64]
    skeleton: Skeleton
    pixel_offset: float
    skipped: int = 0
    unreadable: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        num_samples, k = len(self.paths), len(self.skeleton.joints)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("side", "reference", "group", "row"), (num_samples,))
        shapes |= {"center": (num_samples, 2), "keypoints": (num_samples, k, 2), "labeled": (num_samples, k)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Samples.{name} has shape {getattr(self, name).shape}, wanted {shape}")
        if num_samples == 0:
            raise HgfastError("the data set has no samples")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[Any] | np.bool_) -> Samples:
        """Return the samples that (N,) `rows` selects (a mask or indices). Raises `HgfastError` if none is left."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, **arrays)

    @property
    def summary(self) -> str:
        """Number of samples, and how many were left out because of their image."""
        notes = [f"{self.skipped} more without their image"] if self.skipped else []
        if self.unreadable:
            notes.append(f"{self.unreadable} {'with one' if notes else 'more with an image'} that cannot be read")
        return f"{len(self)} samples" + (f" ({', '.join(notes)})" if notes else "")
