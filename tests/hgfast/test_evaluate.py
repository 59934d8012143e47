"""evaluate.py and the prediction of a split: files and metrics against the annotations, any number of ranks, bad input."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import hgfast.training.evaluator
import hgfast.visualization.gallery
from hgfast import checkpoints
from hgfast.architectures import PRESETS
from hgfast.config import InferenceConfig
from hgfast.errors import HgfastError
from hgfast.evaluate import format_table, main
from hgfast.model import Meta
from hgfast.normalization import Normalization
from hgfast.pipelines.datasets import figures, open_loader
from hgfast.pipelines.readers.freihand import read_freihand
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.skeletons import BODY16, HAND21, Skeleton, anonymous_skeleton, make_skeleton
from hgfast.training import checkpoint_evaluation, distributed
from hgfast.training.batch import Batch
from hgfast.training.checkpoint_evaluation import Evaluation, write_chart
from hgfast.training.evaluator import Loader, PredictionCollector, count_non_finite, has_prediction, predict
from tests.conftest import Command
from tests.hgfast.ranks_evaluate import BitExactModel, load_splits, predict_both

FloatArray = NDArray[np.float64]
TILE = 224
ALL_OUTPUTS = {"metrics.json", "predictions.json", "sheet.jpg", "worst.jpg", "joints.png", "curve.png"}


def make_checkpoint(folder: Path, skeleton: Skeleton, pixel_offset: float = 0.0) -> Path:
    """Write a checkpoint of a small network with random weights."""
    torch.manual_seed(0)
    meta = Meta(skeleton, Normalization(), 64, "logits", "dark", pixel_offset)
    checkpoints.save(checkpoints.model_state(checkpoints.build_model(PRESETS["tiny"], meta)), folder / "net.pt")
    return folder / "net.pt"


def run_evaluate(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words), "--loader", "opencv", "--threads", "1"])
    main()


def patch_non_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the points of the joints 3 and 10 and the scores of joint 12 not finite."""
    original = hgfast.training.evaluator.decode_keypoints

    def decode_non_finite(model: Any, maps: torch.Tensor) -> torch.Tensor:
        keypoints = original(model, maps)
        keypoints[:, 3, 1], keypoints[:, 10, 0], keypoints[:, 12, 2] = torch.nan, torch.inf, torch.nan
        return keypoints

    monkeypatch.setattr(hgfast.training.evaluator, "decode_keypoints", decode_non_finite)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def split_tiles(path: Path) -> list[NDArray[np.uint8]]:
    """Split an image grid into its tiles, row by row."""
    image = cv2.imread(str(path))
    height, width = image.shape[0] // TILE, image.shape[1] // TILE
    assert image.shape == (height * TILE, width * TILE, 3) and width == 8
    return [image[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] for y in range(height) for x in range(width)]


def best_matching_crop(tile: NDArray[np.uint8], crops: list[NDArray[np.uint8]]) -> int:
    """Return the index of the crop that a tile shows below its caption, regardless of the overlay."""
    return int(np.argmin([np.median(np.abs(tile[20:].astype(int) - crop[20:])) for crop in crops]))


def crop_square(image_path: Path, left: float, top: float, side: float) -> NDArray[np.uint8]:
    """Cut a square of an image as a tile; left and top are corner coordinates."""
    zoom = TILE / side
    matrix = np.array([[zoom, 0, zoom * (0.5 - left) - 0.5], [0, zoom, zoom * (0.5 - top) - 0.5]])
    return np.asarray(cv2.warpAffine(cv2.imread(str(image_path)), matrix, (TILE, TILE)), np.uint8)


def check_image_readable(path: Path, least: int = 300) -> None:
    """Check that an image has a plausible size and is not empty."""
    image = cv2.imread(str(path))
    assert image is not None and least <= min(image.shape[:2]) and max(image.shape[:2]) < 3000
    assert (image == 255).mean() > 0.3 and len(np.unique(image.reshape(-1, 3), axis=0)) > 20


# ---- the command ----


