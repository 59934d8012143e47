"""Metrics against hand-made cases and what other projects' own code made of the same arrays."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from conftest import beside
from scipy.io import loadmat

from hgfast.errors import HgfastError
from hgfast.metrics import auc, body_table, epe, hand_table, pck, pck_table, pckh
from hgfast.skeletons import BODY16

TRUE = np.zeros((2, 3, 2))
FOUND = TRUE + np.array([[[3, 4], [0, 0], [6, 8]], [[0, 1], [0, 0], [30, 40]]])  # errors 5 0 10, 1 0 50
LABELLED = np.array([[True, True, True], [True, True, False]])


def test_by_hand() -> None:
    assert epe(FOUND, TRUE, LABELLED).total == pytest.approx(16 / 5)
    assert epe(FOUND, TRUE, LABELLED).joints == pytest.approx([3, 0, 10])
    score = pck(FOUND, TRUE, LABELLED, [50, 50], 0.1)  # strictly below 5 px
    assert score.total == pytest.approx(3 / 5)
    assert score.joints == pytest.approx([0.5, 1, 0])


def test_a_joint_never_labelled_is_nan_and_does_not_count() -> None:
    score = epe(FOUND, TRUE, np.array([[True, False, True], [True, False, True]]))
    assert np.isnan(score.joints[1])
    assert score.total == pytest.approx(66 / 4)


def test_pck_leaves_out_samples_without_a_finite_reference() -> None:
    whole = pck(FOUND[:1], TRUE[:1], LABELLED[:1], [50], 0.11)
    assert whole.total == pytest.approx(2 / 3)
    for unknown in (np.nan, np.inf):
        score = pck(FOUND, TRUE, LABELLED, [50, unknown], 0.11)
        assert score.total == whole.total and score.joints == pytest.approx(whole.joints)
    assert np.isnan(pck(FOUND, TRUE, LABELLED, [np.nan, np.nan], 0.1).total)
    table = pck_table(FOUND, TRUE, LABELLED, [50, np.nan])
    assert table["epe_px"] == pytest.approx(16 / 5)  # of all samples
    assert table.items() <= hand_table(FOUND, TRUE, LABELLED, [50, np.nan]).items()


def test_perfect_predictions() -> None:
    table = hand_table(TRUE, TRUE, LABELLED, np.ones(2))
    assert table["pck@0.05"] == table["auc_0_30px"] == 1
    assert table["auc_0_30px_mmpose"] == pytest.approx(0.95)  # its first threshold is 0 px, which nothing is below
    assert table["epe_px"] == table["epe_median_px"] == 0


def test_shapes_must_agree() -> None:
    with pytest.raises(HgfastError, match="must both be"):
        epe(TRUE[:1], TRUE, LABELLED)


@pytest.mark.real_data
def test_against_mmpose_and_freihands_own_code() -> None:
    z = np.load(beside("reference/freihand_metrics.npz"))
    wanted = json.loads(beside("reference/freihand_metrics.json").read_text())["values"]
    found, true, seen = z["pred_uv"], z["gt_uv"], z["vis"]
    for threshold in (0.05, 0.1, 0.2):
        whole = pck(found, true, seen, z["norm_bbox224"][:, 0], threshold)
        assert whole.joints == pytest.approx(wanted[f"mmpose_PCK@{threshold}_bbox224_per_joint"])
        tight = pck(found, true, seen, z["norm_tight"].max(1), threshold)
        assert np.mean(tight.joints) == pytest.approx(wanted[f"mmpose_PCK@{threshold}_tight_bbox"])
    assert auc(found, true, seen, rule="mmpose").total == pytest.approx(wanted["mmpose_AUC_norm30_20thr"])
    assert auc(found, true, seen, rule="freihand").total == pytest.approx(wanted["freihand_EvalUtil_2d_px_0_30_100"]["auc"])
    assert epe(found, true, seen).total == pytest.approx(wanted["mmpose_EPE"])


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


@pytest.mark.real_data
def test_pckh_against_the_official_script() -> None:
    """Newell's published predictions, scored by evalMPII.m on the original annotations and by other projects on the h5."""
    known = json.loads(beside("reference/newell_pckh.json").read_text())["file"]
    with h5py.File(beside("reference/newell_valid.h5")) as file:
        found = file["preds"][()]
    with h5py.File(beside("fixtures/mpii/annot/valid.h5")) as file:
        part, visible, head = (file[name][()] for name in ("part", "visible", "normalize"))
    absent = (part == 0).all(-1) & (visible == 0)
    table = body_table(found, part, ~absent, head, BODY16)
    assert table["pckh@0.5"] == pytest.approx(known["derived"]["gt_valid_h5"]["total14_pooled@0.5_le"], abs=2e-3)
    assert table["pckh@0.1"] == pytest.approx(known["derived"]["gt_valid_h5"]["total14@0.1_le"], abs=5e-3)
    assert table["auc"] == pytest.approx(known["derived"]["gt_valid_h5"]["auc14"], abs=2e-3)
    joints = pckh(found, part, ~absent, head, BODY16).joints
    assert joints == pytest.approx(known["derived"]["gt_valid_h5"]["per_joint16@0.5_le"], abs=0.05)

    exact = loadmat(beside("fixtures/mpii/annot/detections_our_format.mat"))
    true = exact["pos_gt_src"].transpose(2, 0, 1)
    official = known["official_matlab_octave"]
    table = body_table(found, true, exact["jnt_missing"].T == 0, head, BODY16)
    for group in ("head", "shoulder", "elbow", "wrist", "hip", "knee"):
        assert table[group] == pytest.approx(official["PCKh@0.5"][group], abs=6e-4)
    assert table["ankle"] == pytest.approx(official["PCKh@0.5"]["ankle"], abs=0.03)  # of 13 joints clamped in the .mat
    assert table["pckh@0.5"] == pytest.approx(official["PCKh@0.5"]["total"], abs=0.003)
    assert table["pckh@0.1"] == pytest.approx(official["PCKh@0.1"]["total"], abs=1e-4)
    assert table["auc"] == pytest.approx(official["AUC_0_0.5_total"], abs=0.003)
