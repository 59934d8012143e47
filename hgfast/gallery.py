"""Sheets of samples, ground truth beside prediction: an even choice of them all, or the worst.

What may enter: choosing samples and putting their pictures side by side. Data sets come in from outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hgfast.draw import Image, caption, draw_skeleton, read_image, sheet
from hgfast.geometry import move, square_matrices, warp
from hgfast.metrics import distances
from hgfast.skeletons import Skeleton

TILE = 224  # side of a picture on a sheet, pixels
COUNT, COLUMNS = 24, 8  # samples on a sheet, pictures in a row

Array = NDArray[np.float64]


class Pictured(Protocol):
    """What a sheet needs of N samples with K joints; as in `pipelines.samples.Samples`."""

    @property
    def paths(self) -> NDArray[np.str_]: ...

    @property
    def centre(self) -> Array: ...

    @property
    def side(self) -> Array: ...

    @property
    def keypoints(self) -> Array: ...

    @property
    def labelled(self) -> NDArray[np.bool_]: ...

    @property
    def reference(self) -> Array: ...

    @property
    def row(self) -> NDArray[np.int64]: ...

    @property
    def skeleton(self) -> Skeleton: ...


def mean_errors(samples: Pictured, predicted: Array) -> Array:
    """The mean distance (N,) of each sample's labelled joints from (N, K, 2), in source pixels; NaN where none is labelled,
    infinite where the point of one is."""
    labelled = samples.labelled
    sums, counts = np.where(labelled, distances(predicted, samples.keypoints), 0).sum(1), labelled.sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def spread_sheet(samples: Pictured, predicted: Array, count: int = COUNT) -> Image:
    """`count` samples spread evenly from the smallest mean error in pixels to the largest. Arguments as `worst_sheet`."""
    errors = mean_errors(samples, predicted)
    order = np.argsort(errors, kind="stable")[: (~np.isnan(errors)).sum()]  # NaN comes last
    chosen = evenly(order, count)
    return _pairs(samples, predicted, chosen, [in_words(error) for error in errors[chosen]])


def in_words(error: float, share: float = np.nan) -> str:
    """A mean error in pixels, and as that share of the reference length where there is one, for a caption."""
    if not np.isfinite(error):
        return "not all finite"
    return f"off by {share:.2f} ({error:.1f} px)" if np.isfinite(share) else f"{error:.1f} px off"


def evenly(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """`count` of (N,) rows, or all where there are fewer, from the first to the last and evenly spread between."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def worst_sheet(samples: Pictured, predicted: Array, count: int = COUNT) -> Image:
    """The `count` samples with the largest mean error as a share of their reference length, the worst first. Of samples with the
    same points, as FreiHAND's backgrounds of one hand, there is one.

    Each has two pictures, the ground truth and the prediction, with labelled joints only, under the sample's row in the data
    set's files and its mean error as that share and in pixels. Those with a joint whose point is not finite come
    first, samples without a reference length last, with the pixels alone.

    Args:
        samples: N, one of them labelled at least.
        predicted: (N, K, 2) in source pixels.
    """
    errors = mean_errors(samples, predicted)
    usable = np.isfinite(samples.reference) & (samples.reference > 0)
    shares = np.where(usable, errors / np.where(usable, samples.reference, 1.0), np.nan)
    known = np.flatnonzero(~np.isnan(errors))
    ranks = np.where(usable, shares, -1.0)[known]
    order = known[np.argsort(-ranks, kind="stable")]
    _, first = np.unique(samples.keypoints[order], axis=0, return_index=True)
    chosen = order[np.sort(first)[:count]]
    return _pairs(samples, predicted, chosen, [in_words(errors[n], shares[n]) for n in chosen])


def _pairs(samples: Pictured, predicted: Array, chosen: NDArray[np.intp], words: Sequence[str]) -> Image:
    """Two tiles for each of the samples `chosen`, with `words` about the prediction."""
    matrices = square_matrices(samples.centre[chosen], samples.side[chosen], TILE)
    true, found = (move(np.where(np.isfinite(p), p, np.nan), matrices) for p in (samples.keypoints[chosen], predicted[chosen]))
    tiles = []
    for n, sample in enumerate(chosen):
        shown = samples.labelled[sample]
        crop = warp(read_image(samples.paths[sample]), matrices[n], TILE)
        tiles.append(caption(draw_skeleton(crop, true[n], samples.skeleton, shown), f"row {samples.row[sample]}: truth"))
        tiles.append(caption(draw_skeleton(crop, found[n], samples.skeleton, shown), f"predicted, {words[n]}"))
    return sheet(tiles, COLUMNS)
