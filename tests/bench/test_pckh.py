"""bench/pckh.py: published predictions, every file format, and checkpoints compared with hgfast/evaluate.py."""

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
from scipy.io import loadmat, savemat

import hgfast.evaluate
import hgfast.training.evaluator
from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.bench import pckh
from hgfast.bench.scoring import score as scoring
from hgfast.bench.scoring.config import PckhConfig
from hgfast.bench.scoring.ground_truth import GroundTruth, read_detections, read_mpii_h5
from hgfast.bench.scoring.network import NetworkPredictions, open_images, run_network
from hgfast.bench.scoring.predictions import read_predictions
from hgfast.bench.scoring.score import ScoredPredictions
from hgfast.config import DataConfig, InferenceConfig
from hgfast.entry_point import run_main as leave
from hgfast.errors import HgfastError
from hgfast.export.exporter import trt_builder
from hgfast.export.exporter.artifact import load_network
from hgfast.export.exporter.onnx_export import make_onnx
from hgfast.export.exporter.options import TensorRTConfig
from hgfast.export.exporter.tensorrt_export import make_engine
from hgfast.export.exporter.torchscript_export import make_torchscript
from hgfast.metrics import BOX_PCK, body_metrics, hand_metrics
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.pipelines.samples import Samples
from hgfast.runtime.sidecar import read_sidecar, sha256_of, sidecar_path
from hgfast.runtime.sidecar import write as write_sidecar
from hgfast.runtime.tensorrt_engine import GpuNotFound
from hgfast.skeletons import BODY16, HAND21, Skeleton, anonymous_skeleton, make_skeleton
from hgfast.system_info import cpu_features
from hgfast.visualization.overlays import accuracy_curves
from tests.conftest import Command, shared_path

RECORD = {"machine", "versions", "revision", "command", "date", "rows"}
PEOPLE = 7
RunPckh = Callable[..., dict[str, Any]]


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunPckh:
    """Run the script in this process and read its record."""

    def run(*words: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words), "--json", str(tmp_path / "record.json")])
        pckh.main()
        found: dict[str, Any] = json.loads((tmp_path / "record.json").read_text())
        return found

    return run


@pytest.fixture
def error_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the script in this process and return the message of its error."""

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


def write_annotations(path: Path, people: int = PEOPLE, seed: int = 0, **changed: Any) -> Path:
    """Random people in the layout of valid.h5, a fifth of whose joints are absent."""
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


def make_predictions(people: int = PEOPLE, joints: int = 16) -> np.ndarray:
    """Random predictions with a score."""
    rng = np.random.default_rng(9)
    return np.concatenate([rng.uniform(0, 400, (people, joints, 2)), rng.random((people, joints, 1))], -1)


# ---- published predictions ----


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "name"),
    [("valid.h5", "valid.h5: integer-truncated"), ("detections_our_format.mat", "detections_our_format.mat: with fractions")],
)
def test_published_predictions(score: RunPckh, tmp_path: Path, capsys: Any, file: str, name: str) -> None:
    wanted = json.loads(shared_path("reference/newell_expected.json").read_text())[file]
    annotations = tmp_path / "some.thing"  # what is in it counts, not what it is called
    annotations.write_bytes(shared_path(f"fixtures/mpii/annot/{file}").read_bytes())
    found = score("--predictions", shared_path("reference/newell_valid.h5"), "--annotations", annotations)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=0, abs=0.01), key
    assert list(found["pckh@0.5"]) == ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "total"]
    assert found["ground_truth"] == name.replace(file, "some.thing")
    assert (found["dataset"], found["people"], found["people_in_ground_truth"]) == ("mpii", 2958, 2958)
    assert found["joints_counted"] == 38430  # of 44240 labeled joints, 2878 pelves and 2932 thoraxes do not count
    assert found["predictions"].endswith("newell_valid.h5") and "checkpoint" not in found
    assert set(found) >= RECORD and found["command"].startswith("python bench/pckh.py --predictions")
    (row,) = found["rows"]
    assert all(not isinstance(value, (dict, list)) for value in row.values())
    assert (row["pckh@0.5"], row["auc_knee"]) == (found["pckh@0.5"]["total"], found["auc"]["knee"])
    printed = capsys.readouterr().out
    assert found["ground_truth"] in printed and "2958 people, 38430 labeled joints" in printed
    assert all(f"{wanted['pckh@0.5'][group]:.2f}" in printed for group in ("head", "shoulder", "hip", "total"))
    assert "pooled16@0.5" in printed and "89.25" in printed and "87.98" in printed


@pytest.mark.real_data
def test_both_ground_truths_agree() -> None:
    h5 = read_mpii_h5(shared_path("fixtures/mpii/annot/valid.h5"))
    mat = read_detections(shared_path("fixtures/mpii/annot/detections_our_format.mat"))
    assert np.abs(mat.reference - h5.reference).max() < 1e-4
    assert np.array_equal(mat.labeled, h5.labeled) and (~h5.labeled).sum() == 3088
    both = h5.labeled & (mat.points > 0).all(-1)
    assert both.sum() > 44100 and np.abs(mat.points - h5.points)[both].max() < 1.001


@pytest.mark.real_data
def test_predictions_that_a_mat_file_holds_beside_its_ground_truth(score: RunPckh) -> None:
    """pos_pred_src, 16 x 2 x 2958, which has no pelvis and thorax: they lie nowhere."""
    mat = shared_path("fixtures/mpii/annot/detections_our_format.mat")
    found = score("--predictions", mat, "--annotations", shared_path("fixtures/mpii/annot/valid.h5"))
    keypoints = loadmat(mat)["pos_pred_src"].transpose(2, 0, 1)
    truth = read_mpii_h5(shared_path("fixtures/mpii/annot/valid.h5"))
    direct: Any = body_metrics(keypoints, truth.points, truth.labeled, truth.reference, BODY16)
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


def shuffled_json(keypoints: np.ndarray, **more: Any) -> str:
    """evaluate.py's JSON, its samples in another order."""
    order = np.random.default_rng(0).permutation(len(keypoints))
    samples = [{"row": int(n), "file": f"images/{n // 2}.jpg", "keypoints": keypoints[n].tolist()} for n in order]
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
    "2 x 16 x n as LSP's": lambda path, p: savemat(str(path), {"pred": p[..., :2].T}, appendmat=False),
    "n x 16 x 2 in mat 7.3": lambda path, p: matlab73(path, preds=p[..., :2].T),  # MATLAB's files have the axes reversed
    "2 x 16 x n in mat 7.3": lambda path, p: matlab73(path, preds=p[..., :2]),
    "npz": lambda path, p: np.savez(path.open("wb"), preds=p, other=1),
    "npy": lambda path, p: np.save(path.open("wb"), p[..., :2]),
    "nested lists": lambda path, p: path.write_text(json.dumps(p[..., :2].tolist())),
    "lists with a score": lambda path, p: path.write_text("\n " + json.dumps(p.tolist())),
    "evaluate.py's": lambda path, p: path.write_text(shuffled_json(p[..., :2])),
    "samples in order": lambda path, p: path.write_text(json.dumps({"samples": [{"keypoints": q.tolist()} for q in p]})),
    "corner coordinates": lambda path, p: path.write_text(shuffled_json(p[..., :2] - 0.5, pixel_offset=0)),
}


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_format(tmp_path: Path, format_name: str) -> None:
    path, keypoints = tmp_path / "predictions", make_predictions()
    WRITERS[format_name](path, keypoints)
    found, sample_indices = read_predictions(path, read_mpii_h5(write_annotations(tmp_path / "valid.h5")))
    assert sample_indices.tolist() == list(range(PEOPLE))
    np.testing.assert_allclose(found, keypoints[..., :2], rtol=0, atol=1e-9)


