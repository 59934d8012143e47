"""A skeleton of 200 joints through every command."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from hgfast import load_model
from hgfast.evaluate import main as evaluate_main
from hgfast.export.to_onnx import main as onnx_main
from hgfast.predict import main as predict_main
from hgfast.report import main as report_main
from hgfast.runtime.boxes import crop_squares
from hgfast.runtime.torch_predictor import predict_crops
from hgfast.train import main as train_main
from hgfast.visualization.draw import read_image
from tests.conftest import Command

JOINTS = [f"{side}_{number}" for number in range(99) for side in ("left", "right")] + ["top", "bottom"]
PEOPLE, IMAGES = 2, 12


def write_data(folder: Path) -> list[object]:
    """Write images of two people each, with some joints unlabeled, and return the flags to read them."""
    rng = np.random.default_rng(0)
    images: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for number in range(IMAGES):
        cv2.imwrite(str(folder / f"{number}.jpg"), rng.integers(0, 255, (160, 240, 3), dtype=np.uint8))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 240, "height": 160})
        for person in range(PEOPLE):
            points = rng.uniform((5 + 120 * person, 25), (105 + 120 * person, 125), (len(JOINTS), 2))
            visible = rng.integers(0, 3, len(JOINTS))
            keypoints = np.hstack([points.round(1), visible[:, None]]) * (visible > 0)[:, None]
            rows.append({"id": len(rows), "image_id": number, "category_id": 1, "iscrowd": 0, "area": 10000,
                         "bbox": [5 + 120 * person, 25, 100, 100], "keypoints": keypoints.ravel().tolist()})  # fmt: skip
    edges = [[joint, joint + 2] for joint in range(1, len(JOINTS) - 2)]
    category = {"id": 1, "name": "millipede", "keypoints": JOINTS, "skeleton": edges}
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": [category]}))
    return ["--dataset", "coco", "--annotations", folder / "a.json", "--images", folder]


def test_two_hundred_joints(tmp_path: Path, in_process: Command) -> None:
    data, run = write_data(tmp_path), tmp_path / "coco"
    for main, words in (
        (train_main, [*data, "--valid-annotations", tmp_path / "a.json", "--out", tmp_path, "--model.preset", "tiny",
                      "--train.epochs", 2, "--batch-size", 8, "--loader", "opencv", "--threads", 1]),
        (evaluate_main, [run / "best.pt", *data, "--loader", "opencv", "--threads", 1, "--baselines", "--out", run]),
        (report_main, [run]),
        (onnx_main, [run / "best.pt", "--outputs", "keypoints,heatmaps"]),
        (predict_main, [run / "best.fp32.onnx", tmp_path / "3.jpg", "--out", tmp_path / "found",
                        "--box", "120,20,120,120", "--heatmaps", "true"]),
    ):  # fmt: skip
        done = in_process(main, *words)
        assert done.returncode == 0, done.stderr
    assert len(json.loads((run / "metrics.json").read_text())["joints"]) == len(JOINTS)
    assert all(joint in (run / "report.html").read_text() for joint in JOINTS)
    found = json.loads((tmp_path / "found/keypoints.json").read_text())
    assert found["joints"] == JOINTS
    model, image = load_model(run / "best.pt"), read_image(tmp_path / "3.jpg")
    expected = predict_crops(model, image, *crop_squares(image, [(120, 20, 120, 120)]))[0][0]
    np.testing.assert_allclose(found["images"][0]["people"][0]["keypoints"], expected, atol=0.05)
    tiles = cv2.imread(str(tmp_path / "found/3_heatmaps.jpg"))
    assert tiles is not None and tiles.shape[0] // 224 * (tiles.shape[1] // 224) >= 1 + len(JOINTS)
