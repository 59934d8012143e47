"""Crops for calibration and verification, by either loader."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.sample_crops import evenly_spaced, load_crops


def test_crops_by_opencv_need_no_dali(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = evenly_spaced(read_freihand(hands, "train", ["gs"]), 5)
    by_dali = load_crops(samples, 64, threads=1)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    crops = load_crops(samples, 64, threads=1, loader_name="opencv")
    assert crops.shape == by_dali.shape == (5, 64, 64, 3) and crops.dtype == np.uint8
    assert np.abs(crops.astype(int) - by_dali).max() <= 3
