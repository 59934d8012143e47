"""Accuracy metrics of keypoints: arrays in, figures per joint and in total out.

Shapes: predicted and true (N, K, 2) in the same pixels, labeled (N, K) bool, reference (N,) length in those pixels that
normalizes a sample's errors. Samples whose reference is not finite or not above 0 do not count (mmpose also ignores zeros).
The score of a joint that is never labeled is NaN, and so is the total if there is no other. A predicted point that is not
finite is within no threshold; EPE ignores it.

Projects use the same names for different definitions. The functions or keys of each definition are:
- MPII's evalMPII.m (`pckh`, `pckh_curve`): `<=`, 14 joints pooled, a group is the plain mean of its joints.
- princeton-vl's mpii_eval in test.py, which many forks use ("pooled16@0.5"): `<`, all 16 joints pooled. It treats a joint
  with x = 0 as absent and so drops one of valid.h5's 44240 joints; here all of them count.
- bearpaw's eval_PCKh.py ("mean14@0.5"): `<`, the unweighted mean of the 14 joints.
- mmpose's keypoint_eval.py (`pck`, `auc` by rule "mmpose", `epe`): `<`, PCK and AUC are the unweighted mean of the joints,
  EPE is pooled. It computes in float32, which changes the mean of some thousand errors by less than 1e-6 px.
- FreiHAND's eval_util.py (`auc` by rule "freihand", `pck_curve`, keys with _freihand): `<=`, always the unweighted mean of
  the joints. The official script measures meters in space; here its class is applied to pixels in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.geometry import FloatArray
from hgfast.skeletons import BODY16, Skeleton

Groups = Sequence[tuple[str, tuple[int, ...]]]

PCKH_THRESHOLDS = np.arange(51) / 100
"""Thresholds of the PCKh curve as fractions of the head size: 0:0.01:0.5 in evalMPII.m."""
PCK_THRESHOLDS = np.arange(41) / 200
"""Thresholds of the PCK curve as fractions of the reference length, up to the largest of `pck_metrics`."""
AT_01, AT_05 = 10, 50
"""Indices of 0.1 and 0.5 in `PCKH_THRESHOLDS`."""
PCK_TABLE_THRESHOLDS = (0.05, 0.1, 0.2)
"""Thresholds of PCK in tables."""

BodyMetrics = TypedDict(
    "BodyMetrics",
    {
        "pckh@0.5": dict[str, float],
        "pckh@0.1": dict[str, float],
        "auc": dict[str, float],
        "pooled16@0.5": float,
        "mean14@0.5": float,
    },
)
"""Metrics reported for bodies, in percent; the first three by joint group and "total"."""


@dataclass(frozen=True)
class Score:
    """A metric in total and for each of the K joints."""

    total: float
    joints: FloatArray

    @property
    def macro_mean(self) -> float:
        """The unweighted mean over the joints that have a score."""
        return _nanmean(self.joints)


@dataclass(frozen=True)
class GroupScore(Score):
    """A `Score` with a figure for each of the skeleton's groups."""

    groups: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """The fraction of joints within each of T ascending thresholds: `total` (T,), `joints` (T, K), `groups` by name (T,)."""

    thresholds: FloatArray
    total: FloatArray
    joints: FloatArray
    groups: dict[str, FloatArray]

    def score_at(self, index: int) -> GroupScore:
        """Return the scores at the threshold with this index."""
        groups = {name: float(values[index]) for name, values in self.groups.items()}
        return GroupScore(float(self.total[index]), self.joints[index], groups)

    @property
    def auc(self) -> GroupScore:
        """The area under each curve by trapezoids, divided by the range of the evenly spaced thresholds."""
        groups = {name: float(_area(values)) for name, values in self.groups.items()}
        return GroupScore(float(_area(self.total)), _area(self.joints), groups)


