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
from conftest import beside
from scipy.io import loadmat, savemat

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script

import pckh
from pckh_submission import RELEASED, write_freihand, write_mpii
from pckh_truth import Truth, from_h5

from hgfast import checkpoints
from hgfast.errors import HgfastError
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.skeletons import BODY16, HAND21

Structs = np.ndarray
NOTHING = np.zeros((0, 0))
# Of the made-up release: pictures of annolist and people of annorect, from 0, that test.h5 has, in its order.
PLACES = [(1, 0), (1, 1), (3, 0), (4, 2)]
SEPARATED = {(1, 1), (3, 0), (3, 1), (4, 2)}


def structs(*elements: dict[str, Any]) -> Structs:
    """A MATLAB struct array (1, N)."""
    names = list(dict.fromkeys(name for element in elements for name in element))
    array = np.empty((1, len(elements)), [(name, object) for name in names])
    for i, element in enumerate(elements):
        for name in names:
            array[0, i][name] = element.get(name, NOTHING)
    return array


def somebody(x: float, y: float, **more: Any) -> dict[str, Any]:
    return {"x1": 1.0, "scale": 0.5, "objpos": structs({"x": x, "y": y}), **more}


def release(path: Path) -> Path:
    """Pictures 0 and 2 are for training; the others for testing, 5 without anybody and 3 with a person without objpos."""
    people: list[Any] = [
        structs(somebody(1, 1, annopoints=structs({"point": structs({"x": 1.0, "y": 2.0, "id": 0.0})}))),
        structs(somebody(10, 20), somebody(30, 40)),
        structs(somebody(5, 5)),
        structs(somebody(50, 60), {"scale": 1.0}, somebody(70, 80, annopoints=NOTHING)),
        structs(somebody(1, 2), somebody(3, 4), somebody(90, 100)),
        NOTHING,
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


def annotate(path: Path, places: list[tuple[int, int]] = PLACES, **changed: Any) -> Path:
    """test.h5 for these people: nobody's joints."""
    count = len(places)
    columns = {
        "part": np.full((count, 16, 2), -1.0),
        "visible": np.zeros((count, 16)),
        "normalize": np.ones(count),
        "imgname": np.array([f"{index}.jpg".encode() for index, _ in places]),
        "index": np.array([index for index, _ in places], float),
        "person": np.array([person for _, person in places], float),
        "center": np.full((count, 2), 60.0),
        "scale": np.full(count, 0.5),
    }
    with h5py.File(path, "w") as file:
        for name, values in {**columns, **changed}.items():
            file[name] = values
    return path


def flatten(annolist: Any) -> list[tuple[int, int, Any]]:
    """flatten_annolist.m: everybody with objpos, by picture, in order; both numbers from 0."""
    found = []
    for i, record in enumerate(annolist.ravel()):
        rect = record["annorect"]
        for r in range(rect.size):
            if "objpos" in (rect.dtype.names or ()) and rect.ravel()[r]["objpos"].size:
                found.append((i, r, rect.ravel()[r]))
    return found


def matrix(rect: Any) -> np.ndarray:
    """annolist2matrix.m: a person's points (16, 2) by id; NaN where there are none."""
    points = np.full((16, 2), np.nan)
    names = rect.dtype.names or ()
    if "annopoints" in names and rect["annopoints"].size:
        for point in rect["annopoints"].ravel()[0]["point"].ravel():
            points[int(point["id"].item())] = point["x"].item(), point["y"].item()
    return points


def guess(people: int, joints: int = 16) -> np.ndarray:
    return np.random.default_rng(3).uniform(1, 400, (people, joints, 2))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words)])
        pckh.main()

    return run


