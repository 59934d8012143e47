"""bench/pckh.py --submission: read back as the official scripts read it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.bench import pckh
from hgfast.bench.scoring.ground_truth import GroundTruth, read_mpii_h5
from hgfast.bench.scoring.submission import NUM_RELEASE_IMAGES, write_freihand, write_mpii
from hgfast.errors import HgfastError
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.skeletons import BODY16, HAND21
from tests.conftest import shared_path

StructArray = np.ndarray
EMPTY = np.zeros((0, 0))
# Of the made-up release: images of annolist and people of annorect, from 0, that test.h5 has, in its order.
PEOPLE_INDICES = [(1, 0), (1, 1), (3, 0), (4, 2)]
SEPARATED = {(1, 1), (3, 0), (3, 1), (4, 2)}


def structs(*elements: dict[str, Any]) -> StructArray:
    """A MATLAB struct array (1, N)."""
    names = list(dict.fromkeys(name for element in elements for name in element))
    array = np.empty((1, len(elements)), [(name, object) for name in names])
    for i, element in enumerate(elements):
        for name in names:
            array[0, i][name] = element.get(name, EMPTY)
    return array


def person_struct(x: float, y: float, **more: Any) -> dict[str, Any]:
    return {"x1": 1.0, "scale": 0.5, "objpos": structs({"x": x, "y": y}), **more}


def release(path: Path) -> Path:
    """Images 0 and 2 are for training; the others for testing, 5 without anybody and 3 with a person without objpos."""
    people: list[Any] = [
        structs(person_struct(1, 1, annopoints=structs({"point": structs({"x": 1.0, "y": 2.0, "id": 0.0})}))),
        structs(person_struct(10, 20), person_struct(30, 40)),
        structs(person_struct(5, 5)),
        structs(person_struct(50, 60), {"scale": 1.0}, person_struct(70, 80, annopoints=EMPTY)),
        structs(person_struct(1, 2), person_struct(3, 4), person_struct(90, 100)),
        EMPTY,
    ]
    annolist = structs(
        *({"image": structs({"name": f"{i}.jpg"}), "annorect": p, "vididx": float(i)} for i, p in enumerate(people))
    )
    single = np.empty((6, 1), object)
    for i in range(6):
        single[i, 0] = np.array([[ridx + 1] for index, ridx in sorted(SEPARATED) if index == i], np.uint8)
    img_train = np.array([[1, 0, 1, 0, 0, 0]], np.uint8)
    savemat(path, {"RELEASE": {"annolist": annolist, "img_train": img_train, "single_person": single, "version": "12"}})
    return path


def write_annotations(path: Path, people_indices: list[tuple[int, int]] = PEOPLE_INDICES, **changed: Any) -> Path:
    """test.h5 for these people: nobody's joints."""
    count = len(people_indices)
    columns = {
        "part": np.full((count, 16, 2), -1.0),
        "visible": np.zeros((count, 16)),
        "normalize": np.ones(count),
        "imgname": np.array([f"{index}.jpg".encode() for index, _ in people_indices]),
        "index": np.array([index for index, _ in people_indices], float),
        "person": np.array([person for _, person in people_indices], float),
        "center": np.full((count, 2), 60.0),
        "scale": np.full(count, 0.5),
    }
    with h5py.File(path, "w") as file:
        for name, values in {**columns, **changed}.items():
            file[name] = values
    return path


def flatten(annolist: Any) -> list[tuple[int, int, Any]]:
    """flatten_annolist.m: everybody with objpos, by image, in order; both numbers from 0."""
    found = []
    for i, record in enumerate(annolist.ravel()):
        rect = record["annorect"]
        for r in range(rect.size):
            if "objpos" in (rect.dtype.names or ()) and rect.ravel()[r]["objpos"].size:
                found.append((i, r, rect.ravel()[r]))
    return found


def matrix(rect: Any) -> np.ndarray:
    """annolist2matrix.m: a person's points (16, 2) by id; NaN where there are none."""
    keypoints = np.full((16, 2), np.nan)
    names = rect.dtype.names or ()
    if "annopoints" in names and rect["annopoints"].size:
        for point in rect["annopoints"].ravel()[0]["point"].ravel():
            keypoints[int(point["id"].item())] = point["x"].item(), point["y"].item()
    return keypoints


def make_predictions(people: int, joints: int = 16) -> np.ndarray:
    return np.random.default_rng(3).uniform(1, 400, (people, joints, 2))


@pytest.fixture
def run_pckh(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words)])
        pckh.main()

    return run


