"""Synthetic people as COCO keypoints of five joints, compared with the same people in MPII's layout."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hgfast.pipelines import synthetic
from hgfast.pipelines.readers.coco import read_coco
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.synthetic import generate_coco, generate_mpii
from hgfast.skeletons import BODY16
from tests.conftest import ErrorOf

COUNT, HELD, SEED = 6, 3, 2
SAME = {"head": "head_top", "left_wrist": "left_wrist", "right_wrist": "right_wrist", "left_ankle": "left_ankle",
        "right_ankle": "right_ankle"}  # fmt: skip


@pytest.fixture(scope="module")
def coco_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("five") / "set"
    summary = generate_coco(out, COUNT, SEED, HELD, workers=1)
    people = [int(number) for number in re.findall(r"images of (\d+)", summary)]
    assert people[0] >= COUNT and people[1] >= HELD
    return out


@pytest.fixture(scope="module")
def mpii_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sixteen") / "set"
    generate_mpii(out, COUNT, SEED, HELD, workers=1)
    return out


@pytest.mark.parametrize("split", ["train", "valid"])
def test_same_people_as_mpii(split: str, coco_people: Path, mpii_people: Path) -> None:
    ours = read_coco(coco_people / ("train.json" if split == "train" else "val.json"), coco_people / "images")
    theirs = read_mpii(mpii_people, split)
    chosen = [BODY16.joints.index(name) for name in SAME.values()]
    assert ours.skeleton.joints == tuple(SAME) and ours.skeleton.flip_indices == (0, 2, 1, 4, 3)
    with_any = theirs.labeled[:, chosen].any(1)
    np.testing.assert_array_equal(ours.labeled, theirs.labeled[with_any][:, chosen])
    found, wanted = ours.keypoints[ours.labeled], theirs.keypoints[with_any][:, chosen][ours.labeled]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    assert [Path(path).name for path in ours.paths] == [Path(path).name for path in theirs.paths[with_any]]
    inside = np.abs(ours.keypoints - ours.center[:, None]).max(-1) < ours.side[:, None] / 2
    assert inside[ours.labeled].all()  # of the crop squares


def test_same_images_as_mpii(coco_people: Path, mpii_people: Path) -> None:
    names = sorted(path.name for path in (coco_people / "images").iterdir())
    assert names == sorted(path.name for path in (mpii_people / "images").iterdir()) and len(names) == COUNT + HELD
    assert all((coco_people / "images" / name).read_bytes() == (mpii_people / "images" / name).read_bytes() for name in names)


def test_the_command(
    tmp_path: Path, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["coco", "--out", str(tmp_path), "--count", "2", "--valid", "1"]
    for more in ((), ("--overwrite",)):
        monkeypatch.setattr(sys, "argv", ["synthetic.py", *words, *more])
        synthetic.main()
        assert capsys.readouterr().out.startswith("2 training images of ")
        assert "already holds a data set" in error_of(synthetic.main, *words)
