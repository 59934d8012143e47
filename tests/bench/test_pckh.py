"""bench/pckh.py: published predictions, every format of files, and checkpoints beside hgfast/evaluate.py."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from conftest import Command, beside
from scipy.io import loadmat, savemat

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # where Python looks for the modules beside a script
sys.path.append(str(Path(__file__).parents[2] / "export"))

import engines
import onnx_file
import pckh
from pckh_network import Running, open_pictures, run_network
from pckh_predictions import read_predictions
from pckh_truth import Truth, from_detections, from_h5
from to_onnx import make_onnx
from torchscript import make_torchscript
from trt import TrtConfig, make_engine

from hgfast import checkpoints
from hgfast.config import DataChoice
from hgfast.engine import NoGpu
from hgfast.errors import HgfastError
from hgfast.errors import run as leave
from hgfast.foreign import nameless
from hgfast.looks import accuracy_curves
from hgfast.machine import cpu_features
from hgfast.metrics import body_figures, hand_table
from hgfast.model import PRESETS, Meta
from hgfast.preprocessing import Preprocessing
from hgfast.sidecar import checksum, place, read
from hgfast.sidecar import write as write_sidecar
from hgfast.skeletons import BODY16, HAND21, Skeleton, make_skeleton
from pipelines.freihand import read_freihand
from pipelines.mpii import read_mpii
from pipelines.samples import Samples

RECORD = {"machine", "versions", "revision", "command", "date", "rows"}
PEOPLE = 7
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the script in this process and read its record."""

    def run(*words: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words), "--json", str(tmp_path / "record.json")])
        pckh.main()
        found: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
        return found

    return run


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the script in this process and return what it complains about."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words)])
        with pytest.raises(HgfastError) as found:
            pckh.main()
        return str(found.value)

    return run


def write_h5(path: Path, **columns: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def annotate(path: Path, people: int = PEOPLE, seed: int = 0, **changed: Any) -> Path:
    """Made-up people in the layout of valid.h5, a fifth of their joints absent."""
    rng = np.random.default_rng(seed)
    part = rng.integers(1, 400, (people, 16, 2)).astype(float)
    absent = rng.random((people, 16)) < 0.2
    part[absent] = 0
    columns = {
        "part": part,
        "visible": np.where(absent, 0.0, rng.integers(0, 2, (people, 16))),
        "normalize": rng.uniform(20, 80, people),
        "imgname": np.array([b"%d.jpg" % (n // 2) for n in range(people)]),
        "index": np.arange(people) // 2 + 3.0,
        "person": np.arange(people) % 2 + 0.0,
        "center": rng.uniform(100, 300, (people, 2)),
        "scale": rng.uniform(1, 2, people),
    }
    return write_h5(path, **{name: value for name, value in {**columns, **changed}.items() if value is not None})


def guess(people: int = PEOPLE, joints: int = 16) -> np.ndarray:
    """Made-up predictions with a score."""
    rng = np.random.default_rng(9)
    return np.concatenate([rng.uniform(0, 400, (people, joints, 2)), rng.random((people, joints, 1))], -1)


# ---- published predictions ----


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "name"),
    [("valid.h5", "valid.h5: integer-truncated"), ("detections_our_format.mat", "detections_our_format.mat: with fractions")],
)
def test_published_predictions_score_as_known(score: Run, tmp_path: Path, capsys: Any, file: str, name: str) -> None:
    wanted = json.loads(beside("reference/newell_expected.json").read_text())[file]
    annotations = tmp_path / "some.thing"  # what is in it counts, not what it is called
    annotations.write_bytes(beside(f"fixtures/mpii/annot/{file}").read_bytes())
    found = score("--predictions", beside("reference/newell_valid.h5"), "--annotations", annotations)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=0, abs=0.01), key
    assert list(found["pckh@0.5"]) == ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "total"]
    assert found["ground_truth"] == name.replace(file, "some.thing")
    assert (found["dataset"], found["people"], found["people_in_ground_truth"]) == ("mpii", 2958, 2958)
    assert found["joints_counted"] == 38430  # of 44240 labelled joints, 2878 pelves and 2932 thoraxes do not count
    assert found["predictions"].endswith("newell_valid.h5") and "checkpoint" not in found
    assert set(found) >= RECORD and found["command"].startswith("python bench/pckh.py --predictions")
    (row,) = found["rows"]
    assert all(not isinstance(value, (dict, list)) for value in row.values())
    assert (row["pckh@0.5"], row["auc_knee"]) == (found["pckh@0.5"]["total"], found["auc"]["knee"])
    printed = capsys.readouterr().out
    assert found["ground_truth"] in printed and "2958 people, 38430 labelled joints" in printed
    assert all(f"{wanted['pckh@0.5'][group]:.2f}" in printed for group in ("head", "shoulder", "hip", "total"))
    assert "pooled16@0.5" in printed and "89.25" in printed and "87.98" in printed


@pytest.mark.real_data
def test_both_ground_truths_are_of_the_same_people() -> None:
    h5 = from_h5(beside("fixtures/mpii/annot/valid.h5"))
    mat = from_detections(beside("fixtures/mpii/annot/detections_our_format.mat"))
    assert np.abs(mat.reference - h5.reference).max() < 1e-4
    assert np.array_equal(mat.labelled, h5.labelled) and (~h5.labelled).sum() == 3088
    both = h5.labelled & (mat.points > 0).all(-1)
    assert both.sum() > 44100 and np.abs(mat.points - h5.points)[both].max() < 1.001


