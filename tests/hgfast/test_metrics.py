"""Metrics against hand-computed cases and the results of other projects' code on the same arrays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.io import loadmat

from hgfast.errors import HgfastError
from hgfast.metrics import (
    PCKH_THRESHOLDS,
    auc,
    body_metrics,
    epe,
    flat_body_metrics,
    hand_metrics,
    median_epe,
    normalized_pck_curve,
    pck,
    pck_curve,
    pck_metrics,
    pckh,
    pckh_curve,
)
from hgfast.skeletons import BODY16, HAND21
from tests.conftest import shared_path

TRUE = np.zeros((2, 3, 2))
FOUND = TRUE + np.array([[[3, 4], [0, 0], [6, 8]], [[0, 1], [0, 0], [30, 40]]])  # errors 5 0 10, 1 0 50
LABELED = np.array([[True, True, True], [True, True, False]])


def test_by_hand() -> None:
    assert epe(FOUND, TRUE, LABELED).total == pytest.approx(16 / 5)
    assert epe(FOUND, TRUE, LABELED).joints == pytest.approx([3, 0, 10])
    score = pck(FOUND, TRUE, LABELED, [50, 50], 0.1)  # strictly below 5 px
    assert score.total == pytest.approx(3 / 5)
    assert score.joints == pytest.approx([0.5, 1, 0])


def test_unlabeled_joint_is_nan() -> None:
    score = epe(FOUND, TRUE, np.array([[True, False, True], [True, False, True]]))
    assert np.isnan(score.joints[1])
    assert score.total == pytest.approx(66 / 4)


def test_pck_leaves_out_samples_without_a_finite_reference() -> None:
    whole = pck(FOUND[:1], TRUE[:1], LABELED[:1], [50], 0.11)
    assert whole.total == pytest.approx(2 / 3)
    for unknown in (np.nan, np.inf, 0):
        score = pck(FOUND, TRUE, LABELED, [50, unknown], 0.11)
        assert score.total == whole.total and score.joints == pytest.approx(whole.joints)
    assert np.isnan(pck(FOUND, TRUE, LABELED, [np.nan, np.nan], 0.1).total)
    table = pck_metrics(FOUND, TRUE, LABELED, [50, np.nan])
    assert table["epe_px"] == pytest.approx(16 / 5)  # of all samples
    hand = hand_metrics(FOUND, TRUE, LABELED, [50, np.nan])
    assert hand["epe_px"] == table["epe_px"]
    assert hand["pck@0.1"] == pytest.approx(1 / 3)  # of the first sample, the joints weighing the same


def test_points_that_are_not_finite_are_misses_without_a_distance() -> None:
    lost = FOUND.copy()
    lost[0, 0], lost[1, 2] = np.inf, (np.nan, 3)
    far = np.where(np.isfinite(lost), lost, 1e9)
    others = LABELED & np.isfinite(lost).all(-1)
    assert (LABELED & ~others).sum() >= 1
    for figure in (hand_metrics, pck_metrics):
        here, there = (figure(points, TRUE, LABELED, [50, 50]) for points in (lost, far))
        assert {k: v for k, v in here.items() if "epe" not in k} == {k: v for k, v in there.items() if "epe" not in k}
        distances = {k: v for k, v in figure(FOUND, TRUE, others, [50, 50]).items() if "epe" in k}
        assert distances and {k: here[k] for k in distances} == pytest.approx(distances, nan_ok=True)
    rng = np.random.default_rng(0)
    true, body = rng.normal(size=(5, 16, 2)), rng.normal(size=(5, 16, 2)) / 9
    body[2, 4], whole = np.inf, np.ones((5, 16), bool)
    table = flat_body_metrics(body, true, whole, np.full(5, 9.0), BODY16)
    assert table == flat_body_metrics(np.where(np.isfinite(body), body, 1e9), true, whole, np.full(5, 9.0), BODY16)
    assert table["knee"] < table["hip"] == 100
    nothing = hand_metrics(np.full_like(FOUND, np.inf), TRUE, LABELED, [50, 50])
    assert nothing["pck@0.2"] == nothing["auc_0_30px"] == 0 and np.isnan(nothing["epe_px"])


def test_curve_matches_single_thresholds() -> None:
    curve = normalized_pck_curve(FOUND, TRUE, LABELED, [50, 40], [0.01, 0.05, 0.1, 0.3], (("both", (0, 1)),))
    for row, threshold in enumerate(curve.thresholds):
        one = pck(FOUND, TRUE, LABELED, [50, 40], threshold)
        assert curve.total[row] == one.total and np.array_equal(curve.joints[row], one.joints)
        assert curve.groups["both"][row] == pytest.approx(one.joints[:2].mean())
    assert len(set(curve.total)) > 2


def test_perfect_predictions() -> None:
    table = hand_metrics(TRUE, TRUE, LABELED, np.ones(2))
    assert table["pck@0.05"] == table["auc_0_30px"] == 1
    assert table["auc_0_30px_mmpose"] == pytest.approx(0.95)  # its first threshold is 0 px, which nothing is below
    assert table["epe_px"] == table["epe_median_px"] == 0


def test_shapes_must_agree() -> None:
    with pytest.raises(HgfastError, match="must both be"):
        epe(TRUE[:1], TRUE, LABELED)


def test_nothing_labeled_is_nan() -> None:
    unlabeled = np.zeros((2, 3), bool)
    for table in (hand_metrics(FOUND, TRUE, unlabeled, [1, 1], [1, 1]), pck_metrics(FOUND, TRUE, unlabeled, [1, 1])):
        assert np.isnan(list(table.values())).all()
    body = flat_body_metrics(np.ones((2, 16, 2)), np.zeros((2, 16, 2)), np.zeros((2, 16), bool), [1, 1], BODY16)
    assert np.isnan(list(body.values())).all()


def test_unlabeled_joint_keeps_other_scores() -> None:
    rng = np.random.default_rng(2)
    true, found, seen = rng.normal(size=(9, 21, 2)), rng.normal(size=(9, 21, 2)), np.ones((9, 21), bool)
    seen[:, 4] = False
    others = np.delete(np.arange(21), 4)
    whole, part = (
        hand_metrics(found[:, of], true[:, of], seen[:, of], np.full(9, 3.0), np.full(9, 30.0)) for of in (slice(None), others)
    )
    assert whole == pytest.approx(part)
    curve = pck_curve(found, true, seen, groups=HAND21.groups)
    assert np.isnan(curve.joints[:, 4]).all() and not np.isnan(curve.total).any()
    assert curve.groups["thumb"] == pytest.approx(curve.joints[:, 1:4].mean(1))


def test_half_of_the_hands_weigh_as_their_joints() -> None:
    """EvalUtil takes the mean over joints, mmpose's EPE over labels: joints that are labeled less often tell them apart."""
    table = hand_metrics(FOUND, TRUE, LABELED, [50, 50], [100, 100])  # errors by joint: 5 1, 0 0, 10
    assert table["epe_px"] == pytest.approx(16 / 5) and table["epe_px_freihand"] == pytest.approx((3 + 0 + 10) / 3)
    assert table["epe_median_px"] == 1 and table["epe_median_px_freihand"] == pytest.approx((3 + 0 + 10) / 3)
    assert median_epe(FOUND, TRUE, LABELED).joints == pytest.approx([3, 0, 10])
    assert table["pck@0.1"] == pytest.approx((1 / 2 + 1 + 0) / 3) and table["pck_image@0.1"] == pytest.approx((1 + 1 + 0) / 3)
    assert table["auc_0_30px"] == pytest.approx(auc(FOUND, TRUE, LABELED).macro_mean)


