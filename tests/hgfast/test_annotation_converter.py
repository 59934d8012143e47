"""Annotations that sleap-io's own writers make, converted to COCO and read: points, boxes, images and joints are those drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from hgfast.annotation_converter import convert_annotations
from hgfast.errors import HgfastError
from hgfast.pipelines.readers.coco import CocoOptions, CocoSamples, read_coco

WIDTH, HEIGHT, FRAMES = 96, 80, 3
JOINTS = ["nose", "left_ear", "right_ear", "tail"]
EDGES = [(0, 1), (0, 2), (0, 3)]


@pytest.fixture
def sio() -> Any:
    return pytest.importorskip("sleap_io", reason="sleap-io (the extra convert) is not installed")


@pytest.fixture
def points() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Joints (FRAMES, 4, 2) as pixel indices; the tail of the second frame is not labeled."""
    drawn = np.random.default_rng(7).uniform([8, 8], [WIDTH - 8, HEIGHT - 8], (FRAMES, 4, 2)).round(2)
    drawn[1, 3] = np.nan
    return drawn


def make_labels(sio: Any, folder: Path, points: Any) -> Any:
    """Write the images and return sleap-io's labels."""
    (folder / "raw").mkdir()
    paths = [str(folder / "raw" / f"img{n}.png") for n in range(FRAMES)]
    for n, path in enumerate(paths):
        cv2.imwrite(path, np.full((HEIGHT, WIDTH, 3), 40 + 50 * n, np.uint8))
    skeleton = sio.Skeleton(list(JOINTS), edges=list(EDGES))
    video = sio.load_video(paths)
    frames = [sio.LabeledFrame(video, n, [sio.Instance.from_numpy(points[n], skeleton)]) for n in range(FRAMES)]
    return sio.Labels(frames)


def read(folder: Path, root: Path) -> CocoSamples:
    samples = read_coco(folder / "train.json", root, CocoOptions(allow=["box-size", "outside-box", "box-format"]))
    assert samples.skeleton.edges == tuple(EDGES)
    assert (samples.skeleton.joints, samples.skeleton.flip_indices) == (tuple(JOINTS), (0, 2, 1, 3))
    return samples


def assert_points(samples: CocoSamples, points: Any, tolerance: float) -> None:
    """Compare with corner coordinates, half a pixel above the indices, frame by frame as the images' gray values tell."""
    frames = [round((float(cv2.imread(path).mean()) - 40) / 50) for path in samples.paths]
    assert sorted(frames) == [0, 1, 2]
    for row, frame in enumerate(frames):
        wanted = points[frame]
        known = np.isfinite(wanted).all(-1)
        np.testing.assert_array_equal(samples.labeled[row], known)
        np.testing.assert_allclose(samples.keypoints[row][known], wanted[known] + 0.5, atol=tolerance)


def test_sleap(sio: Any, tmp_path: Path, points: Any) -> None:
    sio.save_slp(make_labels(sio, tmp_path, points), str(tmp_path / "labels.slp"))
    line = convert_annotations(tmp_path / "labels.slp", tmp_path / "train.json")
    assert f"3 images, 3 annotations of 4 joints; --images {tmp_path}" in line
    assert_points(read(tmp_path, tmp_path), points, 1e-3)


def test_nwb_with_a_video_whose_frames_are_written(sio: Any, tmp_path: Path, points: Any) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (WIDTH, HEIGHT))
    for n in range(FRAMES + 2):
        writer.write(np.full((HEIGHT, WIDTH, 3), 40 + 50 * max(n - 2, 0), np.uint8))
    writer.release()
    skeleton, video = sio.Skeleton(list(JOINTS), edges=list(EDGES)), sio.load_video(str(tmp_path / "clip.mp4"))
    frames = [sio.LabeledFrame(video, n + 2, [sio.Instance.from_numpy(points[n], skeleton)]) for n in range(FRAMES)]
    sio.save_nwb(sio.Labels(frames), str(tmp_path / "labels.nwb"))
    convert_annotations(tmp_path / "labels.nwb", tmp_path / "train.json")
    names = [image["file_name"] for image in json.loads((tmp_path / "train.json").read_text())["images"]]
    assert names == [f"train_images/clip_{n:06d}.png" for n in (2, 3, 4)]
    assert_points(read(tmp_path, tmp_path), points, 1e-3)


def test_deeplabcut(sio: Any, tmp_path: Path, points: Any) -> None:
    make_labels(sio, tmp_path, points)
    rows = [["scorer", *["me"] * 8], ["bodyparts", *(j for j in JOINTS for _ in "xy")], ["coords", *["x", "y"] * 4]]
    rows += [[f"raw/img{n}.png", *("" if np.isnan(v) else str(v) for v in points[n].ravel())] for n in range(FRAMES)]
    (tmp_path / "CollectedData_me.csv").write_text("\n".join(",".join(row) for row in rows))
    convert_annotations(tmp_path / "CollectedData_me.csv", tmp_path / "train.json")
    samples = read_coco(tmp_path / "train.json", tmp_path, CocoOptions(allow=["box-size", "outside-box", "box-format"]))
    assert sorted(samples.skeleton.joints) == sorted(JOINTS) and samples.skeleton.edges == ()  # its tables have no edges
    assert_points(samples, points[:, [JOINTS.index(joint) for joint in samples.skeleton.joints]], 1e-3)