def keypoint_distances(predicted: ArrayLike, true: ArrayLike) -> FloatArray:
    """Return Euclidean distances (N, K). Raises `HgfastError` if the shapes differ."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[-1] != 2:
        raise HgfastError(f"predictions {predicted.shape} and truth {true.shape} must both be (samples, joints, 2)")
    return np.asarray(np.linalg.norm(predicted - true, axis=-1), np.float64)


def pck(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, reference: ArrayLike, threshold: float) -> Score:
    """Compute the fraction of labeled joints with distance / reference strictly below the threshold.

    The total pools all labeled joints; mmpose's PCKAccuracy reports `macro_mean`. Samples whose reference is not finite or not
    above 0 (such as a torso with one unlabeled end) do not count.
    """
    return normalized_pck_curve(predicted, true, labeled, reference, [threshold]).score_at(0)


def normalized_pck_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labeled: ArrayLike,
    reference: ArrayLike,
    thresholds: ArrayLike = PCK_THRESHOLDS,
    groups: Groups = (),
) -> Curve:
    """Compute `pck` at each of (T,) thresholds; a group is the plain mean of its joints."""
    errors, counted = _normalized_distances(keypoint_distances(predicted, true), labeled, reference)
    return _curve(errors, counted, np.asarray(thresholds, np.float64), groups, strict=True)


def pckh(
    predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, head_size: ArrayLike, skeleton: Skeleton, threshold: float = 0.5
) -> GroupScore:
    """Compute MPII's PCKh by the official rule (evalMPII.m): distance / head size `<=` threshold, in percent.

    `head_size` (N,): 0.6 times the diagonal of the head box, pixels (`normalize` in the h5 files). Occluded joints count,
    absent ones do not. The total pools the joints of `skeleton.groups`; a group is the plain mean of its joints.
    """
    return pckh_curve(predicted, true, labeled, head_size, skeleton, [threshold]).score_at(0)


def pckh_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labeled: ArrayLike,
    head_size: ArrayLike,
    skeleton: Skeleton,
    thresholds: ArrayLike = PCKH_THRESHOLDS,
) -> Curve:
    """Compute `pckh` in percent at each of (T,) thresholds, by default the 51 of the official curve, whose `auc` is the AUC."""
    errors, counted = _normalized_distances(keypoint_distances(predicted, true), labeled, head_size)
    return _curve(
        errors, counted, np.asarray(thresholds, np.float64), skeleton.groups, pooled=skeleton.grouped_joints, scale=100.0
    )


def pck_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labeled: ArrayLike,
    max_threshold: float = 30.0,
    num_thresholds: int = 100,
    groups: Groups = (),
) -> Curve:
    """Compute the fraction of joints within (`<=`) t pixels for `num_thresholds` values of t from 0 to `max_threshold`,
    both included (FreiHAND's EvalUtil).

    The total and the groups are unweighted means of the joints, as there.
    """
    thresholds = np.linspace(0, max_threshold, num_thresholds)
    curve = _curve(keypoint_distances(predicted, true), np.asarray(labeled, bool), thresholds, groups)
    return Curve(thresholds, _mean_over_joints(curve.joints), curve.joints, curve.groups)


def epe(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike) -> Score:
    """Compute the mean distance over labeled joints with a finite prediction, in the points' pixels (mmpose's EPE).

    `macro_mean` is the mean that FreiHAND's EvalUtil reports.
    """
    errors, mask = _distances_and_mask(predicted, true, labeled)
    sums, counts = np.where(mask, errors, 0.0).sum(0), mask.sum(0)
    return Score(float(_ratio(sums.sum(), counts.sum())), _ratio(sums, counts))


def median_epe(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike) -> Score:
    """Compute the median distance over the joints that `epe` averages.

    `macro_mean`, the mean of the joints' medians, is the median that FreiHAND's EvalUtil reports.
    """
    errors, mask = _distances_and_mask(predicted, true, labeled)
    joints = [_median(errors[mask[:, joint], joint]) for joint in range(errors.shape[1])]
    return Score(_median(errors[mask]), np.array(joints))


def auc(
    predicted: ArrayLike,
    true: ArrayLike,
    labeled: ArrayLike,
    max_threshold: float = 30.0,
    rule: str = "freihand",
    num_thresholds: int | None = None,
) -> Score:
    """Compute the area under the curve of the fraction of joints within t pixels, t from 0 to `max_threshold`, divided by
    `max_threshold`. The total is the unweighted mean of the joints.

    rule: "freihand": `<=`, 100 thresholds including both ends, trapezoids (FreiHAND's eval_util). "mmpose": `<`, the left ends
        of 20 intervals, so that a perfect prediction has .95 (mmpose's keypoint_auc).
    num_thresholds: another number of thresholds.
    """
    if rule == "freihand":
        joints = pck_curve(predicted, true, labeled, max_threshold, num_thresholds or 100).auc.joints
    elif rule == "mmpose":
        thresholds = np.arange(num_thresholds or 20) / (num_thresholds or 20) * max_threshold
        joints = _curve(keypoint_distances(predicted, true), np.asarray(labeled, bool), thresholds, strict=True).joints.mean(0)
    else:
        raise ValueError(f"auc: rule is 'freihand' or 'mmpose', not {rule!r}")
    return Score(_nanmean(joints), joints)


# ---- tables ----


def pck_metrics(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Compute metrics for any skeleton, all labeled joints pooled: PCK at fractions of `reference`, EPE in source pixels."""
    return {
        **{f"pck@{t}": pck(predicted, true, labeled, reference, t).total for t in PCK_TABLE_THRESHOLDS},
        "epe_px": epe(predicted, true, labeled).total,
    }


def hand_metrics(
    predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, reference: ArrayLike, image_side: ArrayLike | None = None
) -> dict[str, float]:
    """Compute the metrics reported for hands, under their names in tables and JSON files.

    pck@t: fractions of `reference`, the longer side of the hand's box. pck_image@t: fractions of `image_side` (N,), the side of
    the whole image, as in mmpose's FreiHAND configs (224 px); only if it is given. Both are the unweighted mean of the joints,
    strictly below (mmpose's PCKAccuracy).
    auc_0_30px: FreiHAND's EvalUtil on pixels. auc_0_30px_mmpose: mmpose's AUC.
    epe_px: mean over all labeled joints (mmpose's EPE). epe_median_px: their median. epe_px_freihand, epe_median_px_freihand:
    the mean of the joints' means and of their medians (FreiHAND's EvalUtil); if every joint is always labeled, the two means
    are equal and the two medians are not. AUC and EPE are in source pixels.
    """
    table = {f"pck@{t}": pck(predicted, true, labeled, reference, t).macro_mean for t in PCK_TABLE_THRESHOLDS}
    if image_side is not None:
        table |= {f"pck_image@{t}": pck(predicted, true, labeled, image_side, t).macro_mean for t in PCK_TABLE_THRESHOLDS}
    mean, median = epe(predicted, true, labeled), median_epe(predicted, true, labeled)
    return {
        **table,
        "auc_0_30px": auc(predicted, true, labeled).total,
        "auc_0_30px_mmpose": auc(predicted, true, labeled, rule="mmpose").total,
        "epe_px": mean.total,
        "epe_median_px": median.total,
        "epe_px_freihand": mean.macro_mean,
        "epe_median_px_freihand": median.macro_mean,
    }


def body_metrics(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, head: ArrayLike, skeleton: Skeleton) -> BodyMetrics:
    """Compute the metrics reported for bodies, in percent.

    pckh@0.5, pckh@0.1 and auc: by joint group and in total, by the official rule of `pckh`; auc is the area under each curve
    from 0 to 0.5 of the head size, 51 thresholds, trapezoids (evalMPII.m). pooled16@0.5: all joints pooled, including pelvis
    and thorax, strictly below (princeton-vl). mean14@0.5: the unweighted mean of the joints that the official rule counts,
    strictly below (bearpaw/pytorch-pose).
    """
    curve = pckh_curve(predicted, true, labeled, head, skeleton)
    pooled = pck(predicted, true, labeled, head, 0.5)
    return {
        "pckh@0.5": _with_total(curve.score_at(AT_05)),
        "pckh@0.1": _with_total(curve.score_at(AT_01)),
        "auc": _with_total(curve.auc),
        "pooled16@0.5": 100 * pooled.total,
        "mean14@0.5": 100 * _nanmean(pooled.joints[skeleton.grouped_joints]),
    }


def flat_body_metrics(
    predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike, head: ArrayLike, skeleton: Skeleton
) -> dict[str, float]:
    """Compute `body_metrics` as one flat row: the groups' PCKh@0.5 under their names, then the totals."""
    metrics = body_metrics(predicted, true, labeled, head, skeleton)
    groups = {name: share for name, share in metrics["pckh@0.5"].items() if name != "total"}
    totals = {name: metrics[name]["total"] for name in ("pckh@0.5", "pckh@0.1", "auc")}
    return {**groups, **totals, "pooled16@0.5": metrics["pooled16@0.5"], "mean14@0.5": metrics["mean14@0.5"]}


# ---- how a data set is scored ----


@dataclass(frozen=True)
class Metric:
    """How the accuracy on a data set is reported. The functions take predicted, true, labeled and reference, as described above.

    table: (…, side (N,) of the crop square, skeleton) -> metrics by name. best: the one that selects best.pt, higher is better.
    console: those that fit on a line of the console. note: their definitions. curve: (…, skeleton, thresholds) -> accuracy over
    distance / reference. joint: name and threshold of the accuracy of single joints. labels: of the curve's axes. full: the
    accuracy of perfect predictions.
    """

    table: Callable[[FloatArray, FloatArray, NDArray[np.bool_], FloatArray, Any, Skeleton], dict[str, float]]
    best: str
    console: tuple[str, ...]
    note: str
    curve: Callable[..., Curve]
    joint: tuple[str, float]
    labels: tuple[str, str]
    full: float


def _box_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labeled: ArrayLike,
    reference: ArrayLike,
    skeleton: Skeleton,
    thresholds: ArrayLike = PCK_THRESHOLDS,
) -> Curve:
    return normalized_pck_curve(predicted, true, labeled, reference, thresholds, skeleton.groups)


PCKH = Metric(
    table=lambda predicted, true, labeled, head, side, skeleton: flat_body_metrics(predicted, true, labeled, head, skeleton),
    best="pckh@0.5",
    console=(*(name for name, _ in BODY16.groups), "pckh@0.5", "pckh@0.1", "auc"),
    note="PCKh in percent by the official rule, groups at 0.5 of the head; pelvis and thorax do not count; "
    "AUC: 0 to 0.5; pooled16, mean14: princeton-vl's and bearpaw's totals",
    curve=pckh_curve,
    joint=("pckh@0.5", 0.5),
    labels=("distance / head size", "PCKh, percent"),
    full=100.0,
)
"""PCKh of bodies; the reference is the head size."""
BOX_PCK = Metric(
    table=lambda predicted, true, labeled, reference, side, skeleton: pck_metrics(predicted, true, labeled, reference),
    best="pck@0.2",
    console=("pck@0.05", "pck@0.1", "pck@0.2", "epe_px"),
    note="PCK: of the longer side of the box, or of the distance that --normalize names; EPE: source pixels",
    curve=_box_curve,
    joint=("pck@0.2", 0.2),
    labels=("distance / reference length", "PCK"),
    full=1.0,
)
"""PCK of any skeleton."""
HAND_PCK = replace(
    BOX_PCK,
    table=lambda predicted, true, labeled, reference, side, skeleton: hand_metrics(predicted, true, labeled, reference, side),
    best="auc_0_30px",
    console=("pck@0.05", "pck@0.1", "pck@0.2", "auc_0_30px", "epe_px"),
    note="PCK: of the longer side of the hand's box, or of the image's; AUC, EPE: source pixels; "
    "_mmpose, _freihand: by the definitions of those projects",
)
"""PCK, AUC and EPE of hands."""


# ---- helpers ----


def _distances_and_mask(predicted: ArrayLike, true: ArrayLike, labeled: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return distances (N, K) and a mask of those that are labeled and finite."""
    errors = keypoint_distances(predicted, true)
    return errors, np.asarray(labeled, bool) & np.isfinite(errors)


def _normalized_distances(errors: FloatArray, labeled: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return errors (N, K) divided by reference lengths (N,), and a mask of those labeled in a sample with a valid length."""
    length = np.asarray(reference, np.float64)[:, None]
    usable = np.isfinite(length) & (length > 0)
    return errors / np.where(usable, length, 1.0), np.asarray(labeled, bool) & usable


def _curve(
    errors: FloatArray,
    mask: NDArray[np.bool_],
    thresholds: FloatArray,
    groups: Groups = (),
    *,
    strict: bool = False,
    pooled: Sequence[int] | None = None,
    scale: float = 1.0,
) -> Curve:
    """Compute the fraction of the (N, K) errors in `mask` within each of (T,) thresholds, times `scale`.

    The total pools all joints, or those in `pooled`; a group is the plain mean of its joints. `strict`: `<` instead of `<=`.
    """
    side: Literal["left", "right"] = "left" if strict else "right"  # counts sorted errors < t, or <= t
    num_hits = [np.searchsorted(np.sort(errors[mask[:, k], k]), thresholds, side) for k in range(errors.shape[1])]
    hits, counts = scale * np.stack(num_hits, axis=-1), mask.sum(0)
    joints = _ratio(hits, counts)
    pooled_joints = slice(None) if pooled is None else list(pooled)
    total = _ratio(hits[:, pooled_joints].sum(1), counts[pooled_joints].sum())
    return Curve(thresholds, total, joints, {name: _mean_over_joints(joints[:, list(members)]) for name, members in groups})


def _ratio(sums: ArrayLike, counts: ArrayLike) -> FloatArray:
    """Return sums / counts, NaN where the count is 0."""
    counts = np.asarray(counts)
    return np.where(counts > 0, np.asarray(sums) / np.maximum(counts, 1), np.nan)


def _area(shares: FloatArray) -> FloatArray:
    """Return the mean height of each column (T, ...), by trapezoids between evenly spaced thresholds."""
    return np.asarray(((shares[1:] + shares[:-1]) / 2).mean(0), np.float64)


def _mean_over_joints(joints: FloatArray) -> FloatArray:
    """Return the mean (T,) of the columns of (T, K) that are not NaN."""
    valid = joints[:, ~np.isnan(joints).any(0)]
    return _ratio(valid.sum(1), np.full(len(joints), valid.shape[1]))


def _nanmean(values: FloatArray) -> float:
    """Return the mean of the values that are not NaN; NaN, without numpy's warning, if there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _with_total(score: GroupScore) -> dict[str, float]:
    return {**score.groups, "total": score.total}