@pytest.mark.real_data
def test_against_mmpose_and_freihands_own_code() -> None:
    z = np.load(shared_path("reference/freihand_metrics.npz"))
    wanted = json.loads(shared_path("reference/freihand_metrics.json").read_text())["values"]
    found, true, seen = z["pred_uv"], z["gt_uv"], z["vis"]
    close = pytest.approx
    image, tight = z["norm_bbox224"].max(1), z["norm_tight"].max(1)
    for t in (0.05, 0.1, 0.2):
        whole = pck(found, true, seen, image, t)
        assert whole.joints == close(wanted[f"mmpose_PCK@{t}_bbox224_per_joint"], rel=0, abs=1e-6)
        assert whole.macro_mean == close(wanted[f"mmpose_PCK@{t}_bbox224"], rel=0, abs=1e-6)
        assert pck(found, true, seen, tight, t).macro_mean == close(wanted[f"mmpose_PCK@{t}_tight_bbox"], rel=0, abs=1e-6)
    for steps in (20, 100):
        area = auc(found, true, seen, rule="mmpose", num_thresholds=steps).total
        assert area == close(wanted[f"mmpose_AUC_norm30_{steps}thr"], rel=0, abs=1e-6)
    assert auc(true, true, seen, rule="mmpose").total == close(wanted["mmpose_AUC_perfect"], rel=0, abs=1e-6)
    assert epe(found, true, seen).total == close(wanted["mmpose_EPE"], rel=0, abs=1e-6)
    for maximum, steps in ((30, 100), (30, 31), (20, 100)):
        theirs = wanted[f"freihand_EvalUtil_2d_px_0_{maximum}_{steps}"]
        curve = pck_curve(found, true, seen, maximum, steps)
        assert auc(found, true, seen, maximum, num_thresholds=steps).total == close(theirs["auc"], rel=0, abs=1e-6)
        assert curve.total[:5] == close(theirs["pck_curve_first5"], rel=0, abs=1e-6)
        assert curve.total[-1] == close(theirs["pck_last"], rel=0, abs=1e-6)
        assert epe(found, true, seen).macro_mean == close(theirs["epe_mean"], rel=0, abs=1e-6)
        assert median_epe(found, true, seen).macro_mean == close(theirs["epe_median"], rel=0, abs=1e-6)
    assert pck_curve(found, true, seen).total == close(z["curve2d_0_30_100"], rel=0, abs=1e-6)
    assert pck_curve(found, true, seen).thresholds == close(z["thr2d"])

    evalutil, table = wanted["freihand_EvalUtil_2d_px_0_30_100"], hand_metrics(found, true, seen, tight, image)
    assert table == close(
        {
            **{f"pck@{t}": wanted[f"mmpose_PCK@{t}_tight_bbox"] for t in (0.05, 0.1, 0.2)},
            **{f"pck_image@{t}": wanted[f"mmpose_PCK@{t}_bbox224"] for t in (0.05, 0.1, 0.2)},
            "auc_0_30px": evalutil["auc"],
            "auc_0_30px_mmpose": wanted["mmpose_class_AUC"]["AUC"],
            "epe_px": wanted["mmpose_class_EPE"]["EPE"],
            "epe_median_px": float(np.median(np.linalg.norm(found - true, axis=-1)[seen])),
            "epe_px_freihand": evalutil["epe_mean"],
            "epe_median_px_freihand": evalutil["epe_median"],
        },
        rel=0,
        abs=1e-6,
    )


