"""Accuracy of predicted keypoints: arrays in, per-joint and total figures out.

Shapes: predicted and true (N, K, 2) in the same pixels, labelled (N, K) bool, reference (N,) the length in those pixels
that normalises a sample's errors; PCK leaves out samples in which it is not finite. Totals pool all labelled joints.
Joints never labelled are NaN.
What may enter: metrics with a published definition, each citing it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.skeletons import Skeleton

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A figure in total and for each of the K joints."""

    total: float
    joints: Array


@dataclass(frozen=True)
class GroupScore(Score):
    """A `Score` with a figure for each of the skeleton's groups."""

    groups: dict[str, float]


def distances(predicted: ArrayLike, true: ArrayLike) -> Array:
    """Euclidean distances (N, K). Raises `HgfastError` where the shapes differ."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[-1] != 2:
        raise HgfastError(f"predictions {predicted.shape} and truth {true.shape} must both be (samples, joints, 2)")
    return np.asarray(np.linalg.norm(predicted - true, axis=-1), np.float64)


def pck(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike, threshold: float) -> Score:
    """Share of labelled joints with distance / reference strictly below threshold (as mmpose's PCKAccuracy).

    A sample whose reference is NaN or infinite (a torso of which one end is not labelled, say) does not count.
    """
    length = np.asarray(reference, np.float64)[:, None]
    hits = distances(predicted, true) < threshold * length
    return _mean(hits.astype(np.float64), np.asarray(labelled, bool) & np.isfinite(length))


def pckh(
    predicted: ArrayLike,
    true: ArrayLike,
    labelled: ArrayLike,
    head: ArrayLike,
    skeleton: Skeleton,
    threshold: float = 0.5,
) -> GroupScore:
    """MPII's PCKh by the official rule (evalMPII.m): distance / head size `<=` threshold, in percent.

    `head` (N,): 0.6 times the diagonal of the head's box, pixels (`normalize` in the h5 files). Occluded joints count,
    absent ones do not. The total pools the joints of `skeleton.groups`; a group is the plain mean of its joints.
    """
    near = distances(predicted, true) <= threshold * np.asarray(head, np.float64)[:, None]
    hits = np.where(near, 100.0, 0.0)
    score = _mean(hits, labelled)
    counted = skeleton.grouped
    total = _mean(hits[:, counted], np.asarray(labelled)[:, counted]).total
    groups = {name: _nanmean(score.joints[list(joints)]) for name, joints in skeleton.groups}
    return GroupScore(total, score.joints, groups)


def epe(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike) -> Score:
    """Mean distance over labelled joints, in the points' pixels (the end-point error of mmpose's EPE)."""
    return _mean(distances(predicted, true), labelled)


def auc(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, maximum: float = 30.0, rule: str = "freihand") -> Score:
    """Area under the curve of the share of joints within t pixels, t from 0 to `maximum`, divided by `maximum`.

    rule "freihand": `<=`, 100 thresholds, trapezoids (freihand's eval_util); its total is the mean of the joints.
    rule "mmpose": `<`, the left ends of 20 steps, so that a perfect prediction has .95 (mmpose's AUC); total as there.
    """
    errors = distances(predicted, true)
    if rule == "freihand":
        thresholds = np.linspace(0, maximum, 100)
        curve = np.stack([_mean((errors <= t).astype(np.float64), labelled).joints for t in thresholds])
        joints = ((curve[1:] + curve[:-1]) / 2).mean(0)
    elif rule == "mmpose":
        thresholds = np.arange(20) / 20 * maximum
        joints = np.mean([_mean((errors < t).astype(np.float64), labelled).joints for t in thresholds], axis=0)
    else:
        raise ValueError(f"auc: rule is 'freihand' or 'mmpose', not {rule!r}")
    return Score(_nanmean(joints), joints)


def _mean(values: Array, labelled: ArrayLike) -> Score:
    mask = np.asarray(labelled, bool)
    counts = mask.sum(0)
    sums = np.where(mask, values, 0.0).sum(0)
    joints = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return Score(float(sums.sum() / counts.sum()) if counts.sum() else float("nan"), joints)


def _nanmean(values: Array) -> float:
    """The mean of the figures that there are; NaN, without numpy's warning, where there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def pck_table(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """The figures that any set of joints has: PCK as a share of `reference`, EPE in source pixels over all samples."""
    return {
        **{f"pck@{t}": pck(predicted, true, labelled, reference, t).total for t in (0.05, 0.1, 0.2)},
        "epe_px": epe(predicted, true, labelled).total,
    }


def hand_table(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """The figures reported for hands, under the names that tables and JSON files carry.

    PCK is of the hand's box (longer side, `reference`); AUC and EPE are in source pixels.
    """
    table = pck_table(predicted, true, labelled, reference)
    epe_px = table.pop("epe_px")
    return {
        **table,
        "auc_0_30px": auc(predicted, true, labelled).total,
        "auc_0_30px_mmpose": auc(predicted, true, labelled, rule="mmpose").total,
        "epe_px": epe_px,
        "epe_median_px": float(np.median(distances(predicted, true)[np.asarray(labelled, bool)])),
    }


def body_table(
    predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, head: ArrayLike, skeleton: Skeleton
) -> dict[str, float]:
    """The figures reported for bodies, in percent: PCKh by joint group and in total, by the official rule of `pckh`.

    auc is the area under the total's curve from 0 to 0.5 of the head, 51 thresholds, trapezoids (evalMPII.m).
    """
    scores = [pckh(predicted, true, labelled, head, skeleton, t / 100) for t in range(51)]
    curve, half = [score.total for score in scores], scores[-1]
    area = (sum(curve) - (curve[0] + curve[-1]) / 2) / 50
    return {**half.groups, "pckh@0.5": half.total, "pckh@0.1": curve[10], "auc": area}