def test_complete_submission_is_read_by_the_official_script(run_pckh: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    keypoints, whole = make_predictions(4), release(tmp_path / "release.mat")
    np.save(tmp_path / "p.npy", keypoints)
    run_pckh(
        "--predictions", tmp_path / "p.npy", "--annotations", write_annotations(tmp_path / "test.h5"), "--release", whole,
        "--submission", tmp_path / "new/pred_keypoints_mpii.mat",
    )  # fmt: skip
    pred = loadmat(tmp_path / "new/pred_keypoints_mpii.mat")["pred"]
    annolist = loadmat(whole)["RELEASE"][0, 0]["annolist"].ravel()[[1, 3, 4, 5]]
    assert pred.shape == (1, 4) and [r["image"]["name"].item().item() for r in pred[0]] == [f"{i}.jpg" for i in (1, 3, 4, 5)]
    assert [r["vididx"].item() for r in pred[0]] == [1, 3, 4, 5]  # whatever else the release says stays
    written, official = flatten(pred), flatten(annolist)
    assert [(i, r) for i, r, _ in written] == [(i, r) for i, r, _ in official]  # so that people are told apart by their order
    image_indices = [1, 3, 4, 5]
    for i, r, rect in written:
        person_index = (image_indices[i], r)
        if person_index in PEOPLE_INDICES and person_index in SEPARATED:
            assert np.array_equal(matrix(rect), keypoints[PEOPLE_INDICES.index(person_index)])
        else:
            assert np.isnan(matrix(rect)).all()
    assert written[0][2]["objpos"]["x"].item() == 10 and written[0][2]["scale"].item() == 0.5
    printed = capsys.readouterr().out
    assert "4 test images, 3 sufficiently separated people with a prediction, 1 omitted" in printed
    assert "count as wrong" not in printed  # (3, 1) has no objpos, so the script ignores it


def test_people_without_a_prediction_are_counted(tmp_path: Path) -> None:
    truth = read_mpii_h5(write_annotations(tmp_path / "test.h5")).take(np.array([0, 2]))
    words = write_mpii(tmp_path / "s.mat", make_predictions(2), truth, release(tmp_path / "release.mat"))
    assert "1 sufficiently separated people with a prediction, 1 omitted; 2 without a prediction" in words


@pytest.mark.parametrize(
    ("people_indices", "changed", "complaint"),
    [
        ([(1, 0), (2, 0)], {}, "RELEASE.annolist(3), row 1 of test.h5, is not a test image"),
        ([(4, 3)], {}, ""),  # not separated: omitted
        ([(3, 0)], {"imgname": np.array([b"9.jpg"])}, "is '3.jpg', but row 0 of test.h5 is '9.jpg'"),
        ([(40, 0)], {}, "is not a test image"),
        ([(3, 0), (3, 0)], {}, "contains a person twice"),
        ([(NUM_RELEASE_IMAGES, 0)], {}, "has an image or person number beyond"),
    ],
)
def test_people_missing_from_the_release_are_errors(
    tmp_path: Path, people_indices: list[tuple[int, int]], changed: dict[str, Any], complaint: str
) -> None:
    truth, whole = (
        read_mpii_h5(write_annotations(tmp_path / "test.h5", people_indices, **changed)),
        release(tmp_path / "release.mat"),
    )
    if not complaint:
        assert " 0 sufficiently separated people" in write_mpii(
            tmp_path / "s.mat", make_predictions(len(people_indices)), truth, whole
        )
        return
    with pytest.raises(HgfastError) as found:
        write_mpii(tmp_path / "s.mat", make_predictions(len(people_indices)), truth, whole)
    assert complaint in str(found.value) and not (tmp_path / "s.mat").exists()


def test_submission_without_the_release(run_pckh: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    keypoints = make_predictions(4)
    np.save(tmp_path / "p.npy", keypoints)
    annotations = write_annotations(tmp_path / "test.h5")
    run_pckh("--predictions", tmp_path / "p.npy", "--annotations", annotations, "--submission", tmp_path / "s.mat")
    pred = loadmat(tmp_path / "s.mat")["pred"]
    assert pred.shape == (1, NUM_RELEASE_IMAGES)
    people = flatten(pred)
    assert [(i, r) for i, r, _ in people] == PEOPLE_INDICES
    for (_, _, rect), wanted in zip(people, keypoints):
        assert np.array_equal(matrix(rect), wanted)
        assert rect["scale"].item() == pytest.approx(0.4)  # h5 files have 1.25 times as much
        assert rect["objpos"]["y"].item().item() == pytest.approx(60 - 15 * 0.4)
    assert pred[0, 4]["image"]["name"].item().item() == "4.jpg"
    printed = capsys.readouterr().out
    assert "pred = pred(RELEASE.img_train == 0)" in printed and "not in the test set" not in printed


@pytest.mark.real_data
def test_published_predictions_round_trip(tmp_path: Path) -> None:
    truth = read_mpii_h5(shared_path("fixtures/mpii/annot/valid.h5"))
    with h5py.File(shared_path("reference/newell_valid.h5")) as file:
        keypoints = file["preds"][()]
    some = np.arange(0, len(truth), 30)
    words = write_mpii(tmp_path / "s.mat", keypoints[some], truth.take(some), None)
    assert "these people are annotated" in words
    people = flatten(loadmat(tmp_path / "s.mat")["pred"])
    found = {(i, r): matrix(rect) for i, r, rect in people}
    with h5py.File(shared_path("fixtures/mpii/annot/valid.h5")) as file:
        index, person = file["index"][()].astype(int), file["person"][()].astype(int)
    assert len(found) == len(some)
    for n in some:
        assert np.array_equal(found[index[n], person[n]], keypoints[n])


def test_submission_from_a_checkpoint(run_pckh: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    for i in (1, 3, 4):
        cv2.imwrite(str(tmp_path / f"images/{i}.jpg"), np.random.default_rng(i).integers(0, 255, (120, 120, 3), np.uint8))
    about = Meta(BODY16, Normalization(), 64, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.model_state(checkpoints.build_model(PRESETS["tiny"], about)), tmp_path / "a.pt")
    words = [tmp_path / "a.pt", "--annotations", write_annotations(tmp_path / "test.h5"), "--images", tmp_path / "images"]
    run_pckh(*words, "--threads", 1, "--submission", tmp_path / "s.mat", "--release", release(tmp_path / "r.mat"))
    people = [matrix(rect) for _, _, rect in flatten(loadmat(tmp_path / "s.mat")["pred"])]
    written = [keypoints for keypoints in people if not np.isnan(keypoints).any()]
    assert len(written) == 3 and all((abs(keypoints - 60) < 60).all() for keypoints in written)  # in the square, of 100 pixels
    assert "PCKh" not in capsys.readouterr().out


def test_impossible_submissions_fail_early(run_pckh: Callable[..., None], hands: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", make_predictions(4))
    given = ("--predictions", tmp_path / "p.npy", "--submission", tmp_path / "s.mat")
    annotations = write_annotations(tmp_path / "test.h5")
    with h5py.File(annotations, "a") as file:
        del file["person"]
    with pytest.raises(HgfastError, match="does not identify the people in MPII's release"):
        run_pckh(*given, "--annotations", annotations)
    with pytest.raises(HgfastError, match=r"r\.mat is not a file: give mpii_human_pose_v1_u12_1\.mat"):
        run_pckh(*given, "--annotations", write_annotations(tmp_path / "test.h5"), "--release", tmp_path / "r.mat")
    savemat(tmp_path / "r.mat", {"RELEASE": {"annolist": 1.0}})
    with pytest.raises(HgfastError, match=r"r\.mat cannot be read as MPII's release"):
        run_pckh(*given, "--annotations", tmp_path / "test.h5", "--release", tmp_path / "r.mat")
    with pytest.raises(HgfastError, match="is for MPII: leave it out"):
        run_pckh(*given, "--dataset", "freihand", "--data", hands, "--release", tmp_path / "r.mat")


def test_freihand_submission_layout(run_pckh: Callable[..., None], hands: Path, tmp_path: Path, capsys: Any) -> None:
    count = len(list((hands / "evaluation/rgb").iterdir()))
    keypoints = make_predictions(count, 21)
    samples = [{"row": n, "keypoints": keypoints[n].tolist()} for n in range(count)]
    (tmp_path / "p.json").write_text(json.dumps({"samples": samples[::-1]}))
    words = ["--predictions", tmp_path / "p.json", "--dataset", "freihand", "--data", hands, "--split", "evaluation"]
    run_pckh(*words, "--submission", tmp_path / "pred.json")
    joints, vertices = json.loads((tmp_path / "pred.json").read_text())
    np.testing.assert_allclose(joints, keypoints, atol=5e-4)  # in the order of the files, whatever that of the predictions
    assert vertices == []
    assert "hands in 2D pixel coordinates: FreiHAND's official script requires 3D" in capsys.readouterr().out
    (tmp_path / "p.json").write_text(json.dumps({"samples": samples[1:]}))
    with pytest.raises(HgfastError, match=f"1 of the {count} hands"):
        run_pckh(*words, "--submission", tmp_path / "pred.json")


def test_missing_hands_are_an_error(tmp_path: Path) -> None:
    zeros = np.zeros((2, 21, 2))
    truth = GroundTruth("two", "freihand", HAND21, 0.0, zeros, np.zeros((2, 21), bool), np.ones(2), np.arange(2))
    with pytest.raises(HgfastError, match="1 of the 3 hands of two have no prediction"):
        write_freihand(tmp_path / "p.json", zeros, truth, 3)
    zeros[1, 4, 0] = np.nan  # JSON has no such number
    with pytest.raises(HgfastError, match="joint 4 of row 1 of two is not finite: predict every joint"):
        write_freihand(tmp_path / "p.json", zeros, truth, 2)
    assert not (tmp_path / "p.json").exists()