def test_pckh_by_hand() -> None:
    true, found = np.zeros((2, 16, 2)), np.zeros((2, 16, 2))
    found[0, [0, 5]] = (3, 4)  # ankles 5 px off: exactly half of the first head, which counts
    found[1, 0] = (5.01, 0)
    found[:, 6:8] = 1000  # pelvis and thorax do not count
    seen = np.ones((2, 16), bool)
    seen[1, 1:] = False
    score = pckh(found, true, seen, [10, 10], BODY16)
    assert score.total == pytest.approx(100 * 14 / 15)
    assert score.groups["ankle"] == pytest.approx((50 + 100) / 2)  # the plain mean of the two, not of the three that are seen
    assert score.groups["knee"] == 100
    assert np.isnan(pckh(found, true, ~np.ones((2, 16), bool), [10, 10], BODY16).groups["knee"])


def reference_pckh(found: Any, true: Any, labeled: Any, head: Any) -> dict[str, Any]:
    """`body_metrics` a joint and a person at a time, from the definitions."""
    errors = [[float(np.hypot(*(found[n, k] - true[n, k]))) / head[n] if labeled[n, k] else None for n in range(len(head))]
              for k in range(16)]  # fmt: skip
    there = [[e for e in joint if e is not None] for joint in errors]

    def official(t: float) -> dict[str, float]:
        shares = [100 * sum(e <= t for e in joint) / len(joint) for joint in there]
        figures = {name: sum(shares[k] for k in joints) / len(joints) for name, joints in BODY16.groups}
        counted = [e for k in range(16) if k not in (6, 7) for e in there[k]]
        return {**figures, "total": 100 * sum(e <= t for e in counted) / len(counted)}

    curve = [official(t / 100) for t in range(51)]
    pooled = [e for joint in there for e in joint]
    below = [100 * sum(e < 0.5 for e in there[k]) / len(there[k]) for k in range(16) if k not in (6, 7)]
    return {
        "pckh@0.5": official(0.5),
        "pckh@0.1": official(0.1),
        "auc": {name: sum(a[name] + b[name] for a, b in pairwise(curve)) / 2 / 50 for name in curve[0]},
        "pooled16@0.5": 100 * sum(e < 0.5 for e in pooled) / len(pooled),
        "mean14@0.5": sum(below) / 14,
    }