def test_with_the_release_it_is_what_the_official_script_reads(start: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    points, whole = guess(4), release(tmp_path / "release.mat")
    np.save(tmp_path / "p.npy", points)
    start(
        "--predictions", tmp_path / "p.npy", "--annotations", annotate(tmp_path / "test.h5"), "--release", whole,
        "--submission", tmp_path / "new/pred_keypoints_mpii.mat",
    )  # fmt: skip
    pred = loadmat(tmp_path / "new/pred_keypoints_mpii.mat")["pred"]
    annolist = loadmat(whole)["RELEASE"][0, 0]["annolist"].ravel()[[1, 3, 4, 5]]
    assert pred.shape == (1, 4) and [r["image"]["name"].item().item() for r in pred[0]] == [f"{i}.jpg" for i in (1, 3, 4, 5)]
    assert [r["vididx"].item() for r in pred[0]] == [1, 3, 4, 5]  # whatever else the release says stays
    ours, theirs = flatten(pred), flatten(annolist)
    assert [(i, r) for i, r, _ in ours] == [(i, r) for i, r, _ in theirs]  # so that people are told apart by their order
    picture = [1, 3, 4, 5]
    for i, r, rect in ours:
        place = (picture[i], r)
        if place in PLACES and place in SEPARATED:
            assert np.array_equal(matrix(rect), points[PLACES.index(place)])
        else:
            assert np.isnan(matrix(rect)).all()
    assert ours[0][2]["objpos"]["x"].item() == 10 and ours[0][2]["scale"].item() == 0.5
    printed = capsys.readouterr().out
    assert "4 test pictures, 3 sufficiently separated people with a prediction, 1 left out" in printed
    assert "who will count" not in printed  # (3, 1) has no objpos, so nobody looks at it


def test_people_without_a_prediction_are_counted(tmp_path: Path) -> None:
    truth = from_h5(annotate(tmp_path / "test.h5")).take(np.array([0, 2]))
    words = write_mpii(tmp_path / "s.mat", guess(2), truth, release(tmp_path / "release.mat"))
    assert "1 sufficiently separated people with a prediction, 1 left out; 2 without one" in words


@pytest.mark.parametrize(
    ("places", "changed", "complaint"),
    [
        ([(1, 0), (2, 0)], {}, "RELEASE.annolist(3), row 1 of test.h5, is no test picture"),
        ([(4, 3)], {}, ""),  # not separated: left out
        ([(3, 0)], {"imgname": np.array([b"9.jpg"])}, "is '3.jpg', row 0 of test.h5 is '9.jpg'"),
        ([(40, 0)], {}, "is no test picture"),
        ([(3, 0), (3, 0)], {}, "names a person twice"),
        ([(RELEASED, 0)], {}, "names more pictures or people than there are"),
    ],
)
def test_people_who_are_not_in_the_release(
    tmp_path: Path, places: list[tuple[int, int]], changed: dict[str, Any], complaint: str
) -> None:
    truth, whole = from_h5(annotate(tmp_path / "test.h5", places, **changed)), release(tmp_path / "release.mat")
    if not complaint:
        assert " 0 sufficiently separated people" in write_mpii(tmp_path / "s.mat", guess(len(places)), truth, whole)
        return
    with pytest.raises(HgfastError) as found:
        write_mpii(tmp_path / "s.mat", guess(len(places)), truth, whole)
    assert complaint in str(found.value) and not (tmp_path / "s.mat").exists()


def test_without_the_release_it_is_numbered_as_the_release(start: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    points = guess(4)
    np.save(tmp_path / "p.npy", points)
    annotations = annotate(tmp_path / "test.h5")
    start("--predictions", tmp_path / "p.npy", "--annotations", annotations, "--submission", tmp_path / "s.mat")
    pred = loadmat(tmp_path / "s.mat")["pred"]
    assert pred.shape == (1, RELEASED)
    people = flatten(pred)
    assert [(i, r) for i, r, _ in people] == PLACES
    for (_, _, rect), wanted in zip(people, points):
        assert np.array_equal(matrix(rect), wanted)
        assert rect["scale"].item() == pytest.approx(0.4)  # h5 files have 1.25 times as much
        assert rect["objpos"]["y"].item().item() == pytest.approx(60 - 15 * 0.4)
    assert pred[0, 4]["image"]["name"].item().item() == "4.jpg"
    printed = capsys.readouterr().out
    assert "pred = pred(RELEASE.img_train == 0)" in printed and "not of the test set" not in printed


@pytest.mark.real_data
def test_published_predictions_make_the_round_trip(tmp_path: Path) -> None:
    truth = from_h5(beside("fixtures/mpii/annot/valid.h5"))
    with h5py.File(beside("reference/newell_valid.h5")) as file:
        points = file["preds"][()]
    some = np.arange(0, len(truth), 30)
    words = write_mpii(tmp_path / "s.mat", points[some], truth.take(some), None)
    assert "these people are annotated" in words
    people = flatten(loadmat(tmp_path / "s.mat")["pred"])
    found = {(i, r): matrix(rect) for i, r, rect in people}
    with h5py.File(beside("fixtures/mpii/annot/valid.h5")) as file:
        index, person = file["index"][()].astype(int), file["person"][()].astype(int)
    assert len(found) == len(some)
    for n in some:
        assert np.array_equal(found[index[n], person[n]], points[n])


def test_a_checkpoint_on_the_test_pictures(start: Callable[..., None], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "images").mkdir()
    for i in (1, 3, 4):
        cv2.imwrite(str(tmp_path / f"images/{i}.jpg"), np.random.default_rng(i).integers(0, 255, (120, 120, 3), np.uint8))
    about = Meta(BODY16, Preprocessing(), 64, "logits", "dark", -0.5)
    checkpoints.save(checkpoints.describe(checkpoints.build(PRESETS["tiny"], about)), tmp_path / "a.pt")
    words = [tmp_path / "a.pt", "--annotations", annotate(tmp_path / "test.h5"), "--images", tmp_path / "images"]
    start(*words, "--threads", 1, "--submission", tmp_path / "s.mat", "--release", release(tmp_path / "r.mat"))
    people = [matrix(rect) for _, _, rect in flatten(loadmat(tmp_path / "s.mat")["pred"])]
    written = [points for points in people if not np.isnan(points).any()]
    assert len(written) == 3 and all((abs(points - 60) < 60).all() for points in written)  # in the square, of 100 pixels
    assert "PCKh" not in capsys.readouterr().out


def test_what_cannot_be_sent_is_refused_before_the_work(start: Callable[..., None], hands: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", guess(4))
    given = ("--predictions", tmp_path / "p.npy", "--submission", tmp_path / "s.mat")
    annotations = annotate(tmp_path / "test.h5")
    with h5py.File(annotations, "a") as file:
        del file["person"]
    with pytest.raises(HgfastError, match="does not say who is who in MPII's release"):
        start(*given, "--annotations", annotations)
    with pytest.raises(HgfastError, match=r"r\.mat is no file: give mpii_human_pose_v1_u12_1\.mat"):
        start(*given, "--annotations", annotate(tmp_path / "test.h5"), "--release", tmp_path / "r.mat")
    savemat(tmp_path / "r.mat", {"RELEASE": {"annolist": 1.0}})
    with pytest.raises(HgfastError, match=r"r\.mat cannot be read as MPII's release"):
        start(*given, "--annotations", tmp_path / "test.h5", "--release", tmp_path / "r.mat")
    with pytest.raises(HgfastError, match="is MPII's: leave it out"):
        start(*given, "--dataset", "freihand", "--data", hands, "--release", tmp_path / "r.mat")


def test_hands_are_nested_as_their_script_wants_them(
    start: Callable[..., None], hands: Path, tmp_path: Path, capsys: Any
) -> None:
    count = len(list((hands / "evaluation/rgb").iterdir()))
    points = guess(count, 21)
    samples = [{"row": n, "keypoints": points[n].tolist()} for n in range(count)]
    (tmp_path / "p.json").write_text(json.dumps({"samples": samples[::-1]}))
    words = ["--predictions", tmp_path / "p.json", "--dataset", "freihand", "--data", hands, "--split", "evaluation"]
    start(*words, "--submission", tmp_path / "pred.json")
    joints, vertices = json.loads((tmp_path / "pred.json").read_text())
    np.testing.assert_allclose(joints, points, atol=5e-4)  # in the order of the files, whatever that of the predictions
    assert vertices == []
    assert "two dimensions, pixels: FreiHAND's official script scores three" in capsys.readouterr().out
    (tmp_path / "p.json").write_text(json.dumps({"samples": samples[1:]}))
    with pytest.raises(HgfastError, match=f"1 of the {count} hands"):
        start(*words, "--submission", tmp_path / "pred.json")


def test_all_hands_must_be_there(tmp_path: Path) -> None:
    zeros = np.zeros((2, 21, 2))
    truth = Truth("two", "freihand", HAND21, 0.0, zeros, np.zeros((2, 21), bool), np.ones(2), np.arange(2))
    with pytest.raises(HgfastError, match="1 of the 3 hands of two have no prediction"):
        write_freihand(tmp_path / "p.json", zeros, truth, 3)
    zeros[1, 4, 0] = np.nan  # JSON has no such number
    with pytest.raises(HgfastError, match="joint 4 of row 1 of two is not finite: every joint must have a guess"):
        write_freihand(tmp_path / "p.json", zeros, truth, 2)
    assert not (tmp_path / "p.json").exists()
