"""Metrics against hand-made cases and what other projects' own code made of the same arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import beside

from hgfast.errors import HgfastError
from hgfast.metrics import auc, epe, hand_table, pck

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