def test_body_metrics_against_definitions() -> None:
    """Whole numbers and head sizes that make many errors exactly 0.1 or 0.5 of the head, where `<=` and `<` part."""
    rng = np.random.default_rng(3)
    true = rng.integers(0, 200, (40, 16, 2)).astype(float)
    found = true + rng.integers(-5, 6, (40, 16, 2)) * rng.integers(0, 2, (40, 16, 1)) + rng.integers(0, 3, (40, 16, 2))
    seen, head = rng.random((40, 16)) < 0.8, rng.choice([10.0, 20.0, 50.0], 40)
    figures, wanted = body_metrics(found, true, seen, head, BODY16), reference_pckh(found, true, seen, head)
    assert list(figures) == list(wanted) and list(figures["pckh@0.5"]) == list(wanted["pckh@0.5"])
    for name, value in wanted.items():
        assert figures[name] == pytest.approx(value), name  # type: ignore[literal-required]
    flat = flat_body_metrics(found, true, seen, head, BODY16)
    assert flat == pytest.approx(
        {
            **{name: value for name, value in wanted["pckh@0.5"].items() if name != "total"},
            **{name: wanted[name]["total"] for name in ("pckh@0.5", "pckh@0.1", "auc")},
            **{name: wanted[name] for name in ("pooled16@0.5", "mean14@0.5")},
        }
    )
    assert abs(flat["pooled16@0.5"] - flat["pckh@0.5"]) > 0.1 and abs(flat["mean14@0.5"] - flat["pckh@0.5"]) > 0.1
    curve = pckh_curve(found, true, seen, head, BODY16)
    for row in (0, 7, 29, 50):
        score = pckh(found, true, seen, head, BODY16, PCKH_THRESHOLDS[row])
        assert score.total == curve.total[row] and score.groups == curve.score_at(row).groups


def test_body_metrics_speed() -> None:
    rng = np.random.default_rng(0)
    true, seen = rng.normal(size=(2958, 16, 2)), np.ones((2958, 16), bool)
    begun = time.process_time()
    flat_body_metrics(true + rng.normal(size=true.shape), true, seen, np.ones(2958), BODY16)
    assert time.process_time() - begun < 1


def newell_predictions() -> Iterator[tuple[str, Any, Any, Any, Any]]:
    """Published predictions for the 2958 people with both ground truths: name, predictions, points, labeled, head sizes."""
    with h5py.File(shared_path("reference/newell_valid.h5")) as file:
        found = file["preds"][()]
    with h5py.File(shared_path("fixtures/mpii/annot/valid.h5")) as file:
        part, visible, head = (file[name][()] for name in ("part", "visible", "normalize"))
    yield "valid.h5", found, part, ~((part == 0).all(-1) & (visible == 0)), head
    exact = loadmat(shared_path("fixtures/mpii/annot/detections_our_format.mat"))
    low, high = exact["headboxes_src"]
    yield (
        "detections_our_format.mat",
        found,
        exact["pos_gt_src"].transpose(2, 0, 1),
        exact["jnt_missing"].T == 0,
        0.6 * np.hypot(*(high - low)),
    )


