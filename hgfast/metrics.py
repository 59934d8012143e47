"""Accuracy of predicted keypoints: arrays in, per-joint and total figures out.

Shapes: predicted and true (N, K, 2) in the same pixels, labelled (N, K) bool, reference (N,) the length in those pixels
that normalises a sample's errors; samples in which it is not finite or not above 0 do not count (mmpose leaves out zeros,
too). Joints never labelled are NaN, and so is the total where there are no others. A predicted point that is not finite is
within no threshold; it has no distance, so EPE is of the others.

Projects mean different things by one name. In short, with the function or key that has each:
- MPII's evalMPII.m (`pckh`, `pckh_curve`): `<=`, 14 joints pooled, a group is the plain mean of its joints.
- princeton-vl's mpii_eval in its test.py, from which many train ("pooled16@0.5"): `<`, all 16 joints pooled. It takes a
  joint for absent where x is 0, and so drops one of valid.h5's 44240 joints that lies there; here all of them count.
- bearpaw's eval_PCKh.py ("mean14@0.5"): `<`, the unweighted mean of the 14 joints.
- mmpose's keypoint_eval.py (`pck`, `auc` by rule "mmpose", `epe`): `<`, PCK and AUC the unweighted mean of the joints,
  EPE pooled. It computes in float32, which moves the mean of some thousand errors by less than 1e-6 px.
- FreiHAND's eval_util.py (`auc` by rule "freihand", `pck_curve`, keys with _freihand): `<=`, always the unweighted mean of
  the joints. The official script measures in metres in space; that class is used here on pixels in the picture.
What may enter: metrics with a published definition, each citing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hgfast.errors import HgfastError
from hgfast.skeletons import Skeleton

Array = NDArray[np.float64]
Groups = Sequence[tuple[str, tuple[int, ...]]]

HEAD_SHARES = np.arange(51) / 100
"""The thresholds of PCKh's curve, shares of the head size: 0:0.01:0.5 in evalMPII.m."""
BOX_SHARES = np.arange(41) / 200
"""The thresholds of PCK's curve, shares of the reference length, up to the largest of `pck_table`."""

BodyFigures = TypedDict(
    "BodyFigures",
    {
        "pckh@0.5": dict[str, float],
        "pckh@0.1": dict[str, float],
        "auc": dict[str, float],
        "pooled16@0.5": float,
        "mean14@0.5": float,
    },
)
"""What papers report for bodies, percent; the first three by joint group and "total"."""


@dataclass(frozen=True)
class Score:
    """A figure in total and for each of the K joints."""

    total: float
    joints: Array

    @property
    def unweighted(self) -> float:
        """The plain mean of the joints that have a figure, whatever the number of labels behind each."""
        return _nanmean(self.joints)


@dataclass(frozen=True)
class GroupScore(Score):
    """A `Score` with a figure for each of the skeleton's groups."""

    groups: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """A share of joints at each of T ascending thresholds: `total` (T,), `joints` (T, K), `groups` by name (T,)."""

    thresholds: Array
    total: Array
    joints: Array
    groups: dict[str, Array]

    def at(self, row: int) -> GroupScore:
        """The figures at one threshold, by its number."""
        groups = {name: float(shares[row]) for name, shares in self.groups.items()}
        return GroupScore(float(self.total[row]), self.joints[row], groups)

    @property
    def area(self) -> GroupScore:
        """The area under each curve over the width of the thresholds, which are evenly spaced, by trapezoids."""
        groups = {name: float(_area(shares)) for name, shares in self.groups.items()}
        return GroupScore(float(_area(self.total)), _area(self.joints), groups)