def test_yolo_counts_from_the_corner_and_has_boxes(sio: Any, tmp_path: Path, points: Any) -> None:
    labels = make_labels(sio, tmp_path, points + 0.5)
    sio.save_ultralytics(labels, str(tmp_path / "yolo"), split_ratios={"train": 1.0}, verbose=False)
    config = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())
    for keys in ({}, {"kpt_names": {0: JOINTS}}):
        config.pop("node_names" if keys else "", None)
        (tmp_path / "yolo/data.yaml").write_text(yaml.safe_dump({**config, **keys}))
        convert_annotations(tmp_path / "yolo/data.yaml", tmp_path / "train.json")
        samples = read(tmp_path, tmp_path)
        assert_points(samples, points, 2e-4)
        for row in range(FRAMES):
            x, y, width, height = _yolo_box(samples.paths[row])
            np.testing.assert_allclose(samples.center[row], [x * WIDTH, y * HEIGHT], atol=1e-4)
            np.testing.assert_allclose(samples.side[row], 1.25 * max(width * WIDTH, height * HEIGHT), atol=1e-4)
    with pytest.raises(HgfastError, match=r"cannot be read as ultralytics .*valid"):
        convert_annotations(tmp_path / "yolo/data.yaml", tmp_path / "valid.json", "valid")


def _yolo_box(image: str) -> list[float]:
    label = Path(image.replace("/images/", "/labels/")).with_suffix(".txt")
    return [float(value) for value in label.read_text().split()[1:5]]


def test_label_studio_as_sleap_writes_it_and_as_it_exports_itself(sio: Any, tmp_path: Path, points: Any) -> None:
    labels = make_labels(sio, tmp_path, points + 0.5)
    results = []
    for n in range(FRAMES):
        known = np.isfinite(points[n]).all(-1)
        percent = (points[n] + 0.5) / [WIDTH, HEIGHT] * 100
        results.append(
            [
                {
                    "id": f"{n}{joint}", "type": "keypointlabels", "original_width": WIDTH, "original_height": HEIGHT,
                    "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": [JOINTS[joint]]},
                }
                for joint, (x, y) in enumerate(percent)
                if known[joint]
            ]
        )  # fmt: skip
    own = [
        {"id": n, "data": {"img": f"/data/upload/1/img{n}.png"}, "annotations": [{"result": result}]}
        for n, result in enumerate(results)
    ]
    own.append({"id": 9, "data": {"img": "x.png"}, "annotations": [{"result": []}]})
    (tmp_path / "images").mkdir()
    for n in range(FRAMES):
        (tmp_path / f"images/img{n}.png").write_bytes((tmp_path / f"raw/img{n}.png").read_bytes())
    (tmp_path / "export.json").write_text(json.dumps(own))
    convert_annotations(tmp_path / "export.json", tmp_path / "train.json")
    content = json.loads((tmp_path / "train.json").read_text())
    order = content["categories"][0]["keypoints"]
    assert sorted(order) == sorted(JOINTS) and [image["file_name"] for image in content["images"]] == [
        f"images/img{n}.png" for n in range(FRAMES)
    ]
    for entry in content["annotations"]:
        table = np.array(entry["keypoints"]).reshape(-1, 3)[[order.index(joint) for joint in JOINTS]]
        known = np.isfinite(points[entry["image_id"]]).all(-1)
        np.testing.assert_allclose(table[known, :2], points[entry["image_id"]][known], atol=1e-3)
        assert table[:, 2].tolist() == (2 * known).tolist() and "bbox" not in entry
    del labels.skeletons[0].edges[:]
    sio.save_labelstudio(labels, str(tmp_path / "sleap.json"))
    convert_annotations(tmp_path / "sleap.json", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert len(again["annotations"]) == FRAMES and sorted(again["categories"][0]["keypoints"]) == sorted(JOINTS)


def test_what_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HgfastError, match=r"its ending is none of \.slp, \.nwb"):
        convert_annotations(tmp_path / "a.xml", tmp_path / "out.json")
    with pytest.raises(HgfastError, match="there is no file"):
        convert_annotations(tmp_path / "a.slp", tmp_path / "out.json")
    (tmp_path / "a.slp").touch()
    monkeypatch.setitem(sys.modules, "sleap_io", None)
    with pytest.raises(HgfastError, match=r"sleap-io .*pip install hgfast\[convert\]"):
        convert_annotations(tmp_path / "a.slp", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_broken_files(sio: Any, tmp_path: Path) -> None:
    broken = [
        ("a.slp", "x"),
        ("a.nwb", "x"),
        ("a.csv", "x,y\n1,2\n"),
        ("a.json", "[]"),
        ("a.json", "{}"),
        ("a.yaml", "names: {}"),
    ]
    for name, text in broken:
        (tmp_path / name).write_text(text)
        with pytest.raises(HgfastError, match=name):
            convert_annotations(tmp_path / name, tmp_path / "out.json")
        assert not (tmp_path / "out.json").exists()