def test_row_field_selects_samples(score: RunPckh, tmp_path: Path, capsys: Any) -> None:
    truth, keypoints = read_mpii_h5(write_annotations(tmp_path / "valid.h5")), make_predictions()[..., :2]
    content = json.loads(shuffled_json(keypoints))
    content["samples"] = [sample for sample in content["samples"] if sample["row"] in (1, 4, 5)]
    (tmp_path / "some.json").write_text(json.dumps(content))
    found = score("--predictions", tmp_path / "some.json", "--annotations", tmp_path / "valid.h5")
    some = truth.take(np.array([1, 4, 5]))
    direct: Any = body_metrics(keypoints[[1, 4, 5]], some.points, some.labeled, some.reference, BODY16)
    assert (found["people"], found["people_in_ground_truth"], found["joints_counted"]) == (3, PEOPLE, some.counted)
    assert {key: found[key] for key in direct} == json.loads(json.dumps(direct))
    assert "some.json: 3 of 7 people" in capsys.readouterr().out


def test_several_files_are_rows_of_one_table(score: RunPckh, tmp_path: Path, capsys: Any) -> None:
    write_annotations(tmp_path / "valid.h5")
    for number, folder in enumerate(("one", "other")):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "p.npy", make_predictions() + 5 * number)
    files = f"[{tmp_path}/one/p.npy,{tmp_path}/other/p.npy]"
    found = score("--predictions", files, "--annotations", tmp_path / "valid.h5", "--chart", tmp_path / "c.png")
    assert [row["method"] for row in found["rows"]] == ["one/p.npy", "other/p.npy"]
    assert found["predictions"] == [f"{tmp_path}/one/p.npy", f"{tmp_path}/other/p.npy"] and "pckh@0.5" not in found
    assert found["rows"][0]["auc"] != found["rows"][1]["auc"]
    assert capsys.readouterr().out.count("other/p.npy") == 4
    assert cv2.imread(str(tmp_path / "c.png")).std() > 10