@pytest.mark.real_data
def test_predictions_that_a_mat_file_holds_beside_its_ground_truth(score: Run) -> None:
    """pos_pred_src, 16 x 2 x 2958, which has no pelvis and thorax: they lie nowhere."""
    mat = beside("fixtures/mpii/annot/detections_our_format.mat")
    found = score("--predictions", mat, "--annotations", beside("fixtures/mpii/annot/valid.h5"))
    points = loadmat(mat)["pos_pred_src"].transpose(2, 0, 1)
    truth = from_h5(beside("fixtures/mpii/annot/valid.h5"))
    direct: Any = body_figures(points, truth.points, truth.labelled, truth.reference, BODY16)
    assert found["pckh@0.5"] == direct["pckh@0.5"]
    assert found["pooled16@0.5"] < found["pckh@0.5"]["total"] - 5


# ---- files of predictions ----


def matlab73(path: Path, **columns: Any) -> Path:
    """An HDF5 file that begins with MATLAB's 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in columns.items():
            file[name] = values
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path


def shuffled(points: np.ndarray, **more: Any) -> str:
    """evaluate.py's JSON, its samples in another order."""
    order = np.random.default_rng(0).permutation(len(points))
    samples = [{"row": int(n), "file": f"images/{n // 2}.jpg", "keypoints": points[n].tolist()} for n in order]
    return json.dumps(
        {"dataset": "mpii", "split": "valid", "joints": BODY16.joints, "pixel_offset": -0.5, "samples": samples, **more}
    )


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "n x 16 x 2 in h5": lambda path, p: write_h5(path, preds=p[..., :2]),
    "2 x 16 x n in h5": lambda path, p: write_h5(path, preds=p[..., :2].T),
    "16 x 2 x n in h5": lambda path, p: write_h5(path, preds=p[..., :2].transpose(1, 2, 0)),
    "with a score in h5": lambda path, p: write_h5(path, preds=p),
    "3 x 16 x n in h5": lambda path, p: write_h5(path, preds=p.T),
    "n x 16 x 2 in mat": lambda path, p: savemat(str(path), {"preds": p[..., :2]}, appendmat=False),
    "2 x 16 x n in mat": lambda path, p: savemat(str(path), {"preds": p[..., :2].T}, appendmat=False, do_compression=True),
    "16 x 2 x n in mat": lambda path, p: savemat(
        str(path), {"pos_pred_src": p[..., :2].transpose(1, 2, 0), "jnt_missing": 1.0}, appendmat=False
    ),
    "n x 16 x 2 in mat 7.3": lambda path, p: matlab73(path, preds=p[..., :2].T),  # MATLAB's files have the axes reversed
    "2 x 16 x n in mat 7.3": lambda path, p: matlab73(path, preds=p[..., :2]),
    "npz": lambda path, p: np.savez(path.open("wb"), preds=p, other=1),
    "npy": lambda path, p: np.save(path.open("wb"), p[..., :2]),
    "nested lists": lambda path, p: path.write_text(json.dumps(p[..., :2].tolist())),
    "lists with a score": lambda path, p: path.write_text("\n " + json.dumps(p.tolist())),
    "evaluate.py's": lambda path, p: path.write_text(shuffled(p[..., :2])),
    "samples in order": lambda path, p: path.write_text(json.dumps({"samples": [{"keypoints": q.tolist()} for q in p]})),
    "corner coordinates": lambda path, p: path.write_text(shuffled(p[..., :2] - 0.5, pixel_offset=0)),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_format_is_read_alike(tmp_path: Path, kind: str) -> None:
    path, points = tmp_path / "predictions", guess()
    WRITERS[kind](path, points)
    found, places = read_predictions(path, from_h5(annotate(tmp_path / "valid.h5")))
    assert places.tolist() == list(range(PEOPLE))
    np.testing.assert_allclose(found, points[..., :2], rtol=0, atol=1e-9)


def test_rows_say_which_people_there_are(score: Run, tmp_path: Path, capsys: Any) -> None:
    truth, points = from_h5(annotate(tmp_path / "valid.h5")), guess()[..., :2]
    content = json.loads(shuffled(points))
    content["samples"] = [sample for sample in content["samples"] if sample["row"] in (1, 4, 5)]
    (tmp_path / "some.json").write_text(json.dumps(content))
    found = score("--predictions", tmp_path / "some.json", "--annotations", tmp_path / "valid.h5")
    some = truth.take(np.array([1, 4, 5]))
    direct: Any = body_figures(points[[1, 4, 5]], some.points, some.labelled, some.reference, BODY16)
    assert (found["people"], found["people_in_ground_truth"], found["joints_counted"]) == (3, PEOPLE, some.counted)
    assert {key: found[key] for key in direct} == json.loads(json.dumps(direct))
    assert "some.json: 3 of 7 people" in capsys.readouterr().out


def test_several_files_are_rows_of_one_table(score: Run, tmp_path: Path, capsys: Any) -> None:
    annotate(tmp_path / "valid.h5")
    for number, folder in enumerate(("one", "other")):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "p.npy", guess() + 5 * number)
    files = f"[{tmp_path}/one/p.npy,{tmp_path}/other/p.npy]"
    found = score("--predictions", files, "--annotations", tmp_path / "valid.h5", "--chart", tmp_path / "c.png")
    assert [row["method"] for row in found["rows"]] == ["one/p.npy", "other/p.npy"]
    assert found["predictions"] == [f"{tmp_path}/one/p.npy", f"{tmp_path}/other/p.npy"] and "pckh@0.5" not in found
    assert found["rows"][0]["auc"] != found["rows"][1]["auc"]
    assert capsys.readouterr().out.count("other/p.npy") == 4
    assert cv2.imread(str(tmp_path / "c.png")).std() > 10


