"""Image grids of ground truth and prediction, for evenly selected samples or for the worst ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hgfast.geometry import FloatArray, crop_matrices, transform_points, warp
from hgfast.metrics import keypoint_distances
from hgfast.skeletons import Skeleton
from hgfast.visualization.draw import Image, add_caption, draw_skeleton, image_grid, read_image

TILE_SIZE = 224  # side of a tile, pixels
NUM_SAMPLES, NUM_COLUMNS = 24, 8  # samples per grid, tiles per row


class SampleArrays(Protocol):
    """The fields of `hgfast.pipelines.samples.Samples` that a grid needs: N samples with K joints."""

    @property
    def paths(self) -> NDArray[np.str_]: ...

    @property
    def center(self) -> FloatArray: ...

    @property
    def side(self) -> FloatArray: ...

    @property
    def keypoints(self) -> FloatArray: ...

    @property
    def labeled(self) -> NDArray[np.bool_]: ...

    @property
    def reference(self) -> FloatArray: ...

    @property
    def row(self) -> NDArray[np.int64]: ...

    @property
    def skeleton(self) -> Skeleton: ...


def mean_errors(samples: SampleArrays, predicted: FloatArray) -> FloatArray:
    """Return the mean error (N,) of each sample's labeled joints for predictions (N, K, 2), in source pixels; NaN if no joint is
    labeled, infinite if a prediction is."""
    labeled = samples.labeled
    sums, counts = np.where(labeled, keypoint_distances(predicted, samples.keypoints), 0).sum(1), labeled.sum(1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def evenly_spaced_grid(samples: SampleArrays, predicted: FloatArray, count: int = NUM_SAMPLES) -> Image:
    """Show `count` samples spread evenly from the smallest to the largest mean error. Arguments as in `worst_samples_grid`."""
    errors = mean_errors(samples, predicted)
    order = np.argsort(errors, kind="stable")[: (~np.isnan(errors)).sum()]  # NaN comes last
    indices = select_evenly(order, count)
    return _truth_prediction_grid(samples, predicted, indices, [error_caption(error) for error in errors[indices]])


def error_caption(error: float, relative_error: float = np.nan) -> str:
    """Format a mean error in pixels and, if given, as a fraction of the reference length."""
    if not np.isfinite(error):
        return "not all finite"
    return f"off by {relative_error:.2f} ({error:.1f} px)" if np.isfinite(relative_error) else f"{error:.1f} px off"


def select_evenly(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Select `count` of (N,) rows, or all if there are fewer, evenly spaced from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def worst_samples_grid(samples: SampleArrays, predicted: FloatArray, count: int = NUM_SAMPLES) -> Image:
    """Show the `count` samples with the largest mean error relative to their reference length, the worst first. Of samples with
    identical keypoints, such as FreiHAND's versions of one hand, only one is shown.

    Each sample has two tiles, ground truth and prediction, with labeled joints only. The captions give the row in the data set's
    files and the mean error, relative and in pixels. Samples with a prediction that is not finite come first; samples without a
    reference length come last, with the error in pixels only.

    Args:
        samples: N samples, at least one of them labeled.
        predicted: (N, K, 2) in source pixels.
    """
    errors = mean_errors(samples, predicted)
    has_reference = np.isfinite(samples.reference) & (samples.reference > 0)
    relative_errors = np.where(has_reference, errors / np.where(has_reference, samples.reference, 1.0), np.nan)
    finite = np.flatnonzero(~np.isnan(errors))
    ranks = np.where(has_reference, relative_errors, -1.0)[finite]
    order = finite[np.argsort(-ranks, kind="stable")]
    _, first = np.unique(samples.keypoints[order], axis=0, return_index=True)
    indices = order[np.sort(first)[:count]]
    return _truth_prediction_grid(samples, predicted, indices, [error_caption(errors[n], relative_errors[n]) for n in indices])


def _truth_prediction_grid(
    samples: SampleArrays, predicted: FloatArray, chosen: NDArray[np.intp], captions: Sequence[str]
) -> Image:
    """Return two tiles for each of the samples `chosen`; `captions` describe the predictions."""
    tiles: list[Image] = []
    for sample, caption in zip(chosen.tolist(), captions):
        tiles += truth_prediction_tiles(samples, sample, read_image(samples.paths[sample]), predicted[sample], caption)[1:]
    return image_grid(tiles, NUM_COLUMNS)


def truth_prediction_tiles(
    samples: SampleArrays, sample: int, image: Image, predicted: FloatArray, caption: str
) -> tuple[Image, Image, Image]:
    """Return the crop of a sample, and the crop with the true and with the predicted (K, 2) labeled joints."""
    matrices = crop_matrices(samples.center[sample, None], samples.side[sample, None], TILE_SIZE)
    crop, finite = warp(image, matrices[0], TILE_SIZE), np.where(np.isfinite(predicted), predicted, np.nan)
    truth, prediction = (
        draw_skeleton(crop, transform_points(points[None], matrices)[0], samples.skeleton, samples.labeled[sample])
        for points in (samples.keypoints[sample], finite)
    )
    return crop, add_caption(truth, f"row {samples.row[sample]}: truth"), add_caption(prediction, f"predicted, {caption}")