@pytest.mark.real_data
def test_body_metrics_of_published_predictions() -> None:
    """Every figure within 0.01 points, pooled ones exactly. The file pools the two joints of a group where evalMPII.m takes
    their plain mean, which is up to 0.003 points."""
    known = json.loads(shared_path("reference/newell_expected.json").read_text())
    for name, *arrays in newell_predictions():
        figures: Any = body_metrics(*arrays, BODY16)
        for key, wanted in known[name].items():
            assert figures[key] == pytest.approx(wanted, rel=0, abs=0.01), (name, key)
        for key in ("pckh@0.5", "pckh@0.1", "auc"):
            assert figures[key]["total"] == pytest.approx(known[name][key]["total"], abs=1e-6)
            assert figures[key]["head"] == pytest.approx(known[name][key]["head"], abs=1e-6)
        for key in ("pooled16@0.5", "mean14@0.5"):
            assert figures[key] == pytest.approx(known[name][key], abs=1e-6)


@pytest.mark.real_data
def test_pckh_against_the_official_script() -> None:
    """Newell's published predictions, scored by evalMPII.m on the original annotations and by other projects on the h5."""
    known = json.loads(shared_path("reference/newell_pckh.json").read_text())["file"]
    (_, *h5), (_, *exact) = newell_predictions()
    table = flat_body_metrics(*h5, BODY16)
    derived = known["derived"]["gt_valid_h5"]  # one label less: a joint at x = 0 counts as absent there
    assert table["pckh@0.5"] == pytest.approx(derived["total14_pooled@0.5_le"], abs=2e-3)
    assert table["pckh@0.1"] == pytest.approx(derived["total14@0.1_le"], abs=5e-3)
    assert table["auc"] == pytest.approx(derived["auc14"], abs=2e-3)
    assert table["pooled16@0.5"] == pytest.approx(known["princeton_mpii_eval@0.5"]["all"]["total"][0], abs=1e-3)
    assert pckh(*h5, BODY16).joints == pytest.approx(derived["per_joint16@0.5_le"], abs=0.05)

    official, table = known["official_matlab_octave"], flat_body_metrics(*exact, BODY16)
    for group in ("head", "shoulder", "elbow", "wrist", "hip", "knee"):
        assert table[group] == pytest.approx(official["PCKh@0.5"][group], abs=6e-4)
    assert table["ankle"] == pytest.approx(official["PCKh@0.5"]["ankle"], abs=0.03)  # of 13 joints clamped in the .mat
    assert table["pckh@0.5"] == pytest.approx(official["PCKh@0.5"]["total"], abs=0.003)
    assert table["pckh@0.1"] == pytest.approx(official["PCKh@0.1"]["total"], abs=1e-4)
    assert table["auc"] == pytest.approx(official["AUC_0_0.5_total"], abs=0.003)
    assert table["mean14@0.5"] == pytest.approx(known["bearpaw_eval_PCKh_py"]["mean14_unweighted@0.5"], abs=1e-4)
    at_a_tenth = pckh(*exact, BODY16, 0.1).groups
    for group in ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        assert at_a_tenth[group] == pytest.approx(official["PCKh@0.1"][group], abs=6e-4)
    curve = pckh_curve(*exact, BODY16)
    # those 13 joints again; at 0 there are only exact hits, of which the .mat's rounded numbers have none
    assert curve.total[1:] == pytest.approx(official["curve_total_51"][1:], abs=0.006)
    joints = pckh(*exact, BODY16).joints[[0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9]]
    order = "per_joint@0.5_order_rank,rkne,rhip,lhip,lkne,lank,rwri,relb,rsho,lsho,lelb,lwri,neck,head"
    assert joints == pytest.approx(official[order], abs=0.06)