def distances(predicted: ArrayLike, true: ArrayLike) -> Array:
    """Euclidean distances (N, K). Raises `HgfastError` where the shapes differ."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != true.shape or predicted.ndim != 3 or predicted.shape[-1] != 2:
        raise HgfastError(f"predictions {predicted.shape} and truth {true.shape} must both be (samples, joints, 2)")
    return np.asarray(np.linalg.norm(predicted - true, axis=-1), np.float64)


def pck(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike, threshold: float) -> Score:
    """Share of labelled joints with distance / reference strictly below threshold.

    The total pools all labelled joints; mmpose's PCKAccuracy reports `unweighted`. A sample whose reference is NaN, infinite
    or 0 (a torso of which one end is not labelled, say) does not count.
    """
    return pck_shares(predicted, true, labelled, reference, [threshold]).at(0)


def pck_shares(
    predicted: ArrayLike,
    true: ArrayLike,
    labelled: ArrayLike,
    reference: ArrayLike,
    thresholds: ArrayLike = BOX_SHARES,
    groups: Groups = (),
) -> Curve:
    """`pck` at every one of (T,) thresholds; a group is the plain mean of its joints."""
    errors, counted = _normalised(distances(predicted, true), labelled, reference)
    return _curve(errors, counted, np.asarray(thresholds, np.float64), groups, strict=True)


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
    return pckh_curve(predicted, true, labelled, head, skeleton, [threshold]).at(0)


def pckh_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labelled: ArrayLike,
    head: ArrayLike,
    skeleton: Skeleton,
    thresholds: ArrayLike = HEAD_SHARES,
) -> Curve:
    """`pckh` at every one of (T,) thresholds, in percent; by default the 51 of the official curve, whose `area` is the AUC."""
    errors, counted = _normalised(distances(predicted, true), labelled, head)
    return _curve(errors, counted, np.asarray(thresholds, np.float64), skeleton.groups, pooled=skeleton.grouped, whole=100.0)


def pck_curve(
    predicted: ArrayLike,
    true: ArrayLike,
    labelled: ArrayLike,
    maximum: float = 30.0,
    steps: int = 100,
    groups: Groups = (),
) -> Curve:
    """Share of joints within t pixels, `steps` values of t from 0 to `maximum`, both included (FreiHAND's EvalUtil): `<=`.

    The total is the unweighted mean of the joints, as there, and so is a group.
    """
    thresholds = np.linspace(0, maximum, steps)
    curve = _curve(distances(predicted, true), np.asarray(labelled, bool), thresholds, groups)
    return Curve(thresholds, _mean_column(curve.joints), curve.joints, curve.groups)


def epe(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike) -> Score:
    """Mean distance over labelled joints whose predicted point is finite, in the points' pixels (the end-point error of mmpose's
    EPE).

    `unweighted` is the mean that FreiHAND's EvalUtil reports.
    """
    errors, mask = _known(predicted, true, labelled)
    sums, counts = np.where(mask, errors, 0.0).sum(0), mask.sum(0)
    return Score(float(_ratio(sums.sum(), counts.sum())), _ratio(sums, counts))


def median_epe(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike) -> Score:
    """Median distance of the joints that `epe` is of, and of each joint. `unweighted` is the median of FreiHAND's EvalUtil: the
    mean of the joints' medians."""
    errors, mask = _known(predicted, true, labelled)
    joints = [_median(errors[mask[:, joint], joint]) for joint in range(errors.shape[1])]
    return Score(_median(errors[mask]), np.array(joints))


def auc(
    predicted: ArrayLike,
    true: ArrayLike,
    labelled: ArrayLike,
    maximum: float = 30.0,
    rule: str = "freihand",
    steps: int | None = None,
) -> Score:
    """Area under the curve of the share of joints within t pixels, t from 0 to `maximum`, divided by `maximum`.

    rule "freihand": `<=`, 100 thresholds from end to end, trapezoids (freihand's eval_util).
    rule "mmpose": `<`, the left ends of 20 steps, so that a perfect prediction has .95 (mmpose's keypoint_auc).
    `steps`: another number of thresholds. The total is the unweighted mean of the joints, as in both.
    """
    if rule == "freihand":
        joints = pck_curve(predicted, true, labelled, maximum, steps or 100).area.joints
    elif rule == "mmpose":
        thresholds = np.arange(steps or 20) / (steps or 20) * maximum
        joints = _curve(distances(predicted, true), np.asarray(labelled, bool), thresholds, strict=True).joints.mean(0)
    else:
        raise ValueError(f"auc: rule is 'freihand' or 'mmpose', not {rule!r}")
    return Score(_nanmean(joints), joints)


# ---- tables ----