def test_two_people_could_be_two_coordinates(tmp_path: Path) -> None:
    truth = from_h5(annotate(tmp_path / "valid.h5", people=2))
    np.save(tmp_path / "p.npy", guess(2)[..., :2])
    with pytest.raises(HgfastError, match="can be read in two ways: write it as JSON, 2 x 16 x 2"):
        read_predictions(tmp_path / "p.npy", truth)
    (tmp_path / "p.json").write_text(json.dumps(guess(2)[..., :2].tolist()))
    assert np.allclose(read_predictions(tmp_path / "p.json", truth)[0], guess(2)[..., :2])


def without(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[3, 5, 1] = np.nan
    return points


def test_a_joint_without_a_prediction_is_a_miss(score: Run, tmp_path: Path, capsys: Any) -> None:
    """As in evalMPII.m: the same figures as with a point far away."""
    annotate(tmp_path / "valid.h5")
    far = without(guess())
    far[np.isnan(far)] = 1e6
    figures = []
    for name, points in (("nan.npy", without(guess())), ("far.npy", far)):
        np.save(tmp_path / name, points[..., :2])
        figures.append(score("--predictions", tmp_path / name, "--annotations", tmp_path / "valid.h5"))
    assert all(figures[0][key] == figures[1][key] for key in ("pckh@0.5", "pckh@0.1", "auc", "pooled16@0.5", "mean14@0.5"))
    assert "nan.npy: 1 joints have no finite prediction and are misses" in capsys.readouterr().out


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(shuffled(guess()[..., :2]))
    content["samples"].sort(key=lambda sample: sample["row"])
    change(content)
    return json.dumps(content)


BAD: list[tuple[object, str]] = [
    (guess(6), "the array is 6 x 16 x 3, wanted 7 x 16 x 2"),
    (guess(joints=21), "7 x 21 x 3, wanted 7 x 16 x 2"),
    (guess()[..., 0], "the array is 7 x 16, wanted"),
    (np.zeros((7, 16, 2), bool), "holds bool, wanted numbers"),
    (np.full((7, 16, 2), "x"), "holds <U1, wanted numbers"),
    ({"part": guess()}, "no predictions called preds or pos_pred_src (it holds part)"),
    (b"", "no file of predictions of a known format"),
    (b"\x93NUMPY\x01", "cannot be read as numpy's arrays"),
    (b"PK\x03\x04 and more", "cannot be read as numpy's arrays"),
    (b"MATLAB 5.0 MAT-file".ljust(200), "cannot be read as a MATLAB file"),
    (b"\x89HDF\r\n\x1a\n and more", "cannot be read as HDF5"),
    ("[[1, 2]", "is not valid JSON"),
    (" []", "is empty, it has no samples"),
    ('{"samples": []}', "is empty, it has no samples"),
    ("[[[1, 2], [3]]]", "lists of different lengths, wanted n x 16 x 2"),
    (json.dumps(guess(6).tolist()), "has 6 samples, valid.h5 has 7"),
    (json.dumps([[[None, 1]] * 16] * 7), "not all of them numbers"),
    (json.dumps([[["1", "2"]] * 16] * 7), "not all of them numbers"),
    ("{}", "has no list 'samples'"),
    (edited(lambda c: c.update(dataset="freihand")), "predictions for freihand, valid.h5 is mpii"),
    (edited(lambda c: c["joints"].reverse()), "joint 0 is 'left_wrist', in valid.h5 'right_ankle'"),
    (edited(lambda c: c["joints"].pop()), "has 15 joints"),
    (edited(lambda c: c.update(pixel_offset="x")), 'pixel_offset is "x", must be a number'),
    (
        edited(lambda c: c.update(pixel_offset=10**400)),
        "pixel_offset is 1000000000000000000000000000000000000000, must be a number",
    ),
    (edited(lambda c: c.update(pixel_offset=1e308 * 10)), "pixel_offset is Infinity, must be a number"),
    (edited(lambda c: c.update(pixel_offset=float("nan"))), "pixel_offset is NaN, must be a number"),
    (edited(lambda c: c["samples"][2]["keypoints"][3].__setitem__(0, None)), "not all of them numbers"),
    (edited(lambda c: c["samples"][2].update(row=7)), "row of sample 2 is 7, which is no row of valid.h5"),
    (edited(lambda c: c["samples"][2].update(row=1)), "row of sample 2 is 1, which is twice"),
    (edited(lambda c: c["samples"][2].pop("row")), "row of sample 2 is null"),
    (
        edited(lambda c: c["samples"][2].update(file="0.jpg")),
        "sample 2 is of '0.jpg', that row of valid.h5 is",
    ),
    (edited(lambda c: c["samples"][2]["keypoints"].pop()), "lists of different lengths"),
    (edited(lambda c: [s.pop("row") for s in c["samples"]] + [c["samples"].pop()]), "has 6 samples without 'row'"),
]


@pytest.mark.parametrize(("bad", "complaint"), BAD)
def test_predictions_that_cannot_be_right_are_refused(
    fails: Callable[..., str], tmp_path: Path, bad: object, complaint: str
) -> None:
    path = tmp_path / "bad"
    if isinstance(bad, np.ndarray):
        with path.open("wb") as file:
            np.save(file, bad)
    elif isinstance(bad, dict):
        write_h5(path, **bad)
    else:
        path.write_bytes(bad if isinstance(bad, bytes) else str(bad).encode())
    found = fails("--predictions", path, "--annotations", annotate(tmp_path / "valid.h5"))
    assert complaint in found and str(path) in found and "\n" not in found


# ---- ground truth ----


def test_ground_truth_says_what_it_is(tmp_path: Path) -> None:
    whole = from_h5(annotate(tmp_path / "a.h5"))
    assert whole.name == "a.h5: integer-truncated"
    parts = whole.points + np.where(whole.labelled, 0.25, 0)[..., None]
    assert from_h5(annotate(tmp_path / "b.h5", part=parts)).name == "b.h5: with fractions"
    nobody = from_h5(annotate(tmp_path / "c.h5", part=np.full((PEOPLE, 16, 2), -1.0), visible=np.zeros((PEOPLE, 16))))
    assert not nobody.labelled.any() and nobody.name == "c.h5: nobody is annotated"
    edge = whole.points.copy()
    edge[0, 0], seen = 0, np.ones((PEOPLE, 16))
    assert from_h5(annotate(tmp_path / "d.h5", part=edge, visible=seen)).labelled.all()  # at (0, 0) but visible


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"part": None}, "is no ground truth that is known (it holds center, imgname, index"),
        ({"normalize": None}, "no data set 'normalize'"),
        ({"normalize": np.zeros(PEOPLE)}, "normalize of row 0 is not above 0"),
        ({"part": np.full((PEOPLE, 16, 2), np.nan)}, "part of row 0 is not finite"),
        ({"part": np.zeros((PEOPLE, 15, 2))}, "part has the shape (7, 15, 2), wanted (7, 16, 2)"),
        ({"index": np.full(PEOPLE, 0.5)}, "index must hold whole numbers"),
    ],
)
def test_broken_annotations_are_refused(
    fails: Callable[..., str], tmp_path: Path, changed: dict[str, Any], complaint: str
) -> None:
    np.save(tmp_path / "p.npy", guess())
    found = fails("--predictions", tmp_path / "p.npy", "--annotations", annotate(tmp_path / "valid.h5", **changed))
    assert complaint in found and "valid.h5" in found


