"""Drawn people as COCO keypoints of five joints, beside the same people in MPII's layout, read by the other reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TIMEOUT

from hgfast.skeletons import BODY16
from pipelines import synthetic
from pipelines.coco import read_coco
from pipelines.mpii import read_mpii
from pipelines.synthetic import draw_coco, draw_mpii

COUNT, HELD, SEED = 6, 3, 2
SAME = {"head": "head_top", "left_wrist": "left_wrist", "right_wrist": "right_wrist", "left_ankle": "left_ankle",
        "right_ankle": "right_ankle"}  # fmt: skip


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("five") / "set"
    assert draw_coco(out, COUNT, SEED, HELD, workers=1, progress=False) > (COUNT - 1, HELD - 1)
    return out


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sixteen") / "set"
    draw_mpii(out, COUNT, SEED, HELD, workers=1, progress=False)
    return out


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_same_people_as_in_mpii(split: str, five: Path, sixteen: Path) -> None:
    ours = read_coco(five / ("train.json" if split == "train" else "val.json"), five / "images")
    theirs = read_mpii(sixteen, split)
    chosen = [BODY16.joints.index(name) for name in SAME.values()]
    assert ours.skeleton.joints == tuple(SAME) and ours.skeleton.swap == (0, 2, 1, 4, 3)
    with_any = theirs.labelled[:, chosen].any(1)
    np.testing.assert_array_equal(ours.labelled, theirs.labelled[with_any][:, chosen])
    found, wanted = ours.keypoints[ours.labelled], theirs.keypoints[with_any][:, chosen][ours.labelled]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    assert [Path(path).name for path in ours.paths] == [Path(path).name for path in theirs.paths[with_any]]
    inside = np.abs(ours.keypoints - ours.centre[:, None]).max(-1) < ours.side[:, None] / 2
    assert inside[ours.labelled].all()  # of the squares that a network sees


def test_the_same_pictures_as_in_mpii(five: Path, sixteen: Path) -> None:
    names = sorted(path.name for path in (five / "images").iterdir())
    assert names == sorted(path.name for path in (sixteen / "images").iterdir()) and len(names) == COUNT + HELD
    assert all((five / "images" / name).read_bytes() == (sixteen / "images" / name).read_bytes() for name in names)


def test_the_command(tmp_path: Path) -> None:
    words = [sys.executable, synthetic.__file__, "coco", "--out", str(tmp_path), "--count", "2", "--valid", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0 and done.stdout.startswith("2 training pictures of "), done.stderr
    again = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "already holds a data set" in again.stderr
    assert subprocess.run([*words, "--overwrite"], capture_output=True, timeout=TIMEOUT).returncode == 0
