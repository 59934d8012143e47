"""Visualize a network's predictions: metrics per joint, accuracy curves, and grids with heatmap overlays."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray
from hgfast.metrics import Metric, epe, keypoint_distances
from hgfast.model import StackedHourglass
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.training.evaluator import eval_mode, has_prediction
from hgfast.training.run_logger import RunLogger
from hgfast.visualization.draw import Image, add_caption, image_grid, normalize_heatmaps, overlay_heatmap, read_image
from hgfast.visualization.gallery import TILE_SIZE, SampleArrays, error_caption, select_evenly, truth_prediction_tiles


class AccuracyCurves(NamedTuple):
    """Data for `hgfast.visualization.charts`: thresholds (T,), accuracies (T,) by name, the labels of both axes, the maximum."""

    thresholds: FloatArray
    accuracy: Mapping[str, FloatArray]
    labels: tuple[str, str]
    max_value: float


def joint_metrics(samples: SampleArrays, predicted: FloatArray, metric: Metric) -> list[dict[str, Any]]:
    """Return a row per joint: its name as "joint", its accuracy under the name of `Metric.joint`, and "epe_px".

    Args:
        predicted: (N, K, 2) in source pixels. Samples without a prediction (see `hgfast.training.evaluator`) do not count.
    """
    true, labeled = samples.keypoints, _evaluated_joints(samples, predicted)
    name, threshold = metric.joint
    accuracy = metric.curve(predicted, true, labeled, samples.reference, samples.skeleton, [threshold]).joints[0]
    errors = epe(predicted, true, labeled).joints
    return [
        {"joint": joint, name: float(accuracy[k]), "epe_px": float(errors[k])} for k, joint in enumerate(samples.skeleton.joints)
    ]


def accuracy_curves(samples: SampleArrays, predictions: Mapping[str, FloatArray], metric: Metric) -> AccuracyCurves:
    """Return the total of `Metric.curve` for each method. `predictions` as in `joint_metrics`."""
    curves = {
        method: metric.curve(
            predicted, samples.keypoints, _evaluated_joints(samples, predicted), samples.reference, samples.skeleton
        )
        for method, predicted in predictions.items()
    }
    thresholds = next(iter(curves.values())).thresholds
    return AccuracyCurves(thresholds, {method: curve.total for method, curve in curves.items()}, metric.labels, metric.full)


def _evaluated_joints(samples: SampleArrays, predicted: FloatArray) -> NDArray[np.bool_]:
    """Which joints (N, K) are labeled, in samples with a prediction."""
    return samples.labeled & has_prediction(predicted)[:, None]


def validation_grid(model: StackedHourglass, samples: SampleArrays, count: int = 8) -> Image:
    """Show `count` evenly spaced labeled samples, always the same: two per row, three tiles each.

    The tiles are the ground truth, the prediction, and the maximum over the joints' normalized heatmaps. Only labeled joints are
    drawn. An image that cannot be read has black tiles with a caption. The mode of the model is restored.
    """
    indices = select_evenly(np.flatnonzero(samples.labeled.any(1)), count)
    with eval_mode(model):
        tiles = [tile for sample in indices.tolist() for tile in _sample_tiles(model, samples, sample)]
    return image_grid(tiles, 6 if len(indices) > 1 else 3)


def _sample_tiles(model: StackedHourglass, samples: SampleArrays, sample: int) -> list[Image]:
    """Return the three tiles of a sample."""
    try:
        image = read_image(samples.paths[sample])
    except HgfastError:
        placeholder = np.zeros((TILE_SIZE, TILE_SIZE, 3), np.uint8)
        return [add_caption(placeholder, f"row {samples.row[sample]}: cannot be read"), placeholder, placeholder]
    keypoints, _, heatmaps = predict_crops(model, image, samples.center[sample, None], samples.side[sample, None])
    predicted = np.where(np.isfinite(keypoints[0, :, :2]), keypoints[0, :, :2], np.nan)
    errors = keypoint_distances(predicted[None], samples.keypoints[sample, None])[0]
    caption = error_caption(float(errors[samples.labeled[sample]].mean()))
    crop, *drawn = truth_prediction_tiles(samples, sample, image, predicted, caption)
    heat = overlay_heatmap(crop, normalize_heatmaps(heatmaps[0], model.meta.heatmap_kind).max(0))
    return [*drawn, add_caption(heat, "heatmaps")]


def log_validation(
    samples: SampleArrays,
    metric: Metric,
    log: RunLogger,
    step: int,
    predicted: FloatArray,
    network: StackedHourglass,
    count: int = 8,
) -> None:
    """Log a validation to TensorBoard: scalars joints/NAME, the first metric of `joint_metrics`, and the images valid/curve, if
    matplotlib is installed, and valid/grid.

    samples: the N samples of the validation split. predicted: (N, K, 2) from `hgfast.training.evaluator.predict`.
    """
    metrics = [tuple(row.values())[:2] for row in joint_metrics(samples, predicted, metric)]
    log.log_scalars(step, {f"joints/{name}": value for name, value in metrics if np.isfinite(value)})
    try:
        from hgfast.visualization import charts  # requires matplotlib, which is optional
    except HgfastError:
        log.warn_once("TensorBoard gets no accuracy curve, which requires matplotlib: pip install matplotlib")
    else:
        curve = charts.curve_image(*accuracy_curves(samples, {"network": predicted}, metric), f"step {step}")
        log.log_image(step, "valid/curve", curve, ".png")
        gc.collect()  # figures have reference cycles, some 30 MB, which would otherwise stay until the next collection
    log.log_image(step, "valid/grid", validation_grid(network, samples, count))