def test_flags_that_do_not_go_together(fails: Callable[..., str], tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", guess())
    annotations = annotate(tmp_path / "valid.h5")
    given = ("--predictions", tmp_path / "p.npy", "--annotations", annotations)
    assert "nothing to score" in fails()
    assert "nothing to score against" in fails("--predictions", tmp_path / "p.npy")
    assert "exclude each other" in fails(*given, "best.pt")
    assert "--flip-test is for checkpoints" in fails(*given, "--flip-test")
    assert "must end in .png" in fails(*given, "--chart", "c.pdf")
    assert "--release is for --submission" in fails(*given, "--release", "r.mat")
    assert "is given twice" in fails("--predictions", f"[{tmp_path}/p.npy,{tmp_path}/p.npy]", "--annotations", annotations)
    assert "cannot be read (No such file" in fails("--predictions", tmp_path / "q.npy", "--annotations", annotations)
    assert "there is no file of annotations" in fails(*given[:3], tmp_path / "q.h5")
    (tmp_path / "notes.txt").write_text("?")
    assert "neither HDF5 nor a MATLAB file" in fails(*given[:3], tmp_path / "notes.txt")
    assert "did you mean --annotations" in fails(*given[:2], "--annotation", annotations)
    assert fails(*given, "--json", tmp_path / "p.npy").endswith(
        "p.npy would overwrite the predictions: choose another file with --json"
    )
    assert "would overwrite what --annotations names" in fails(*given, "--json", tmp_path / "x/../valid.h5")
    assert "would overwrite a checkpoint" in fails(tmp_path / "a.pt", *given[2:], "--json", tmp_path / "a.pt")
    assert "--json and --chart both name" in fails(*given, "--chart", tmp_path / "a.png", "--json", tmp_path / "a.png")
    assert "--json and --submission both name" in fails(*given, "--submission", tmp_path / "a", "--json", tmp_path / "a")
    release = ("--release", tmp_path / "r.mat")
    assert "would overwrite the release" in fails(*given, *release, "--submission", tmp_path / "r.mat")
    for flag in ("json", "submission"):
        assert fails(*given, f"--{flag}", tmp_path).endswith(f"which is a folder: name a file in it with --{flag}")
    (tmp_path / "x.png").mkdir()
    assert "which is a folder: name a file in it with --chart" in fails(*given, "--chart", tmp_path / "x.png")
    nobody = annotate(tmp_path / "test.h5", part=np.full((PEOPLE, 16, 2), -1.0), visible=np.zeros((PEOPLE, 16)))
    assert "no annotations: only --submission" in fails(*given[:3], nobody)


def test_bad_input_ends_with_2(command: Command, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[]")
    done = command("bench/pckh.py", "--predictions", tmp_path / "p.json", "--annotations", annotate(tmp_path / "valid.h5"))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# ---- data sets and checkpoints ----


def untrained(path: Path, skeleton: Skeleton, offset: float, **meta: Any) -> Path:
    """A tiny network with random weights."""
    import torch

    torch.manual_seed(1)
    about = replace(Meta(skeleton, Preprocessing(), 64, "logits", "dark", offset), **meta)
    checkpoints.save(checkpoints.describe(checkpoints.build(PRESETS["tiny"], about)), path)
    return path


def test_checkpoints_score_as_in_evaluate(score: Run, people: Path, tmp_path: Path, command: Command) -> None:
    """And evaluate.py's own predictions score as the checkpoint they are of."""
    network = untrained(tmp_path / "a.pt", BODY16, -0.5)
    data = ["--dataset", "mpii", "--data", people]
    done = command(
        "hgfast/evaluate.py", network, *data, "--flip-test", "--json", tmp_path / "e.json", "--predictions", tmp_path / "p.json"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "e.json").read_text())["rows"]
    found = score(network, *data, "--flip-test", "--device", "cpu", "--threads", 1)
    assert found["checkpoint"] == str(network) and found["people"] == 14
    assert {key: found["rows"][0][key] for key in row if key != "method"} == pytest.approx(
        {key: value for key, value in row.items() if key != "method"}
    )
    truth = from_h5(people / "annot/valid.h5")
    written, places = read_predictions(tmp_path / "p.json", truth)
    choice = DataChoice(dataset="mpii", data=people)
    ran = run_network(network, open_pictures(choice, "valid", truth), truth, Running("cpu", 8, "dali", 1, True))
    points, same, decoder = ran.points, ran.places, ran.decoder
    assert decoder == found["decoder"] == found["rows"][0]["decoder"] == "dark"
    assert np.array_equal(places, same) and np.abs(points - written).max() < 1e-3  # which has three decimals
    again = score("--predictions", tmp_path / "p.json", *data)
    assert again["auc"] == pytest.approx(found["auc"], abs=0.3)
    moved = untrained(tmp_path / "b.pt", BODY16, -0.5, shift=3.0)
    both = score(network, moved, *data, "--flip-test", "--loader", "torch", "--threads", 1)
    assert [row["method"] for row in both["rows"]] == ["a.pt", "b.pt"] and "checkpoint" not in both
    shifted = run_network(moved, open_pictures(choice, "valid", truth), truth, Running("cpu", 8, "dali", 1, True)).points
    np.testing.assert_allclose(shifted, points + 3, atol=1e-6)


def test_points_of_a_network_that_are_not_finite_are_misses(
    score: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """And the same in evaluate.py and in its predictions."""
    import hgfast.evaluate
    import hgfast.evaluation

    whole = hgfast.evaluation.keypoints_of

    def part(model: Any, maps: Any) -> Any:
        found = whole(model, maps)
        found[:, 9, 1], found[:, 6] = float("nan"), float("inf")
        return found

    monkeypatch.setattr(hgfast.evaluation, "keypoints_of", part)
    words = (untrained(tmp_path / "a.pt", BODY16, -0.5), "--dataset", "mpii", "--data", people, "--threads", 1)
    found = score(*words)
    assert (found["people"], found["not_finite"], found["rows"][0]["not_finite"]) == (14, 28, 28)
    assert "a.pt: 28 joints have no finite prediction and are misses" in capsys.readouterr().out
    argv = ["evaluate.py", *map(str, words), "--json", str(tmp_path / "e.json"), "--predictions", str(tmp_path / "p.json")]
    monkeypatch.setattr(sys, "argv", argv)
    hgfast.evaluate.main()
    (row,) = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert {key: found["rows"][0][key] for key in row if key != "method"} == {k: v for k, v in row.items() if k != "method"}
    again = score("--predictions", tmp_path / "p.json", *words[1:5])
    assert again["not_finite"] == 28
    assert again["pckh@0.5"] == pytest.approx(found["pckh@0.5"], abs=0.7)  # which has three decimals
    first = json.loads((tmp_path / "p.json").read_text())["samples"][0]["keypoints"]
    assert first[9] == [None, None] and first[8][0] is not None


def test_a_decoder_can_be_chosen(score: Run, fails: Callable[..., str], people: Path, tmp_path: Path, capsys: Any) -> None:
    words = (untrained(tmp_path / "a.pt", BODY16, -0.5), "--dataset", "mpii", "--data", people, "--threads", 1)
    found = score(*words, "--decoder", "argmax")
    assert found["decoder"] == "argmax" and "a.pt: heatmaps decoded by argmax" in capsys.readouterr().out
    np.save(tmp_path / "p.npy", guess(14))
    assert "--decoder is for checkpoints" in fails("--predictions", tmp_path / "p.npy", *words[1:5], "--decoder", "dark")
    found = score("--predictions", tmp_path / "p.npy", *words[1:5])
    assert "decoder" not in found and found["rows"][0]["decoder"] is None


def test_joints_without_names_are_to_be_named(fails: Callable[..., str], people: Path, tmp_path: Path) -> None:
    network = untrained(tmp_path / "a.pt", nameless(16), 0.0)
    found = fails(network, "--dataset", "mpii", "--data", people)
    assert f"convert {network} OUT --joints [right_ankle,right_knee," in found and "the joints of valid.h5" in found
    found = fails(untrained(tmp_path / "a.pt", nameless(15), 0.0), "--dataset", "mpii", "--data", people)
    assert "predicts points15, the joints of valid.h5 are body16: choose another" in found


def test_pictures_of_an_annotation_file(score: Run, fails: Callable[..., str], people: Path, tmp_path: Path) -> None:
    """--annotations FILE.h5 --images DIR is the same people as the data set's own valid.h5."""
    network, annotations = untrained(tmp_path / "a.pt", BODY16, -0.5), people / "annot/valid.h5"
    whole = score(network, "--dataset", "mpii", "--data", people, "--threads", 1)
    assert score(network, "--annotations", annotations, "--images", people / "images", "--threads", 1)["auc"] == whole["auc"]
    assert "give their folder as --images DIR" in fails(network, "--annotations", annotations)
    hand = untrained(tmp_path / "h.pt", HAND21, 0.0)
    assert "predicts hand21" in fails(hand, "--annotations", annotations, "--data", people)


@pytest.mark.real_data
def test_a_network_against_either_ground_truth(score: Run, tmp_path: Path, capsys: Any) -> None:
    """detections_our_format.mat names no pictures: they are those of valid.h5, five of which are there."""
    network, folder = untrained(tmp_path / "a.pt", BODY16, -0.5), beside("fixtures/mpii")
    words = (network, "--data", folder, "--skip-missing", "--threads", 1)
    for truth in ("valid.h5", "detections_our_format.mat"):
        found = score(*words, "--annotations", folder / "annot" / truth)
        assert (found["people"], found["people_in_ground_truth"]) == (5, 2958) and found["ground_truth"].startswith(truth)
        assert "a.pt: 5 of 2958 people" in capsys.readouterr().out


def test_hands_have_their_own_table(score: Run, hands: Path, tmp_path: Path, capsys: Any) -> None:
    samples = read_freihand(hands, "test", ["gs"])
    points = samples.keypoints + np.random.default_rng(0).normal(0, 4, samples.keypoints.shape)
    content = [{"row": int(r), "keypoints": p.tolist()} for r, p in zip(samples.row, points)][::-1]
    (tmp_path / "p.json").write_text(json.dumps({"dataset": "freihand", "samples": content}))
    words = ["--predictions", tmp_path / "p.json", "--data", hands, "--versions", "[gs]", "--chart", tmp_path / "c.png"]
    found = score(*words)
    wanted = hand_table(points, samples.keypoints, samples.labelled, samples.reference, samples.side)
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert found["joints_counted"] == 21 * len(samples) and found["ground_truth"].startswith("freihand, split test")
    assert "pck_image@0.2" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "c.png")).std() > 10


