"""The MPII files of HRNet and mmpose."""

import json
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from hgfast.config import DataConfig
from hgfast.errors import HgfastError
from hgfast.pipelines.datasets import DATASETS, open_samples
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from tests.conftest import shared_path

PEOPLE = 4


def people() -> list[dict[str, Any]]:
    """Return people whose head box has a diagonal of 100 px times their number from 1: neck and head top are 0.8 of it apart."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(PEOPLE):
        joints, size = rng.uniform(20, 180, (16, 2)), 10.0 * (index + 1)
        joints[9] = joints[8] - [0.48 * size, 0.64 * size]
        visible = [1] * 16
        visible[index] = 0
        joints[index] = -1
        found.append(
            {"image": f"{index}.jpg", "center": [90.0, 70.5], "scale": 0.8, "joints": joints.tolist(), "joints_vis": visible}
        )
    return found


def write(root: Path, name: str, content: object) -> Path:
    (root / "annot").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    for index in range(PEOPLE):
        cv2.imwrite(str(root / "images" / f"{index}.jpg"), np.zeros((200, 200, 3), np.uint8))
    path = root / "annot" / name
    path.write_text(json.dumps(content))
    return path


def test_folder_and_flags(tmp_path: Path) -> None:
    file = write(tmp_path, "train.json", people())
    valid = write(tmp_path, "valid.json", people()[:2])
    by_folder = DataConfig(dataset="mpii", data=tmp_path)
    by_flags = DataConfig(dataset="mpii", annotations=file, valid_annotations=valid, images=tmp_path / "images")
    for config in (by_folder, by_flags):
        assert list(DATASETS["mpii"].splits(config)) == ["train", "valid"]
        samples = open_samples(config, "train")
        np.testing.assert_allclose(samples.center, [[89.5, 82.0]] * PEOPLE)  # 70.5 + 15 * 0.8 - 0.5
        np.testing.assert_allclose(samples.side, 200.0)  # 200 * 1.25 * 0.8
        np.testing.assert_allclose(samples.reference, 0.6 * 10 * np.arange(1, PEOPLE + 1))
        for index, person in enumerate(people()):
            assert samples.labeled[index].tolist() == [joint != index for joint in range(16)]
            seen = samples.labeled[index]
            np.testing.assert_allclose(samples.keypoints[index][seen], np.array(person["joints"])[seen] - 0.5)
        assert len(open_samples(config, "valid")) == 2


def test_an_h5_file_goes_first(tmp_path: Path) -> None:
    write(tmp_path, "train.json", "not read")
    with h5py.File(tmp_path / "annot/train.h5", "w") as file:
        file["center"], file["scale"], file["normalize"] = np.full((1, 2), 50.0), [1.0], [9.0]
        file["part"], file["visible"], file["imgname"] = np.ones((1, 16, 2)), np.ones((1, 16)), [b"0.jpg"]
    assert open_samples(DataConfig(dataset="mpii", data=tmp_path), "train").reference.tolist() == [9.0]


def test_a_person_without_head_is_estimated_and_named(tmp_path: Path) -> None:
    content = people()
    content[0]["joints_vis"][9] = 0
    write(tmp_path, "train.json", content)
    samples = open_samples(DataConfig(dataset="mpii", data=tmp_path), "train")
    np.testing.assert_allclose(samples.reference, [18.0, 12.0, 18.0, 24.0])  # the median of the others, who have the same scale
    (note,) = samples.notes
    assert "has no head boxes" in note and "of 1 of 4 people without these joints from their scale" in note


def break_field(name: str, value: object) -> list[dict[str, Any]]:
    content = people()
    content[1][name] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": []}, "is not a list of people"),
        ([], "is not a list of people"),
        (break_field("joints", [[1, 2]]), "joints of person 1 must be 16 x 2 finite numbers"),
        (break_field("center", [None, 2]), "center of person 1 must be 2 finite numbers"),
        (break_field("scale", -1), "scale of person 1 is -1"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: object, words: str) -> None:
    write(tmp_path, "train.json", content)
    with pytest.raises(HgfastError, match=words):
        open_samples(DataConfig(dataset="mpii", data=tmp_path), "train")


def test_validation_needs_its_own_file(tmp_path: Path) -> None:
    config = DataConfig(dataset="mpii", annotations=write(tmp_path, "a.json", people()), images=tmp_path / "images")
    with pytest.raises(HgfastError, match="--valid-annotations FILE is missing"):
        open_samples(config, "valid")


@pytest.mark.real_data
def test_the_same_people_as_in_the_official_h5_file() -> None:
    root = shared_path("fixtures/mpii")
    file = root / "mmpose_val5.json"
    config = DataConfig(dataset="mpii", annotations=file, valid_annotations=file, images=root / "images")
    samples, official = open_samples(config, "valid"), read_mpii(root, "valid", skip_missing=True)
    assert samples.paths.tolist() == official.paths.tolist() and np.array_equal(samples.labeled, official.labeled)
    np.testing.assert_allclose(samples.center, official.center, atol=1e-4)
    np.testing.assert_allclose(samples.side, official.side, atol=1e-3)
    np.testing.assert_allclose(samples.reference, official.reference, atol=1e-3)
    off = (samples.keypoints - official.keypoints)[samples.labeled]
    assert (off >= 0).all() and (off < 1).all()  # the h5 file is truncated