def test_two_people_could_be_two_coordinates(tmp_path: Path) -> None:
    truth = read_mpii_h5(write_annotations(tmp_path / "valid.h5", people=2))
    np.save(tmp_path / "p.npy", make_predictions(2)[..., :2])
    with pytest.raises(HgfastError, match="whose axes are ambiguous: write it as JSON, 2 x 16 x 2"):
        read_predictions(tmp_path / "p.npy", truth)
    (tmp_path / "p.json").write_text(json.dumps(make_predictions(2)[..., :2].tolist()))
    assert np.allclose(read_predictions(tmp_path / "p.json", truth)[0], make_predictions(2)[..., :2])


def with_nan(keypoints: np.ndarray) -> np.ndarray:
    keypoints = keypoints.copy()
    keypoints[3, 5, 1] = np.nan
    return keypoints


def test_a_joint_without_a_prediction_is_a_miss(score: RunPckh, tmp_path: Path, capsys: Any) -> None:
    """As in evalMPII.m: the metrics equal those of a point far away."""
    write_annotations(tmp_path / "valid.h5")
    far = with_nan(make_predictions())
    far[np.isnan(far)] = 1e6
    figures = []
    for name, keypoints in (("nan.npy", with_nan(make_predictions())), ("far.npy", far)):
        np.save(tmp_path / name, keypoints[..., :2])
        figures.append(score("--predictions", tmp_path / name, "--annotations", tmp_path / "valid.h5"))
    assert all(figures[0][key] == figures[1][key] for key in ("pckh@0.5", "pckh@0.1", "auc", "pooled16@0.5", "mean14@0.5"))
    assert "nan.npy: 1 joints have no finite prediction and are misses" in capsys.readouterr().out


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(shuffled_json(make_predictions()[..., :2]))
    content["samples"].sort(key=lambda sample: sample["row"])
    change(content)
    return json.dumps(content)


BAD: list[tuple[object, str]] = [
    (make_predictions(6), "the array is 6 x 16 x 3, expected 7 x 16 x 2"),
    (make_predictions(joints=21), "7 x 21 x 3, expected 7 x 16 x 2"),
    (make_predictions()[..., 0], "the array is 7 x 16, expected"),
    (np.zeros((7, 16, 2), bool), "contains bool, expected numbers"),
    (np.full((7, 16, 2), "x"), "contains <U1, expected numbers"),
    ({"part": make_predictions()}, "no array preds, pos_pred_src or pred (it contains part)"),
    (b"", "not a file of predictions of a known format"),
    (b"\x93NUMPY\x01", "cannot be read as numpy's arrays"),
    (b"PK\x03\x04 and more", "cannot be read as numpy's arrays"),
    (b"MATLAB 5.0 MAT-file".ljust(200), "cannot be read as a MATLAB file"),
    (b"\x89HDF\r\n\x1a\n and more", "cannot be read as HDF5"),
    ("[[1, 2]", "is not valid JSON"),
    (" []", "has no samples"),
    ('{"samples": []}', "has no samples"),
    ("[[[1, 2], [3]]]", "lists of different lengths, expected n x 16 x 2"),
    (json.dumps(make_predictions(6).tolist()), "has 6 samples, valid.h5 has 7"),
    (json.dumps([[[None, 1]] * 16] * 7), "not all of them numbers"),
    (json.dumps([[["1", "2"]] * 16] * 7), "not all of them numbers"),
    ("{}", "has no list 'samples'"),
    (edited(lambda c: c.update(dataset="freihand")), "predictions for freihand, but valid.h5 is mpii"),
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
    (edited(lambda c: c["samples"][2].update(row=7)), "row of sample 2 is 7, which is not a row of valid.h5"),
    (edited(lambda c: c["samples"][2].update(row=1)), "row of sample 2 is 1, which is a duplicate"),
    (edited(lambda c: c["samples"][2].pop("row")), "row of sample 2 is null"),
    (
        edited(lambda c: c["samples"][2].update(file="0.jpg")),
        "the image of sample 2 is '0.jpg', that of its row of valid.h5 is",
    ),
    (edited(lambda c: c["samples"][2]["keypoints"].pop()), "lists of different lengths"),
    (edited(lambda c: [s.pop("row") for s in c["samples"]] + [c["samples"].pop()]), "has 6 samples without 'row'"),
]


@pytest.mark.parametrize(("bad", "complaint"), BAD)
def test_bad_predictions_are_errors(error_of: Callable[..., str], tmp_path: Path, bad: object, complaint: str) -> None:
    path = tmp_path / "bad"
    if isinstance(bad, np.ndarray):
        with path.open("wb") as file:
            np.save(file, bad)
    elif isinstance(bad, dict):
        write_h5(path, **bad)
    else:
        path.write_bytes(bad if isinstance(bad, bytes) else str(bad).encode())
    found = error_of("--predictions", path, "--annotations", write_annotations(tmp_path / "valid.h5"))
    assert complaint in found and str(path) in found and "\n" not in found


# ---- ground truth ----


