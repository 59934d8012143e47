"""One struct of arrays for every data set: after it nothing knows which data set a sample came from.

What may enter: what every data set has; what only one has stays with its reader.
"""

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

    paths: (N,) str. centre: (N, 2) and side: (N,) of the square to crop. keypoints: (N, K, 2). labelled: (N, K) bool.
    reference: (N,) length that normalises errors. group: (N,) int, equal for samples that must not be split apart.
    row: (N,) int, the number by which the data set's own files know the sample; every reader says which that is. It stays with
    the sample, whichever others are left out.
    pixel_offset: what was added to the files' coordinates to reach the convention. skipped: how many samples were left out
    because their picture is missing; unreadable: because the file check or the crop
    cache found theirs to be bad.
    """

    paths: NDArray[np.str_]
    centre: NDArray[np.float64]
    side: NDArray[np.float64]
    keypoints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    reference: NDArray[np.float64]
    group: NDArray[np.int64]
    row: NDArray[np.int64]
    skeleton: Skeleton
    pixel_offset: float
    skipped: int = 0
    unreadable: int = 0

    def __post_init__(self) -> None:
        n, k = len(self.paths), len(self.skeleton.joints)
        one = dict.fromkeys(("side", "reference", "group", "row"), (n,))
        for name, shape in {"centre": (n, 2), "keypoints": (n, k, 2), "labelled": (n, k), **one}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Samples.{name} has shape {getattr(self, name).shape}, wanted {shape}")
        if n == 0:
            raise HgfastError("the data set has no samples")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[Any] | np.bool_) -> Samples:
        """Those samples for which (N,) `rows` is true. Raises `HgfastError` where there are none."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        return replace(self, **arrays)

    @property
    def in_words(self) -> str:
        """How many there are, and how many more there would be with all pictures."""
        more = [f"{self.skipped} more without their picture"] if self.skipped else []
        if self.unreadable:
            more.append(f"{self.unreadable} {'with one' if more else 'more with a picture'} that cannot be read")
        return f"{len(self)} samples" + (f" ({', '.join(more)})" if more else "")