def test_the_curve_of_ones_own_keypoints_is_that_of_evaluate_and_of_the_table() -> None:
    rng = np.random.default_rng(5)
    labelled, reference = rng.random((40, 3)) < (0.9, 0.5, 0.2), rng.choice([20.0, 40.0, 60.0], 40)
    true = rng.integers(0, 99, (40, 3, 2)).astype(float)
    found = true + (rng.choice([0, 1, 2, 3, 6], (40, 3)) * reference[:, None] // 20)[..., None] * (1, 0)  # whole: ties stay ties
    reference[[3, 8]] = np.nan, 0
    skeleton = make_skeleton("thing", ("a", "b", "c"), groups=(("both", (0, 1)),))
    truth = Truth("x", "coco", skeleton, 0.5, true, labelled, reference, np.arange(40))
    scored = pckh.Scored("m", Path("m"), found, truth)
    curve, errors = scored.curve, np.linalg.norm(found - true, axis=-1)
    counted = labelled & (reference > 0)[:, None]
    for row, threshold in enumerate(curve.thresholds):
        near = errors / np.where(counted, reference[:, None], 1) < threshold
        assert curve.total[row] == pytest.approx(near[counted].mean())
        assert curve.groups["both"][row] == pytest.approx(np.mean([near[counted[:, k], k].mean() for k in (0, 1)]))
    at = dict(zip(curve.thresholds.round(6).tolist(), curve.total.tolist()))
    assert {f"pck@{t}": at[t] for t in (0.05, 0.1, 0.2)} == {k: v for k, v in scored.flat.items() if k != "epe_px"}
    assert curve.thresholds[-1] == 0.2 and len({*at.values()}) > 3
    theirs = accuracy_curves(truth_as_samples(truth), {"m": found}, heads=False)
    assert np.array_equal(theirs.thresholds, curve.thresholds) and np.array_equal(theirs.shares["m"], curve.total)


def truth_as_samples(truth: Truth) -> Samples:
    count = len(truth)
    return Samples(
        paths=np.array(["x"] * count), centre=np.zeros((count, 2)), side=np.ones(count), keypoints=truth.points,
        labelled=truth.labelled, reference=truth.reference, group=np.arange(count), row=truth.rows, skeleton=truth.skeleton,
        pixel_offset=0.5,
    )  # fmt: skip


@pytest.mark.real_data
def test_coco_keypoints(score: Run, tmp_path: Path) -> None:
    folder = beside("fixtures/freihand_coco")
    truth = json.loads((folder / "keypoints.json").read_text())["annotations"]
    points = np.array([a["keypoints"] for a in truth], float).reshape(len(truth), 21, 3)
    np.save(tmp_path / "p.npy", points + np.array([2.0, 0, 0]))
    words: Sequence[object] = ["--dataset", "coco", "--annotations", folder / "keypoints.json", "--images", folder / "images"]
    found = score("--predictions", tmp_path / "p.npy", *words, "--chart", tmp_path / "c.png")
    assert found["epe_px"] == pytest.approx(2) and found["pck@0.2"] == 1 and found["people"] == len(truth)


def test_people_need_no_pictures_to_be_scored(score: Run, people: Path, tmp_path: Path) -> None:
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/valid.h5").write_bytes((people / "annot/valid.h5").read_bytes())
    samples = read_mpii(people, "valid")
    np.save(tmp_path / "p.npy", samples.keypoints + 0.5)
    found = score("--predictions", tmp_path / "p.npy", "--dataset", "mpii", "--data", tmp_path)
    assert found["pckh@0.1"]["total"] == 100 and found["people"] == len(samples)


# ---- exported networks ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of bodies as a checkpoint, as ONNX in fp32 and fp16, as TorchScript of several kinds, as an engine."""
    folder = tmp_path_factory.mktemp("exported")
    network = untrained(folder / "net.pt", BODY16, -0.5, shift=0.25)
    trace, kept = onnx_file.trace, {}

    def once(graph: Any, sizes: Any) -> Any:
        """The exporter takes seconds, and the engine's ONNX is the other one."""
        if graph.wiring not in kept:
            kept[graph.wiring] = trace(graph, sizes).SerializeToString()
        return onnx_file.onnx.load_from_string(kept[graph.wiring])

    flags: dict[str, Any] = {"checkpoint": network, "batch": "1:4:8", "threads": 1}
    config = TrtConfig(**flags)

    def make(function: Any, name: str, *more: Any, **changed: Any) -> None:
        chosen = replace(config, **changed)
        function(chosen, chosen.load(), folder / name, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "trace", once)
        make(make_onnx, "net.onnx")
        make(make_onnx, "half.onnx", precision="fp16")
        make(make_torchscript, "net.torchscript")
        make(make_torchscript, "float.torchscript", input="float")
        make(make_torchscript, "flip.torchscript", flip_test=True)
        make(make_torchscript, "maps.torchscript", outputs="heatmaps")
        try:
            backend = engines.find_backend("tensorrt_rtx", gpu=False)
        except HgfastError:  # it is not installed
            return folder
        make(make_engine, "net.engine", backend)
    return folder


def no_gpu(device: int, what: str) -> None:
    raise NoGpu(f"running {what} needs an NVIDIA GPU")


def test_exported_networks_score_as_the_checkpoint(
    score: Run, exported: Path, people: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table; what needs a GPU is said and left out where there is none."""
    monkeypatch.setattr("hgfast.engine.Gpu", no_gpu)
    names = ["net.pt", "net.onnx", "half.onnx", "net.torchscript", "float.torchscript"]
    given = [*names, *(["net.engine"] if (exported / "net.engine").is_file() else [])]
    found = score(*(exported / name for name in given), "--dataset", "mpii", "--data", people, "--threads", 1)
    rows = dict(zip(names, found["rows"]))
    assert [row["method"] for row in found["rows"]] == names and len(found["checkpoints"]) == len(names)
    runs = ["checkpoint", "onnxruntime fp32", "onnxruntime fp16", "torch fp32", "torch fp32"]
    assert [row["what"] for row in found["rows"]] == runs
    for row in rows.values():
        assert 0 <= row["mean_px"] <= row["max_px"] and 0 <= row["p99_px"] <= row["max_px"]
        assert 0 <= row["over_1px_percent"] <= 100
        assert row["people"] == 14 and all(not isinstance(value, (dict, list)) for value in row.values())
    assert rows["net.pt"]["max_px"] == 0
    for name in ("net.onnx", "net.torchscript", "float.torchscript"):
        assert rows[name]["max_px"] < 0.01 and rows[name]["over_1px_percent"] == 0
        assert rows[name]["pckh@0.5"] == rows["net.pt"]["pckh@0.5"] and rows[name]["auc"] == pytest.approx(rows["net.pt"]["auc"])
    assert 0 < rows["half.onnx"]["mean_px"] < 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in names) and "from the keypoints of net.pt, in pixels of the input" in printed
    if "net.engine" in given:
        assert re.search(r"net.engine +built, not run: there is no GPU here", printed) and found["not_run"] == ["net.engine"]


def test_an_onnx_is_scored_in_every_runtime(
    score: Run, fails: Callable[..., str], exported: Path, people: Path, capsys: Any
) -> None:
    """bf16 is a way to run fp32; a checkpoint has one way."""
    files = [exported / name for name in ("net.pt", "net.onnx", "half.onnx")]
    data = ("--dataset", "mpii", "--data", people, "--threads", 1)
    found = score(*files, "--runtimes", "[onnxruntime,openvino,openvino-bf16]", *data)
    rows = {(row["file"], row["what"]): row for row in found["rows"]}
    bf16 = cpu_features().bf16
    assert list(rows) == [
        ("net.pt", "checkpoint"),
        ("net.onnx", "onnxruntime fp32"),
        ("net.onnx", "openvino fp32"),
        *([("net.onnx", "openvino bf16")] if bf16 else []),
        ("half.onnx", "onnxruntime fp16"),
        ("half.onnx", "openvino fp16"),
    ]
    assert len({row["method"] for row in found["rows"]}) == len(rows)
    assert rows["net.onnx", "openvino fp32"]["max_px"] < 0.01
    if bf16:
        assert rows["net.onnx", "openvino bf16"]["max_px"] > 0.01
    else:
        assert found["not_run"] == ["net.onnx in openvino-bf16"]
        assert re.search(r"net\.onnx in openvino-bf16 +not measured: no bf16 on this CPU", capsys.readouterr().out)
    assert "--runtimes is for ONNX files" in fails(files[0], "--runtimes", "[openvino]", *data)
    assert "name every runtime once" in fails(files[1], "--runtimes", "[openvino,openvino]", *data)


def test_distances_are_in_pixels_of_the_input(score: Run, exported: Path, people: Path, tmp_path: Path) -> None:
    """A network whose points are moved by three pixels of the photograph."""
    shutil.copy(exported / "net.torchscript", tmp_path / "moved.torchscript")
    known = read(exported / "net.torchscript")
    write_sidecar(replace(known, artefact="moved.torchscript", shift=known.shift + 3), tmp_path / "moved.torchscript")
    words = ("--dataset", "mpii", "--data", people, "--threads", 1)
    _, row = score(exported / "net.onnx", tmp_path / "moved.torchscript", *words)["rows"]
    side = read_mpii(people, "valid").side
    assert row["max_px"] == pytest.approx(3 * 2**0.5 * 64 / side.min(), rel=1e-3)
    assert row["mean_px"] == pytest.approx((3 * 2**0.5 * 64 / side).mean(), rel=1e-3)


def test_a_flip_test_is_asked_for_as_it_was_exported(score: Run, fails: Callable[..., str], exported: Path, people: Path) -> None:
    data = ("--dataset", "mpii", "--data", people, "--threads", 1)
    flip = exported / "flip.torchscript"
    found = fails(flip, *data)
    assert f"{flip} was exported with a flip test and decodes by dark: give --flip-test and --decoder accordingly" in found
    assert "was exported without a flip test" in fails(exported / "net.onnx", *data, "--flip-test")
    assert "decodes by dark" in fails(exported / "net.onnx", *data, "--decoder", "argmax")
    rows = score(exported / "net.pt", flip, *data, "--flip-test", "--decoder", "dark")["rows"]
    assert rows[1]["max_px"] < 0.01


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])
    write_sidecar(replace(read_anyway(path), sha256=checksum(path)), path)


def no_sidecar(path: Path) -> None:
    place(path).unlink()


def of_another(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"?")


def with_a_typo(path: Path) -> None:
    content = json.loads(place(path).read_text())
    content["decodr"] = content.pop("decoder")
    place(path).write_text(json.dumps(content))


def of_hands(path: Path) -> None:
    known = read(path)
    ports = tuple(replace(port, shape=(port.shape[0], len(HAND21.joints), *port.shape[2:])) for port in known.outputs)
    write_sidecar(replace(known, skeleton=HAND21, outputs=ports), path)


def of_another_version(path: Path) -> None:
    """As another TensorRT-RTX would have written it."""
    plan = path.read_bytes()
    path.write_bytes(plan[:24] + bytes((1, 2, 3, 4)) + plan[28:])
    known = read_anyway(path)
    write_sidecar(replace(known, sha256=checksum(path), builder={**(known.builder or {}), "version": "1.2.3.4"}), path)


def said_to_be_of_another_version(path: Path) -> None:
    known = read(path)
    write_sidecar(replace(known, builder={**(known.builder or {}), "version": "1.2.3.4"}), path)


def read_anyway(path: Path) -> Any:
    """The sidecar of what has been changed."""
    content = json.loads(place(path).read_text())
    place(path).write_text(json.dumps({**content, "sha256": checksum(path)}))
    return read(path)


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("net.onnx", cut_short, "net.onnx cannot be read by onnxruntime"),
        ("net.torchscript", cut_short, "net.torchscript cannot be read by torch.jit.load"),
        ("net.engine", cut_short, "bytes where its header says"),
        ("net.onnx", no_sidecar, "net.onnx has no sidecar net.onnx.json beside it"),
        ("net.engine", no_sidecar, "net.engine has no sidecar net.engine.json beside it"),
        ("net.onnx", of_another, "net.onnx.json does not belong to"),
        ("net.onnx", with_a_typo, "net.onnx.json is not one of hgfast's"),
        ("net.onnx", of_hands, "net.onnx predicts hand21, the joints of .* are body16: choose another"),
        ("net.engine", of_another_version, "was built by TensorRT-RTX 1.2.3.4 and .* is installed here, which does not run it"),
        ("net.engine", said_to_be_of_another_version, "as its header says, and its sidecar says 1.2.3.4: build it again"),
        ("maps.torchscript", None, "maps.torchscript gives no keypoints: export it with --outputs keypoints,heatmaps"),
        (
            "net.engine",
            None,
            r"net\.engine cannot run here \(built, not run: there is no GPU here\): give a checkpoint or an ONNX",
        ),
    ],
)
def test_bad_artefacts_are_refused(
    exported: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, file: str,
    change: Callable[[Path], None] | None, complaint: str,
) -> None:  # fmt: skip
    """One sentence, exit code 2, no record."""
    monkeypatch.setattr("hgfast.engine.Gpu", no_gpu)
    if not (exported / file).is_file():
        pytest.skip("TensorRT-RTX is not installed here")
    for path in (exported / file, place(exported / file)):
        shutil.copy(path, tmp_path)
    if change is not None:
        change(tmp_path / file)
    words = [tmp_path / file, "--dataset", "mpii", "--data", people, "--threads", 1, "--json", tmp_path / "record.json"]
    monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        leave(pckh.main)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert re.search(complaint, said), said
    assert not (tmp_path / "record.json").exists()