def test_ground_truth_notes(tmp_path: Path) -> None:
    whole = read_mpii_h5(write_annotations(tmp_path / "a.h5"))
    assert whole.name == "a.h5: integer-truncated"
    parts = whole.points + np.where(whole.labeled, 0.25, 0)[..., None]
    assert read_mpii_h5(write_annotations(tmp_path / "b.h5", part=parts)).name == "b.h5: with fractions"
    unannotated = read_mpii_h5(
        write_annotations(tmp_path / "c.h5", part=np.full((PEOPLE, 16, 2), -1.0), visible=np.zeros((PEOPLE, 16)))
    )
    assert not unannotated.labeled.any() and unannotated.name == "c.h5: no annotations"
    edge = whole.points.copy()
    edge[0, 0], seen = 0, np.ones((PEOPLE, 16))
    assert read_mpii_h5(write_annotations(tmp_path / "d.h5", part=edge, visible=seen)).labeled.all()  # at (0, 0) but visible


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"part": None}, "is not a known annotation file (it contains center, imgname, index"),
        ({"normalize": None}, "no data set 'normalize'"),
        ({"normalize": np.zeros(PEOPLE)}, "normalize of row 0 is not above 0"),
        ({"part": np.full((PEOPLE, 16, 2), np.nan)}, "part of row 0 is not finite"),
        ({"part": np.zeros((PEOPLE, 15, 2))}, "part has shape (7, 15, 2), expected (7, 16, 2)"),
        ({"index": np.full(PEOPLE, 0.5)}, "index must contain whole numbers"),
    ],
)
def test_broken_annotations_are_refused(
    error_of: Callable[..., str], tmp_path: Path, changed: dict[str, Any], complaint: str
) -> None:
    np.save(tmp_path / "p.npy", make_predictions())
    found = error_of("--predictions", tmp_path / "p.npy", "--annotations", write_annotations(tmp_path / "valid.h5", **changed))
    assert complaint in found and "valid.h5" in found