def pck_table(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """The figures that any set of joints has, all labelled joints pooled: PCK as a share of `reference`, EPE in source pixels
    over all samples."""
    return {
        **{f"pck@{t}": pck(predicted, true, labelled, reference, t).total for t in (0.05, 0.1, 0.2)},
        "epe_px": epe(predicted, true, labelled).total,
    }


def hand_table(
    predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, reference: ArrayLike, image: ArrayLike | None = None
) -> dict[str, float]:
    """The figures reported for hands, under the names that tables and JSON files carry.

    pck@t: of the longer side of the hand's box, `reference`; pck_image@t: of the side of the whole picture, `image` (N,), as
    mmpose has it for FreiHAND (the box is the picture, 224 px), only where it is given. Both are the unweighted mean of the
    joints, strictly below (mmpose's PCKAccuracy).
    auc_0_30px: FreiHAND's EvalUtil on pixels. auc_0_30px_mmpose: mmpose's AUC.
    epe_px: mean of all labelled joints (mmpose's EPE). epe_median_px: their median. epe_px_freihand, epe_median_px_freihand:
    the mean of the joints' means, and of their medians (FreiHAND's EvalUtil); where every joint is always labelled, the
    means are equal and the medians are not. AUC and EPE are in source pixels.
    """
    table = {f"pck@{t}": pck(predicted, true, labelled, reference, t).unweighted for t in (0.05, 0.1, 0.2)}
    if image is not None:
        table |= {f"pck_image@{t}": pck(predicted, true, labelled, image, t).unweighted for t in (0.05, 0.1, 0.2)}
    mean, median = epe(predicted, true, labelled), median_epe(predicted, true, labelled)
    return {
        **table,
        "auc_0_30px": auc(predicted, true, labelled).total,
        "auc_0_30px_mmpose": auc(predicted, true, labelled, rule="mmpose").total,
        "epe_px": mean.total,
        "epe_median_px": median.total,
        "epe_px_freihand": mean.unweighted,
        "epe_median_px_freihand": median.unweighted,
    }


def body_figures(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, head: ArrayLike, skeleton: Skeleton) -> BodyFigures:
    """The figures reported for bodies, in percent.

    pckh@0.5, pckh@0.1 and auc by joint group and in total, by the official rule of `pckh`; auc is the area under each curve
    from 0 to 0.5 of the head, 51 thresholds, trapezoids (evalMPII.m). pooled16@0.5: all joints pooled, pelvis and thorax
    among them, strictly below (princeton-vl). mean14@0.5: the unweighted mean of the joints that the official rule
    counts, strictly below (bearpaw/pytorch-pose).
    """
    curve = pckh_curve(predicted, true, labelled, head, skeleton)
    below = pck(predicted, true, labelled, head, 0.5)
    return {
        "pckh@0.5": _with_total(curve.at(50)),
        "pckh@0.1": _with_total(curve.at(10)),
        "auc": _with_total(curve.area),
        "pooled16@0.5": 100 * below.total,
        "mean14@0.5": 100 * _nanmean(below.joints[skeleton.grouped]),
    }


def body_table(
    predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike, head: ArrayLike, skeleton: Skeleton
) -> dict[str, float]:
    """`body_figures` in one row: the groups at 0.5 of the head under their own names, then the totals."""
    figures = body_figures(predicted, true, labelled, head, skeleton)
    groups = {name: share for name, share in figures["pckh@0.5"].items() if name != "total"}
    totals = {name: figures[name]["total"] for name in ("pckh@0.5", "pckh@0.1", "auc")}
    return {**groups, **totals, "pooled16@0.5": figures["pooled16@0.5"], "mean14@0.5": figures["mean14@0.5"]}


# ---- what they share ----


def _known(predicted: ArrayLike, true: ArrayLike, labelled: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Distances (N, K), and which of them there are: of labelled joints, and finite."""
    errors = distances(predicted, true)
    return errors, np.asarray(labelled, bool) & np.isfinite(errors)


def _normalised(errors: Array, labelled: ArrayLike, reference: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Errors (N, K) as shares of (N,) lengths, and which of them count: labelled, in a sample with a length."""
    length = np.asarray(reference, np.float64)[:, None]
    usable = np.isfinite(length) & (length > 0)
    return errors / np.where(usable, length, 1.0), np.asarray(labelled, bool) & usable


def _curve(
    errors: Array,
    counted: NDArray[np.bool_],
    thresholds: Array,
    groups: Groups = (),
    *,
    strict: bool = False,
    pooled: Sequence[int] | None = None,
    whole: float = 1.0,
) -> Curve:
    """Of those (N, K) errors that are `counted`, the share within each of (T,) thresholds; all of them are `whole`.

    The total pools all joints, or those in `pooled`; a group is the plain mean of its joints. `strict`: below, not at.
    """
    side: Literal["left", "right"] = "left" if strict else "right"  # so many sorted errors are < t, or <= t
    found = [np.searchsorted(np.sort(errors[counted[:, k], k]), thresholds, side) for k in range(errors.shape[1])]
    hits, counts = whole * np.stack(found, axis=-1), counted.sum(0)
    joints = _ratio(hits, counts)
    chosen = slice(None) if pooled is None else list(pooled)
    total = _ratio(hits[:, chosen].sum(1), counts[chosen].sum())
    return Curve(thresholds, total, joints, {name: _mean_column(joints[:, list(members)]) for name, members in groups})


def _ratio(sums: ArrayLike, counts: ArrayLike) -> Array:
    """sums / counts, NaN where nothing was counted."""
    counts = np.asarray(counts)
    return np.where(counts > 0, np.asarray(sums) / np.maximum(counts, 1), np.nan)


def _area(shares: Array) -> Array:
    """The mean height of each column (T, ...), by trapezoids between evenly spaced thresholds."""
    return np.asarray(((shares[1:] + shares[:-1]) / 2).mean(0), np.float64)


def _mean_column(joints: Array) -> Array:
    """The mean (T,) of those columns of (T, K) that are not NaN."""
    there = joints[:, ~np.isnan(joints).any(0)]
    return _ratio(there.sum(1), np.full(len(joints), there.shape[1]))


def _nanmean(values: Array) -> float:
    """The mean of the figures that there are; NaN, without numpy's warning, where there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _with_total(score: GroupScore) -> dict[str, float]:
    return {**score.groups, "total": score.total}