@pytest.fixture(scope="module")
def evaluated(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """People, one with a missing and one with a broken image, and the folder with evaluate.py's output."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(people, root / "MPII")
    with h5py.File(root / "MPII/annot/valid.h5") as file:
        names = [name.decode() for name in file["imgname"][()]]
    (root / "MPII/images" / names[2]).unlink()
    (root / "MPII/images" / names[-4]).write_text("not an image")
    with pytest.MonkeyPatch.context() as patch:
        run_evaluate(patch, make_checkpoint(root, BODY16, -0.5), "--dataset", "mpii", "--data", root / "MPII", "--skip-missing",
            "--baselines", "--flip-test", "--batch-size", 4, "--out", root / "report",
            "--worst", root / "elsewhere/worst.png")  # fmt: skip
    yield root / "MPII", root


def predicted_people(data: Path, report: Path) -> tuple[dict[str, FloatArray], FloatArray, NDArray[np.bool_]]:
    """Return the predicted rows of valid.h5, the distances (N, 16) to their joints in the file's coordinates, and a mask of the
    labeled joints."""
    samples = read_json(report / "predictions.json")["samples"]
    rows = [sample["row"] for sample in samples]
    with h5py.File(data / "annot/valid.h5") as file:
        table = {name: file[name][()][rows] for name in ("part", "visible", "normalize", "center", "scale", "imgname")}
    assert [sample["file"] for sample in samples] == [name.decode() for name in table["imgname"]]
    off = np.linalg.norm(np.array([sample["keypoints"] for sample in samples]) - table["part"], axis=-1)
    return table, off, (table["part"] != 0).any(-1) | (table["visible"] != 0)


def test_everything_is_written_where_it_should_be(evaluated: tuple[Path, Path]) -> None:
    _, root = evaluated
    assert {file.name for file in (root / "report").iterdir()} == ALL_OUTPUTS - {"worst.jpg"}
    assert [file.name for file in (root / "elsewhere").iterdir()] == ["worst.png"]
    check_image_readable(root / "report/joints.png")
    check_image_readable(root / "report/curve.png")
    result = read_json(root / "report/metrics.json")
    assert set(result) == {
        "checkpoint", "dataset", "data", "annotations", "valid_annotations", "split", "versions", "normalise", "padding",
        "loader", "decoder", "flip_test", "samples", "skipped", "unreadable", "not_finite", "rows", "joints",
    }  # fmt: skip
    assert (result["data"], result["annotations"], result["normalise"]) == (str(root / "MPII"), None, None)
    assert (result["loader"], result["decoder"], result["not_finite"]) == ("opencv", "dark", 0)
    assert [row["method"] for row in result["rows"]] == ["network", "mean pose", "nearest 16 x 16 thumbnail"]
    assert (result["split"], result["flip_test"]) == ("valid", True)


def test_predictions_are_in_the_files_own_rows_and_numbers(evaluated: tuple[Path, Path]) -> None:
    data, root = evaluated
    text = (root / "report/predictions.json").read_text()
    content, result = json.loads(text), read_json(root / "report/metrics.json")
    assert list(content) == ["dataset", "split", "checkpoint", "flip_test", "joints", "pixel_offset", "samples"]
    assert (content["pixel_offset"], content["joints"]) == (-0.5, list(BODY16.joints))
    rows = [sample["row"] for sample in content["samples"]]
    with h5py.File(data / "annot/valid.h5") as file:
        names = [name.decode() for name in file["imgname"][()]]
    missing = {row for row, name in enumerate(names) if name in (names[2], names[-4])}
    assert rows == [row for row in range(len(names)) if row not in missing] and len(missing) >= 2
    assert result["samples"] + result["skipped"] + result["unreadable"] == len(names)
    assert (result["samples"], result["skipped"]) == (len(rows), names.count(names[2]))
    assert sum(line.startswith('  {"row": ') for line in text.splitlines()) == len(rows)  # a sample a line


def test_per_joint_metrics_by_hand(evaluated: tuple[Path, Path]) -> None:
    data, root = evaluated
    table, off, labeled = predicted_people(data, root / "report")
    joints = read_json(root / "report/metrics.json")["joints"]
    assert [row["joint"] for row in joints] == list(BODY16.joints)
    for k, row in enumerate(joints):
        known = labeled[:, k]
        assert set(row) == {"joint", "pckh@0.5", "epe_px"} and known.any()
        assert row["epe_px"] == pytest.approx(off[known, k].mean(), abs=2e-3)  # predictions are rounded
        assert row["pckh@0.5"] == pytest.approx(100 * (off[known, k] <= 0.5 * table["normalize"][known]).mean())


def test_the_gallery_has_the_worst_first(evaluated: tuple[Path, Path]) -> None:
    data, root = evaluated
    table, off, labeled = predicted_people(data, root / "report")
    shares = (off * labeled).sum(1) / labeled.sum(1) / table["normalize"]
    crops = [
        crop_square(data / "images" / name.decode(), *(center - 0.5 - 100 * scale), 200 * scale)
        for name, center, scale in zip(table["imgname"], table["center"], table["scale"])
    ]
    shown = split_tiles(root / "elsewhere/worst.png")
    order = [[best_matching_crop(tile, crops) for tile in shown[half : 2 * len(crops) : 2]] for half in (0, 1)]
    assert order[0] == order[1] == np.argsort(-shares).tolist()
    assert not any(tile.any() for tile in shown[2 * len(crops) :])
    best_first = [best_matching_crop(tile, crops) for tile in split_tiles(root / "report/sheet.jpg")[: 2 * len(crops) : 2]]
    assert best_first == np.argsort((off * labeled).sum(1) / labeled.sum(1)).tolist()


def test_hands(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint(tmp_path, HAND21)
    common = (checkpoint, "--data", hands, "--versions", "[hom]", "--flip-test")
    run_evaluate(monkeypatch, *common, "--json", tmp_path / "r.json", "--predictions", tmp_path / "p.json")
    assert "epe_px" in capsys.readouterr().out
    content, result = read_json(tmp_path / "p.json"), read_json(tmp_path / "r.json")
    k_matrices, xyz = (np.array(read_json(hands / f"training_{name}.json")) for name in ("K", "xyz"))
    for sample in content["samples"]:
        assert sample["file"] == f"{sample['row']:08d}.jpg"
    unique = [sample["row"] - len(xyz) for sample in content["samples"]]  # "hom" is the second version
    homogeneous = np.einsum("nij,nkj->nki", k_matrices[unique], xyz[unique])
    points = homogeneous[..., :2] / homogeneous[..., 2:]
    off = np.linalg.norm(np.array([sample["keypoints"] for sample in content["samples"]]) - points, axis=-1)
    box = np.ptp(points, axis=1).max(-1)
    for row, distances in zip(result["joints"], off.T):
        assert row["epe_px"] == pytest.approx(distances.mean(), abs=2e-3)
        assert row["pck@0.2"] == pytest.approx((distances < 0.2 * box).mean())
    assert result["rows"][0]["epe_px"] == pytest.approx(off.mean(), abs=2e-3)


def test_without_annotations_there_are_only_predictions(
    hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "FreiHAND"
    (data / "evaluation").mkdir(parents=True)
    (data / "evaluation/rgb").symlink_to(hands / "evaluation/rgb")
    shutil.copy(hands / "evaluation_K.json", data)
    common = (make_checkpoint(tmp_path, HAND21), "--data", data, "--split", "evaluation")
    run_evaluate(monkeypatch, *common, "--out", tmp_path / "report")
    assert "worst samples, by mean error over reference length: skipped, the split has no annotations" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"metrics.json", "predictions.json"}
    result = read_json(tmp_path / "report/metrics.json")
    assert (result["rows"], result["joints"]) == ([], [])
    samples = read_json(tmp_path / "report/predictions.json")["samples"]
    assert [sample["row"] for sample in samples] == list(range(len(list((data / "evaluation/rgb").iterdir()))))
    with pytest.raises(HgfastError, match="has no annotations: use --predictions"):
        run_evaluate(monkeypatch, *common, "--out", tmp_path / "report", "--worst", tmp_path / "w.jpg")


def test_coco_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in sub-folders, unordered ids, a joint without labels, samples without a reference length."""
    rng, names = np.random.default_rng(3), ("$a", "b$", "c", "nowhere")
    images, people, crops = [], [], []
    for number in range(6):
        folder = f"part{number % 2}"
        (tmp_path / folder).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / folder / f"{number}.png"), rng.integers(0, 255, (7, 9, 3)).repeat(20, 0).repeat(20, 1))
        images.append({"id": number, "file_name": f"{folder}/{number}.png"})
        points = [[*rng.uniform(20, 120, 2).round(1).tolist(), 2] for _ in range(3)]
        points[0][2] = 0 if number in (1, 4) else 2  # of these the length is not known
        people.append({"id": 900 - 7 * number, "image_id": number, "category_id": 1, "bbox": [10, 20, 100, 80],
                       "keypoints": [value for point in points for value in point] + [0, 0, 0]})  # fmt: skip
        crops.append(crop_square(tmp_path / folder / f"{number}.png", -2.5, -2.5, 125))
    category = {"id": 1, "name": "thing", "keypoints": names, "skeleton": [[1, 2], [2, 3]]}
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": people, "categories": [category]}))
    checkpoint = make_checkpoint(tmp_path, make_skeleton("thing", names, ((0, 1), (1, 2))), 0.5)
    run_evaluate(monkeypatch, checkpoint, "--dataset", "coco", "--annotations", tmp_path / "a.json", "--images", tmp_path,
        "--normalize", "$a,b$", "--json", tmp_path / "r.json", "--predictions", tmp_path / "p.json",
        "--worst", tmp_path / "w.png", "--bars", tmp_path / "b.svg", "--curve", tmp_path / "c.pdf")  # fmt: skip
    samples = read_json(tmp_path / "p.json")["samples"]
    assert [sample["row"] for sample in samples] == [person["id"] for person in people]
    assert [sample["file"] for sample in samples] == [image["file_name"] for image in images]
    true = np.array([person["keypoints"] for person in people]).reshape(-1, 4, 3)
    off = np.linalg.norm(np.array([sample["keypoints"] for sample in samples]) - true[..., :2], axis=-1)
    labeled = true[..., 2] > 0
    length = np.where(labeled[:, 0], np.linalg.norm(true[:, 0, :2] - true[:, 1, :2], axis=-1), np.nan)
    shares = (off * labeled).sum(1) / labeled.sum(1) / length
    shown = [best_matching_crop(tile, crops) for tile in split_tiles(tmp_path / "w.png")[:12:2]]
    assert shown == np.argsort(-np.nan_to_num(shares, nan=-1), kind="stable").tolist() and shown[-2:] == [1, 4]
    joints = read_json(tmp_path / "r.json")["joints"]
    assert joints[3] == {"joint": "nowhere", "pck@0.2": None, "epe_px": None}
    assert joints[0]["epe_px"] == pytest.approx(off[labeled[:, 0], 0].mean(), abs=2e-3)
    result = read_json(tmp_path / "r.json")
    assert (result["data"], result["annotations"], result["valid_annotations"]) == (None, str(tmp_path / "a.json"), None)
    assert (result["normalise"], result["padding"]) == ("$a,b$", 1.25)
    assert "nowhere" in (tmp_path / "b.svg").read_text() and (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--worst", "{tmp}/w.gif"], "--worst .*w.gif must end in .jpg or .png"),
        (["--bars", "{tmp}/b.jpg"], "--bars .*b.jpg must end in .png, .svg or .pdf"),
        (["--curve", "{tmp}"], "--curve .* must end in .png, .svg or .pdf"),
        (["--json", "{tmp}"], "cannot write .*, which is a folder: name a file in it with --json"),
        (["--predictions", "{tmp}/file/p.json"], "cannot make the folder .*: choose another with --predictions"),
        (["--out", "{tmp}/file"], "cannot make the folder .*: choose another with --out"),
        (
            ["--sheet", "{tmp}/a.jpg", "--worst", "{tmp}/b/../a.jpg"],
            "--worst and --sheet both name|--sheet and --worst both name",
        ),
        (["--batch-size", "0"], "must be at least 1"),
        (["--json", "net.pt"], "--json net.pt would overwrite the checkpoint: choose another file with --json"),
        (
            ["--annotations", "{tmp}/file", "--predictions", "{tmp}/b/../file"],
            "--predictions .*file would overwrite what --annotations names",
        ),
        (["--predictions", "{tmp}/training_xyz.json"], "would overwrite a file of the data set"),
    ],
)
def test_bad_paths_are_refused_before_the_work(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(checkpoint_evaluation, "load_model", None)  # whoever calls it fails otherwise
    with pytest.raises(HgfastError, match=sentence):
        run_evaluate(monkeypatch, "net.pt", "--data", tmp_path, *(word.format(tmp=tmp_path) for word in words))


@pytest.mark.parametrize("flag", ["--bars", "--curve", "--out"])
def test_charts_without_matplotlib_are_refused_before_the_work(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "hgfast.visualization.charts", raising=False)
    monkeypatch.setattr(checkpoint_evaluation, "load_model", None)
    with pytest.raises(HgfastError, match="pip install matplotlib, or leave out --bars, --curve and --out"):
        run_evaluate(monkeypatch, "net.pt", "--data", tmp_path, flag, tmp_path / "x.png")


def test_the_curves_have_the_tables_numbers(people: Path, hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hgfast.visualization.charts

    calls: list[Any] = []
    monkeypatch.setattr(hgfast.visualization.charts, "draw_curves", lambda path, *rest: calls.append(rest))
    for name, samples, key, wanted in (
        ("mpii", read_mpii(people, "valid"), "pckh@0.5", {"pckh@0.5": 0.5, "pckh@0.1": 0.1}),
        ("freihand", read_freihand(hands, "test", ["gs"]), "pck@0.2", {f"pck@{t}": t for t in (0.05, 0.1, 0.2)}),
    ):
        rng = np.random.default_rng(1)
        length = samples.reference[:, None, None]
        guess = samples.keypoints + rng.normal(0, 1, samples.keypoints.shape) * length * rng.uniform(0, 0.5, length.shape)
        rows = [figures(name, samples, guess)]
        result = {"checkpoint": "a/b.pt", "dataset": name, "split": "valid", "rows": rows}
        write_chart("curve", tmp_path / "c.png", Evaluation(result, samples, {"network": guess}))
        thresholds, shares, _, whole, title = calls.pop()
        assert title == f"a/b.pt: {len(samples)} samples of {name}, split valid"
        off = np.linalg.norm(guess - samples.keypoints, axis=-1) / samples.reference[:, None]
        counted = samples.labeled.copy()
        if name == "mpii":
            counted[:, [6, 7]] = False
        for threshold, share in zip(thresholds, shares["network"]):
            assert share == pytest.approx(whole * (off[counted] <= threshold).mean()), threshold
        curve = {round(float(threshold), 6): float(share) for threshold, share in zip(thresholds, shares["network"])}
        assert {figure: curve[threshold] for figure, threshold in wanted.items()} == pytest.approx(
            {figure: rows[0][figure] for figure in wanted}
        )
        assert 0.2 * whole < rows[0][key] < 0.95 * whole and thresholds[-1] == max(wanted.values())


def test_captions_of_the_worst(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A joint that is not finite comes first; samples without a reference length come last, without a relative error."""
    samples = read_freihand(hands, "train", ["gs"]).take(np.arange(5))
    samples.reference[:] = (40, 0, 80, np.nan, 20)
    samples.labeled[:] = False
    samples.labeled[:, :2] = True
    guess = samples.keypoints + np.array([[4.0, 400, 12, 300, 0]]).T[..., None] * (1, 0)
    guess[2, 1] = np.inf
    captions: list[str] = []
    monkeypatch.setattr(hgfast.visualization.gallery, "add_caption", lambda image, text: captions.append(text) or image)
    assert hgfast.visualization.gallery.worst_samples_grid(samples, guess).shape == (2 * TILE, 8 * TILE, 3)
    assert captions[1::2] == [
        "predicted, not all finite", "predicted, off by 0.10 (4.0 px)", "predicted, off by 0.00 (0.0 px)",
        "predicted, 400.0 px off", "predicted, 300.0 px off",
    ]  # fmt: skip
    assert captions[::2] == [f"row {samples.row[n]}: truth" for n in (2, 0, 4, 1, 3)]
    captions.clear()
    hgfast.visualization.gallery.evenly_spaced_grid(samples, guess)
    assert [text.removeprefix("predicted, ") for text in captions[1::2]] == [
        "0.0 px off", "4.0 px off", "300.0 px off", "400.0 px off", "not all finite",
    ]  # fmt: skip


def test_points_that_are_not_finite_count_as_misses(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (make_checkpoint(tmp_path, BODY16, -0.5), "--dataset", "mpii", "--data", people)
    run_evaluate(monkeypatch, *common, "--out", tmp_path / "whole")
    assert "not finite" not in capsys.readouterr().out
    patch_non_finite(monkeypatch)
    run_evaluate(monkeypatch, *common, "--out", tmp_path / "lost")
    printed = capsys.readouterr().out
    (whole, lost), points = (
        [read_json(tmp_path / folder / file) for folder in ("whole", "lost")] for file in ("metrics.json", "predictions.json")
    )
    count = whole["samples"]
    assert lost["samples"] == count and lost["unreadable"] == 0 and lost["not_finite"] == 3 * count
    assert f"{3 * count} joints have a point that is not finite" in printed and "more could not be read" not in printed
    for k, (before, after) in enumerate(zip(whole["joints"], lost["joints"])):
        is_lost = k in (3, 10, 12)
        assert after == ({**before, "pckh@0.5": 0.0, "epe_px": None} if is_lost else before)
    for before, after in zip(*(content["samples"] for content in points)):
        wanted = [[None, None] if k in (3, 10, 12) else point for k, point in enumerate(before["keypoints"])]
        assert after == {**before, "keypoints": wanted}
    assert {file.name for file in (tmp_path / "lost").iterdir()} == ALL_OUTPUTS


def test_a_decoder_can_be_chosen(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    checkpoint, found = make_checkpoint(tmp_path, HAND21), {}
    for decoder in ("dark", "argmax", "quarter"):
        words = ("--decoder", decoder) if decoder != "dark" else ()
        run_evaluate(monkeypatch, checkpoint, "--data", hands, "--versions", "[gs]", *words, "--json", tmp_path / "r.json")
        assert f"heatmaps decoded by {decoder}\n" in capsys.readouterr().out
        result = read_json(tmp_path / "r.json")
        assert result["decoder"] == decoder
        found[decoder] = result["rows"][0]["epe_px"]
    assert len(set(found.values())) == 3
    with pytest.raises(HgfastError, match="bad value for decoder"):
        run_evaluate(monkeypatch, checkpoint, "--data", hands, "--decoder", "best")


def test_mismatched_joints_are_refused(hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HgfastError, match=r"predicts body16, the data are hand21: choose another --dataset$"):
        run_evaluate(monkeypatch, make_checkpoint(tmp_path, BODY16), "--data", hands)
    for joints, sentence in (
        (3, r"3 joints that have no names: if they are in the order of the data, .* net.pt OUT --joints \[a,b,c\]' and use OUT"),
        (4, "predicts points4, the data are thing: choose another --dataset"),
    ):
        cv2.imwrite(str(tmp_path / "0.png"), np.zeros((50, 50, 3), np.uint8))
        person = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "keypoints": [9, 9, 2] * 3}
        content = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": [person],
                   "categories": [{"id": 1, "name": "thing", "keypoints": ["a", "b", "c"], "skeleton": []}]}  # fmt: skip
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(HgfastError, match=sentence.replace(" net.pt", rf" {tmp_path}/net.pt")):
            checkpoint = make_checkpoint(tmp_path, anonymous_skeleton(joints))
            run_evaluate(monkeypatch, checkpoint, "--dataset", "coco", "--annotations", tmp_path / "a.json", "--images", tmp_path)


def test_joint_colors() -> None:
    from hgfast.visualization.charts import GRAY, joint_colors

    hand, body = joint_colors(HAND21), joint_colors(BODY16)
    assert hand[0] == GRAY  # the wrist is part of every finger
    assert hand[1:] == list(HAND21.colors)
    assert [body[joint] == body[other] for joint, other in ((0, 1), (10, 12), (5, 15), (8, 9), (0, 5), (0, 8))] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    assert joint_colors(make_skeleton("loose", ("a", "b"))) == [GRAY, GRAY]


# ---- a network over a split ----


def test_a_sample_that_comes_again_counts_once() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 4, 2))
    plain, padded = PredictionCollector(50, 4), PredictionCollector(50, 4)
    for start in range(0, 49, 8):  # the last of the fifty has no prediction
        index = np.arange(start, min(start + 8, 49))
        plain.add(index, points[index])
    given: list[int] = []
    for start in rng.permutation(range(0, 49, 5)):
        fresh = np.arange(start, min(start + 5, 49))
        given.extend(fresh)
        again = rng.choice(given, 4)
        padded.add(np.concatenate([fresh, again]), np.concatenate([points[fresh], points[again] + 1000]))
    padded.add(np.arange(0), np.zeros((0, 4, 2)))
    assert np.array_equal(plain.all_gather(), padded.all_gather(), equal_nan=True)
    assert np.array_equal(plain.all_gather()[:49], points[:49]) and np.isnan(plain.all_gather()[49]).all()


def test_non_finite_counts_as_predicted() -> None:
    points = np.arange(16.0).reshape(4, 2, 2)
    points[1, 0, 1], points[2] = np.nan, -np.inf
    found = PredictionCollector(5, 2)
    found.add(np.array([0, 1, 2, 4]), points)
    found.add(np.array([1]), np.zeros((1, 2, 2)))
    whole = found.all_gather()
    assert has_prediction(whole).tolist() == [True, True, True, False, True] and np.isnan(whole[3]).all()
    assert np.isposinf(whole[[1, 2, 2], [0, 0, 1]]).all() and whole[1, 1].tolist() == [6, 7]
    assert count_non_finite(whole[has_prediction(whole)]) == 3


class Padded:
    """A loader whose batches are padded to 8 samples with repetitions."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.num_samples = loader, loader.num_samples

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        with closing(self.loader.epoch(epoch, start)) as batches:
            for batch in batches:
                fill = np.resize(np.arange(len(batch.index)), 8)
                yield Batch(batch.images[fill], batch.keypoints[fill], batch.labeled[fill], batch.index[fill],
                            batch.is_replacement[fill], batch.input_from_source[fill], 8)  # fmt: skip


def test_padded_batches_have_the_same_figures(hands: Path) -> None:
    samples, ranks = read_freihand(hands, "test", ["gs"]), distributed.Ranks.single(torch.device("cpu"))
    loader = open_loader(samples, 64, Normalization(), ranks, InferenceConfig(batch_size=5, threads=1, loader="opencv"))
    model: Any = BitExactModel(HAND21)
    plain, padded = (predict(model, each, ranks, "off") for each in (loader, Padded(loader)))  # type: ignore[arg-type]
    assert figures("freihand", samples, plain) == figures("freihand", samples, padded)


class UnreadableSecond(Padded):
    """A loader that reports the second image of every batch as unreadable."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        with closing(self.loader.epoch(epoch, start)) as batches:
            for batch in batches:
                batch.is_replacement[1] = True
                yield batch


def test_only_unreadable_images_are_skipped(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, ranks = read_freihand(hands, "test", ["gs"]), distributed.Ranks.single(torch.device("cpu"))
    loader = open_loader(samples, 64, Normalization(), ranks, InferenceConfig(batch_size=5, threads=1, loader="opencv"))
    model: Any = BitExactModel(HAND21)
    whole = predict(model, loader, ranks, "off")
    patch_non_finite(monkeypatch)
    found = predict(model, UnreadableSecond(loader), ranks, "off")  # type: ignore[arg-type]
    there = np.arange(len(samples)) % 5 != 1
    assert has_prediction(found).tolist() == there.tolist()
    lost = np.zeros((len(samples), 21), bool)
    lost[:, [3, 10, 12]] = True
    assert np.isposinf(found[there[:, None] & lost]).all() and np.array_equal(
        found[there[:, None] & ~lost], whole[there[:, None] & ~lost]
    )
    table = figures("freihand", samples, found)
    assert table["not_finite"] == 3 * there.sum()
    assert table["pck@0.2"] == figures("freihand", samples, np.where(np.isinf(found), 1e9, found))["pck@0.2"]
    assert "not_finite" not in figures("freihand", samples, whole)


def test_predict_keeps_statistics_and_mode(hands: Path) -> None:
    samples, ranks = read_freihand(hands, "test", ["gs"]), distributed.Ranks.single(torch.device("cpu"))
    loader = open_loader(samples, 64, Normalization(), ranks, InferenceConfig(batch_size=2, threads=1, loader="opencv"))
    model = checkpoints.build_model(PRESETS["tiny"], Meta(HAND21, Normalization(), 64, "logits", "dark", 0.0))
    model.train()
    model.stem.eval()  # as if frozen
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = {name: module.training for name, module in model.named_modules()}
    whole = predict(model, loader, ranks, "off")
    assert np.isfinite(whole).all() and len(before) > 20
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert {name: module.training for name, module in model.named_modules()} == modes and len(set(modes.values())) == 2
    assert np.array_equal(predict(model.eval(), loader, ranks, "off"), whole) and not model.training

    class Broken(Padded):
        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            raise HgfastError("no image is left")
            yield

    model.train()
    with pytest.raises(HgfastError, match="no image"):
        predict(model, Broken(loader), ranks, "off")  # type: ignore[arg-type]
    assert model.training and model.last.training


def test_shift_applies_in_source_pixels(hands: Path) -> None:
    samples, ranks = read_freihand(hands, "test", ["gs"]), distributed.Ranks.single(torch.device("cpu"))
    loader = open_loader(samples, 64, Normalization(), ranks, InferenceConfig(batch_size=4, threads=1, loader="opencv"))
    model: Any = BitExactModel(HAND21)
    plain = predict(model, loader, ranks, "off")
    model.meta = Meta(HAND21, Normalization(), 64, "gaussian", "quarter", 0.0, shift=-0.5)
    assert np.allclose(predict(model, loader, ranks, "off"), plain - 0.5, rtol=0, atol=1e-12)


def test_any_number_of_ranks_has_the_same_figures(people: Path, hands: Path, tmp_path: Path, command: Command) -> None:
    done = command(Path(__file__).parent / "ranks_evaluate.py", people, hands, tmp_path, ranks=3)
    assert done.returncode == 0, done.stderr[-3000:]
    of_ranks = [dict(np.load(tmp_path / f"3-{rank}.npz")) for rank in range(3)]
    alone = distributed.Ranks.single(torch.device("cpu"))
    for name, samples in load_splits(people, hands).items():
        exact, network = predict_both(samples, alone)
        table = figures(name, samples, exact)
        for rank in of_ranks:
            assert figures(name, samples, rank[f"{name} exact"]) == table
            assert np.array_equal(rank[f"{name} shuffled"], exact)
            # convolutions of different batch sizes may add in another order
            assert np.abs(rank[f"{name} network"] - network).max() < 1e-4


def test_each_hand_is_among_the_worst_once(hands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the background on which it is worst."""
    every = read_freihand(hands, "train")
    samples = every.take(np.flatnonzero(every.group < every.group.min() + 3))
    assert len(samples) == 12
    guess = samples.keypoints + np.arange(1, 13)[:, None, None] * samples.reference[:, None, None] / 100
    captions: list[str] = []
    monkeypatch.setattr(hgfast.visualization.gallery, "add_caption", lambda image, text: captions.append(text) or image)
    hgfast.visualization.gallery.worst_samples_grid(samples, guess)
    worst = sorted((max(np.flatnonzero(samples.group == group)) for group in set(samples.group)), reverse=True)
    assert captions[::2] == [f"row {samples.row[n]}: truth" for n in worst]


def test_wide_tables_are_transposed() -> None:
    few = [{"method": "network", "pck@0.2": 0.5, "epe_px": 3.0}, {"method": "mean pose", "pck@0.2": 0.25, "epe_px": 30.0}]
    assert format_table(few).splitlines()[0].split() == ["method", "pck@0.2", "epe_px"]
    many = [{**row, **{f"another_figure_{n}": float(n) for n in range(9)}} for row in few]
    lines = [line.split() for line in format_table(many).splitlines()]
    assert lines[0] == ["network", "mean", "pose"] and ["pck@0.2", "0.500", "0.250"] in lines and len(lines) == 2 + 11