def test_conflicting_flags_are_errors(error_of: Callable[..., str], tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", make_predictions())
    annotations = write_annotations(tmp_path / "valid.h5")
    given = ("--predictions", tmp_path / "p.npy", "--annotations", annotations)
    assert "nothing to score" in error_of()
    assert "nothing to score against" in error_of("--predictions", tmp_path / "p.npy")
    assert "exclude each other" in error_of(*given, "best.pt")
    assert "--flip-test is for checkpoints" in error_of(*given, "--flip-test")
    assert "must end in .png" in error_of(*given, "--chart", "c.pdf")
    assert "--release requires --submission" in error_of(*given, "--release", "r.mat")
    assert "is given twice" in error_of("--predictions", f"[{tmp_path}/p.npy,{tmp_path}/p.npy]", "--annotations", annotations)
    assert "cannot be read (No such file" in error_of("--predictions", tmp_path / "q.npy", "--annotations", annotations)
    assert "there is no annotation file" in error_of(*given[:3], tmp_path / "q.h5")
    (tmp_path / "notes.txt").write_text("?")
    assert "neither HDF5 nor a MATLAB file" in error_of(*given[:3], tmp_path / "notes.txt")
    assert "did you mean --annotations" in error_of(*given[:2], "--annotation", annotations)
    assert error_of(*given, "--json", tmp_path / "p.npy").endswith(
        "p.npy would overwrite the predictions: choose another file with --json"
    )
    assert "would overwrite what --annotations names" in error_of(*given, "--json", tmp_path / "x/../valid.h5")
    assert "would overwrite a checkpoint" in error_of(tmp_path / "a.pt", *given[2:], "--json", tmp_path / "a.pt")
    assert "--json and --chart both name" in error_of(*given, "--chart", tmp_path / "a.png", "--json", tmp_path / "a.png")
    assert "--json and --submission both name" in error_of(*given, "--submission", tmp_path / "a", "--json", tmp_path / "a")
    release = ("--release", tmp_path / "r.mat")
    assert "would overwrite the release" in error_of(*given, *release, "--submission", tmp_path / "r.mat")
    for flag in ("json", "submission"):
        assert error_of(*given, f"--{flag}", tmp_path).endswith(f"which is a folder: name a file in it with --{flag}")
    (tmp_path / "x.png").mkdir()
    assert "which is a folder: name a file in it with --chart" in error_of(*given, "--chart", tmp_path / "x.png")
    unannotated = write_annotations(tmp_path / "test.h5", part=np.full((PEOPLE, 16, 2), -1.0), visible=np.zeros((PEOPLE, 16)))
    assert "no annotations: give only --submission" in error_of(*given[:3], unannotated)


def test_bad_input_ends_with_2(in_process: Command, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("[]")
    annotations = write_annotations(tmp_path / "valid.h5")
    process = in_process(pckh.main, "--predictions", tmp_path / "p.json", "--annotations", annotations)
    assert process.returncode == 2 and process.stderr.startswith("error: ") and process.stderr.count("\n") == 1


# ---- data sets and checkpoints ----


def untrained(path: Path, skeleton: Skeleton, offset: float, **meta: Any) -> Path:
    """A tiny network with random weights."""
    import torch

    torch.manual_seed(1)
    about = replace(Meta(skeleton, Normalization(), 64, "logits", "dark", offset), **meta)
    checkpoints.save(checkpoints.model_state(checkpoints.build_model(PRESETS["tiny"], about)), path)
    return path


def test_checkpoints_score_as_in_evaluate(score: RunPckh, people: Path, tmp_path: Path, in_process: Command) -> None:
    """And evaluate.py's own predictions score as the checkpoint they are of."""
    network = untrained(tmp_path / "a.pt", BODY16, -0.5)
    data = ["--dataset", "mpii", "--data", people]
    outputs = ("--json", tmp_path / "e.json", "--predictions", tmp_path / "p.json")
    process = in_process(hgfast.evaluate.main, network, *data, "--flip-test", "--device", "cpu", "--threads", 1, *outputs)
    assert process.returncode == 0, process.stderr
    (row,) = json.loads((tmp_path / "e.json").read_text())["rows"]
    found = score(network, *data, "--flip-test", "--device", "cpu", "--threads", 1)
    assert found["checkpoint"] == str(network) and found["people"] == 14
    assert {key: found["rows"][0][key] for key in row if key != "method"} == pytest.approx(
        {key: value for key, value in row.items() if key != "method"}
    )
    truth = read_mpii_h5(people / "annot/valid.h5")
    written, sample_indices = read_predictions(tmp_path / "p.json", truth)
    choice = DataConfig(dataset="mpii", data=people)
    settings = InferenceConfig(device="cpu", batch_size=8, threads=1, flip_test=True)
    network_predictions = run_network(network, open_images(choice, "valid", truth), truth, settings)
    keypoints, decoder = network_predictions.points, network_predictions.decoder
    assert decoder == found["decoder"] == found["rows"][0]["decoder"] == "dark"
    assert np.array_equal(sample_indices, network_predictions.sample_indices)
    assert np.abs(keypoints - written).max() < 1e-3  # the file has three decimals
    again = score("--predictions", tmp_path / "p.json", *data)
    assert again["auc"] == pytest.approx(found["auc"], abs=0.3)
    moved = untrained(tmp_path / "b.pt", BODY16, -0.5, shift=3.0)
    both = score(network, moved, *data, "--flip-test", "--loader", "opencv", "--threads", 1)
    assert [row["method"] for row in both["rows"]] == ["a.pt", "b.pt"] and "checkpoint" not in both
    shifted = run_network(moved, open_images(choice, "valid", truth), truth, settings).points
    np.testing.assert_allclose(shifted, keypoints + 3, atol=1e-6)


def test_networks_scored_before_an_interruption_are_recorded(people: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def run_network(path: Path, samples: Samples, truth: GroundTruth, *_: Any) -> NetworkPredictions:
        if path.name == "second.onnx":
            raise KeyboardInterrupt
        return NetworkPredictions(truth.points, np.arange(len(truth)), np.ones(len(truth)), "dark", "checkpoint")

    monkeypatch.setattr(scoring, "run_network", run_network)
    config = PckhConfig(
        checkpoints=[Path("first.pt"), Path("second.onnx")], dataset="mpii", data=people, json=tmp_path / "r.json"
    )
    with pytest.raises(KeyboardInterrupt):
        scoring.run(config)
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["incomplete"] == "other networks" and [row["method"] for row in record["rows"]] == ["first.pt"]
    assert record["rows"][0]["pckh@0.5"] == 100


def test_points_of_a_network_that_are_not_finite_are_misses(
    score: RunPckh, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """And the same in evaluate.py and in its predictions."""
    whole = hgfast.training.evaluator.decode_keypoints

    def part(model: Any, heatmaps: Any) -> Any:
        found = whole(model, heatmaps)
        found[:, 9, 1], found[:, 6] = float("nan"), float("inf")
        return found

    monkeypatch.setattr(hgfast.training.evaluator, "decode_keypoints", part)
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


def test_a_decoder_can_be_chosen(score: RunPckh, error_of: Callable[..., str], people: Path, tmp_path: Path, capsys: Any) -> None:
    words = (untrained(tmp_path / "a.pt", BODY16, -0.5), "--dataset", "mpii", "--data", people, "--threads", 1)
    found = score(*words, "--decoder", "argmax")
    assert found["decoder"] == "argmax" and "a.pt: heatmaps decoded by argmax" in capsys.readouterr().out
    np.save(tmp_path / "p.npy", make_predictions(14))
    assert "--decoder is for checkpoints" in error_of("--predictions", tmp_path / "p.npy", *words[1:5], "--decoder", "dark")
    found = score("--predictions", tmp_path / "p.npy", *words[1:5])
    assert "decoder" not in found and found["rows"][0]["decoder"] is None


def test_anonymous_joints_are_an_error(error_of: Callable[..., str], people: Path, tmp_path: Path) -> None:
    network = untrained(tmp_path / "a.pt", anonymous_skeleton(16), 0.0)
    found = error_of(network, "--dataset", "mpii", "--data", people)
    assert f"convert {network} OUT --joints [right_ankle,right_knee," in found and "the joints of valid.h5" in found
    found = error_of(untrained(tmp_path / "a.pt", anonymous_skeleton(15), 0.0), "--dataset", "mpii", "--data", people)
    assert "predicts points15, the joints of valid.h5 are body16: choose another" in found


def test_images_of_an_annotation_file(score: RunPckh, error_of: Callable[..., str], people: Path, tmp_path: Path) -> None:
    """--annotations FILE.h5 --images DIR is the same people as the data set's own valid.h5."""
    network, annotations = untrained(tmp_path / "a.pt", BODY16, -0.5), people / "annot/valid.h5"
    whole = score(network, "--dataset", "mpii", "--data", people, "--threads", 1)
    assert score(network, "--annotations", annotations, "--images", people / "images", "--threads", 1)["auc"] == whole["auc"]
    assert "give their folder as --images DIR" in error_of(network, "--annotations", annotations)
    hand = untrained(tmp_path / "h.pt", HAND21, 0.0)
    assert "predicts hand21" in error_of(hand, "--annotations", annotations, "--data", people)


@pytest.mark.real_data
def test_a_network_against_either_ground_truth(score: RunPckh, tmp_path: Path, capsys: Any) -> None:
    """detections_our_format.mat names no images: they are those of valid.h5, five of which are there."""
    network, folder = untrained(tmp_path / "a.pt", BODY16, -0.5), shared_path("fixtures/mpii")
    words = (network, "--data", folder, "--skip-missing", "--threads", 1)
    for truth in ("valid.h5", "detections_our_format.mat"):
        found = score(*words, "--annotations", folder / "annot" / truth)
        assert (found["people"], found["people_in_ground_truth"]) == (5, 2958) and found["ground_truth"].startswith(truth)
        assert "a.pt: 5 of 2958 people" in capsys.readouterr().out


def test_hands_have_their_own_table(score: RunPckh, hands: Path, tmp_path: Path, capsys: Any) -> None:
    samples = read_freihand(hands, "test", ["gs"])
    keypoints = samples.keypoints + np.random.default_rng(0).normal(0, 4, samples.keypoints.shape)
    content = [{"row": int(r), "keypoints": p.tolist()} for r, p in zip(samples.row, keypoints)][::-1]
    (tmp_path / "p.json").write_text(json.dumps({"dataset": "freihand", "samples": content}))
    words = ["--predictions", tmp_path / "p.json", "--data", hands, "--versions", "[gs]", "--chart", tmp_path / "c.png"]
    found = score(*words)
    wanted = hand_metrics(keypoints, samples.keypoints, samples.labeled, samples.reference, samples.side)
    assert {key: found[key] for key in wanted} == pytest.approx(wanted)
    assert found["joints_counted"] == 21 * len(samples) and found["ground_truth"].startswith("freihand, split test")
    assert "pck_image@0.2" in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / "c.png")).std() > 10


def test_curve_matches_evaluate_and_the_table() -> None:
    rng = np.random.default_rng(5)
    labeled, reference = rng.random((40, 3)) < (0.9, 0.5, 0.2), rng.choice([20.0, 40.0, 60.0], 40)
    true = rng.integers(0, 99, (40, 3, 2)).astype(float)
    found = true + (rng.choice([0, 1, 2, 3, 6], (40, 3)) * reference[:, None] // 20)[..., None] * (1, 0)  # whole: ties stay ties
    reference[[3, 8]] = np.nan, 0
    skeleton = make_skeleton("thing", ("a", "b", "c"), groups=(("both", (0, 1)),))
    truth = GroundTruth("x", "coco", skeleton, 0.5, true, labeled, reference, np.arange(40))
    scored = ScoredPredictions("m", Path("m"), found, truth)
    curve, errors = scored.curve, np.linalg.norm(found - true, axis=-1)
    counted = labeled & (reference > 0)[:, None]
    for row, threshold in enumerate(curve.thresholds):
        near = errors / np.where(counted, reference[:, None], 1) < threshold
        assert curve.total[row] == pytest.approx(near[counted].mean())
        assert curve.groups["both"][row] == pytest.approx(np.mean([near[counted[:, k], k].mean() for k in (0, 1)]))
    settings = dict(zip(curve.thresholds.round(6).tolist(), curve.total.tolist()))
    assert {f"pck@{t}": settings[t] for t in (0.05, 0.1, 0.2)} == {k: v for k, v in scored.flat.items() if k != "epe_px"}
    assert curve.thresholds[-1] == 0.2 and len({*settings.values()}) > 3
    child = accuracy_curves(truth_as_samples(truth), {"m": found}, BOX_PCK)
    assert np.array_equal(child.thresholds, curve.thresholds) and np.array_equal(child.accuracy["m"], curve.total)


def truth_as_samples(truth: GroundTruth) -> Samples:
    count = len(truth)
    return Samples(
        paths=np.array(["x"] * count), center=np.zeros((count, 2)), side=np.ones(count), keypoints=truth.points,
        labeled=truth.labeled, reference=truth.reference, group=np.arange(count), row=truth.rows, skeleton=truth.skeleton,
        pixel_offset=0.5,
    )  # fmt: skip


@pytest.mark.real_data
def test_coco_keypoints(score: RunPckh, tmp_path: Path) -> None:
    folder = shared_path("fixtures/freihand_coco")
    truth = json.loads((folder / "keypoints.json").read_text())["annotations"]
    keypoints = np.array([a["keypoints"] for a in truth], float).reshape(len(truth), 21, 3)
    np.save(tmp_path / "p.npy", keypoints + np.array([2.0, 0, 0]))
    words: Sequence[object] = ["--dataset", "coco", "--annotations", folder / "keypoints.json", "--images", folder / "images"]
    found = score("--predictions", tmp_path / "p.npy", *words, "--chart", tmp_path / "c.png")
    assert found["epe_px"] == pytest.approx(2) and found["pck@0.2"] == 1 and found["people"] == len(truth)


def test_official_predictions_of_lsp(score: RunPckh, tmp_path: Path) -> None:
    """The published `pred` is 2 x 14 x n, of joints from right ankle to head top."""
    truth = np.random.default_rng(0).uniform(10, 90, (5, 14, 2))
    names = [f"joint{index}" for index in range(14)]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 100} for n in range(5)]
    people = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 90, 90], "iscrowd": 0, "keypoints": points.ravel().tolist()}
        for n, points in enumerate(np.concatenate([truth, np.full((5, 14, 1), 2.0)], 2))
    ]
    category = {"id": 1, "name": "person", "keypoints": names, "skeleton": []}
    (tmp_path / "lsp.json").write_text(json.dumps({"images": images, "annotations": people, "categories": [category]}))
    (tmp_path / "images").mkdir()
    for n in range(5):
        cv2.imwrite(str(tmp_path / f"images/{n}.jpg"), np.zeros((100, 100, 3), np.uint8))
    savemat(str(tmp_path / "pred.mat"), {"pred": (truth + np.array([3.0, 4.0])).transpose(2, 1, 0)})
    words = ["--dataset", "coco", "--annotations", tmp_path / "lsp.json", "--images", tmp_path / "images"]
    found = score("--predictions", tmp_path / "pred.mat", *words)
    assert found["epe_px"] == pytest.approx(5) and found["people"] == 5


def test_scoring_needs_no_images(score: RunPckh, people: Path, tmp_path: Path) -> None:
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/valid.h5").write_bytes((people / "annot/valid.h5").read_bytes())
    samples = read_mpii(people, "valid")
    np.save(tmp_path / "p.npy", samples.keypoints + 0.5)
    found = score("--predictions", tmp_path / "p.npy", "--dataset", "mpii", "--data", tmp_path)
    assert found["pckh@0.1"]["total"] == 100 and found["people"] == len(samples)


# ---- exported networks ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, cached_exporter: None) -> Path:
    """A network of bodies as a checkpoint, as ONNX in fp32 and fp16, as TorchScript of several kinds, as an engine."""
    folder = tmp_path_factory.mktemp("exported")
    network = untrained(folder / "net.pt", BODY16, -0.5, shift=0.25)
    flags: dict[str, Any] = {"checkpoint": network, "batch": "1:4:8", "threads": 1, "no_verify": True}
    config = TensorRTConfig(**flags)

    def make(function: Any, name: str, *more: Any, **changed: Any) -> None:
        chosen = replace(config, **changed)
        function(chosen, load_network(chosen), folder / name, *more)

    make(make_onnx, "net.onnx")
    make(make_onnx, "half.onnx", precision="fp16")
    make(make_torchscript, "net.torchscript")
    make(make_torchscript, "float.torchscript", input="float")
    make(make_torchscript, "flip.torchscript", flip_test=True)
    make(make_torchscript, "maps.torchscript", outputs="heatmaps")
    try:
        backend = trt_builder.find_backend("tensorrt_rtx", gpu=False)
    except HgfastError:  # it is not installed
        return folder
    make(make_engine, "net.engine", backend)
    return folder


def no_gpu(device: int, what: str) -> None:
    raise GpuNotFound(f"running {what} needs an NVIDIA GPU")


@pytest.mark.slow
def test_exported_networks_score_as_the_checkpoint(
    score: RunPckh, exported: Path, people: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table; an engine is listed as not run without a GPU."""
    monkeypatch.setattr("hgfast.runtime.tensorrt_engine.CudaDevice", no_gpu)
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


@pytest.mark.slow
def test_onnx_in_every_runtime(score: RunPckh, error_of: Callable[..., str], exported: Path, people: Path, capsys: Any) -> None:
    """bf16 applies to fp32 files only; a checkpoint has one runtime."""
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
    assert "--runtimes is for ONNX files" in error_of(files[0], "--runtimes", "[openvino]", *data)
    assert "name every runtime once" in error_of(files[1], "--runtimes", "[openvino,openvino]", *data)


@pytest.mark.slow
def test_distances_are_in_pixels_of_the_input(score: RunPckh, exported: Path, people: Path, tmp_path: Path) -> None:
    """A network whose points are moved by three pixels of the photograph."""
    shutil.copy(exported / "net.torchscript", tmp_path / "moved.torchscript")
    known = read_sidecar(exported / "net.torchscript")
    write_sidecar(
        replace(known, artifact="moved.torchscript", result_offset=known.result_offset + 3), tmp_path / "moved.torchscript"
    )
    words = ("--dataset", "mpii", "--data", people, "--threads", 1)
    _, row = score(exported / "net.onnx", tmp_path / "moved.torchscript", *words)["rows"]
    side = read_mpii(people, "valid").side
    assert row["max_px"] == pytest.approx(3 * 2**0.5 * 64 / side.min(), rel=1e-3)
    assert row["mean_px"] == pytest.approx((3 * 2**0.5 * 64 / side).mean(), rel=1e-3)


@pytest.mark.slow
def test_flip_test_must_match_the_export(score: RunPckh, error_of: Callable[..., str], exported: Path, people: Path) -> None:
    data = ("--dataset", "mpii", "--data", people, "--threads", 1)
    flip = exported / "flip.torchscript"
    found = error_of(flip, *data)
    assert f"{flip} was exported with a flip test and decodes by dark: give --flip-test and --decoder accordingly" in found
    assert "was exported without a flip test" in error_of(exported / "net.onnx", *data, "--flip-test")
    assert "decodes by dark" in error_of(exported / "net.onnx", *data, "--decoder", "argmax")
    rows = score(exported / "net.pt", flip, *data, "--flip-test", "--decoder", "dark")["rows"]
    assert rows[1]["max_px"] < 0.01


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])
    write_sidecar(replace(read_anyway(path), sha256=sha256_of(path)), path)


def no_sidecar(path: Path) -> None:
    sidecar_path(path).unlink()


def of_another(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"?")


def with_a_typo(path: Path) -> None:
    content = json.loads(sidecar_path(path).read_text())
    content["decodr"] = content.pop("decoder")
    sidecar_path(path).write_text(json.dumps(content))


def of_hands(path: Path) -> None:
    known = read_sidecar(path)
    ports = tuple(replace(port, shape=(port.shape[0], len(HAND21.joints), *port.shape[2:])) for port in known.outputs)
    write_sidecar(replace(known, skeleton=HAND21, outputs=ports), path)


def of_another_version(path: Path) -> None:
    """As another TensorRT-RTX would have written it."""
    plan = path.read_bytes()
    path.write_bytes(plan[:24] + bytes((1, 2, 3, 4)) + plan[28:])
    known = read_anyway(path)
    write_sidecar(replace(known, sha256=sha256_of(path), builder={**(known.builder or {}), "version": "1.2.3.4"}), path)


def claiming_another_version(path: Path) -> None:
    known = read_sidecar(path)
    write_sidecar(replace(known, builder={**(known.builder or {}), "version": "1.2.3.4"}), path)


def read_anyway(path: Path) -> Any:
    """The sidecar of what has been changed."""
    content = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**content, "sha256": sha256_of(path)}))
    return read_sidecar(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("net.onnx", cut_short, "net.onnx cannot be read by onnxruntime"),
        ("net.torchscript", cut_short, "net.torchscript cannot be read by torch.jit.load"),
        ("net.engine", cut_short, "bytes where its header says"),
        ("net.onnx", no_sidecar, "net.onnx has no sidecar net.onnx.json in its folder"),
        ("net.engine", no_sidecar, "net.engine has no sidecar net.engine.json in its folder"),
        ("net.onnx", of_another, "net.onnx.json does not belong to"),
        ("net.onnx", with_a_typo, "net.onnx.json is invalid"),
        ("net.onnx", of_hands, "net.onnx predicts hand21, the joints of .* are body16: choose another"),
        ("net.engine", of_another_version, "was built by TensorRT-RTX 1.2.3.4, but .* is installed here, which does not run it"),
        ("net.engine", claiming_another_version, "according to its header, but its sidecar says 1.2.3.4: build it again"),
        ("maps.torchscript", None, "maps.torchscript does not return keypoints: export it with --outputs keypoints,heatmaps"),
        ("net.engine", None, r"net\.engine cannot run here \(built, not run: there is no GPU here\): give a checkpoint"),
    ],
)
def test_bad_artifacts_are_errors(
    exported: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, file: str,
    change: Callable[[Path], None] | None, complaint: str,
) -> None:  # fmt: skip
    """One sentence, exit code 2, no record."""
    monkeypatch.setattr("hgfast.runtime.tensorrt_engine.CudaDevice", no_gpu)
    if not (exported / file).is_file():
        pytest.skip("TensorRT-RTX is not installed here")
    for path in (exported / file, sidecar_path(exported / file)):
        shutil.copy(path, tmp_path)
    if change is not None:
        change(tmp_path / file)
    words = [tmp_path / file, "--dataset", "mpii", "--data", people, "--threads", 1, "--json", tmp_path / "record.json"]
    monkeypatch.setattr(sys, "argv", ["bench/pckh.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        leave(pckh.main)
    output = capsys.readouterr().err
    assert ended.value.code == 2 and output.startswith("error: ") and output.count("\n") == 1
    assert re.search(complaint, output), output
    assert not (tmp_path / "record.json").exists()
