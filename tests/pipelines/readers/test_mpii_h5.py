"""The MPII reader: conventions of the official file, real annotations against mmpose's, broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat

from hgfast.config import AugmentConfig
from hgfast.errors import HgfastError
from hgfast.pipelines.batch_plan import BatchPlan
from hgfast.pipelines.readers.mpii_h5 import read_mpii
from hgfast.skeletons import BODY16
from tests.conftest import SHARED, shared_path

Table = dict[str, NDArray[Any]]


def table(rows: int = 3) -> Table:
    rng = np.random.default_rng(3)
    return {
        "center": rng.uniform(50, 100, (rows, 2)),
        "scale": rng.uniform(0.3, 0.6, rows),
        "part": rng.integers(1, 160, (rows, 16, 2)).astype(float),
        "visible": np.ones((rows, 16)),
        "normalize": rng.uniform(10, 20, rows),
        "torsoangle": np.zeros(rows),
        "imgname": np.array([f"{i:09d}.jpg".encode() for i in (0, 1, 1)[:rows]], "S13"),
        "index": np.arange(rows, dtype=float),
        "person": np.zeros(rows),
    }


def write(root: Path, content: Table, split: str = "valid") -> Path:
    (root / "annot").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    with h5py.File(root / "annot" / f"{split}.h5", "w") as file:
        for name, values in content.items():
            file[name] = values
    for name in ("000000000.jpg", "000000001.jpg"):
        cv2.imwrite(str(root / "images" / name), np.zeros((160, 160, 3), np.uint8))
    return root


def test_conventions(tmp_path: Path) -> None:
    content = table()
    content["part"][0, 0], content["visible"][0, 0] = 0, 0  # absent
    content["part"][0, 1], content["visible"][0, 1] = (7, 9), 0  # occluded, but annotated
    content["part"][0, 2], content["visible"][0, 2] = (0, 5), 1  # at the image border
    content["part"][0, 3] = (1, 1)  # the center of the first pixel
    samples = read_mpii(write(tmp_path, content), "valid")
    assert samples.labeled[0].tolist() == [False, *[True] * 15]
    assert tuple(samples.keypoints[0, 3]) == (0.5, 0.5)
    assert np.allclose(samples.center, content["center"] - 0.5)
    assert np.allclose(samples.side, 200 * content["scale"])
    assert np.array_equal(samples.reference, content["normalize"])
    assert samples.group[1] == samples.group[2] != samples.group[0]
    assert samples.pixel_offset == -0.5 and samples.skeleton is BODY16 and samples.skipped == 0
    assert samples.row.tolist() == [0, 1, 2]


def test_mirroring_swaps_joints_and_labels(tmp_path: Path) -> None:
    content = table(1)
    content["part"][0, 0], content["visible"][0, 0] = 0, 0  # no right ankle
    samples = read_mpii(write(tmp_path, content), "valid")
    still = {"rotation": 0, "scale_min": 1, "scale_max": 1, "shift": 0}
    plain, mirrored = (BatchPlan(samples, 64, 1, augment=AugmentConfig(flip=p, **still)).batch(0, 0) for p in (0, 1))
    assert not mirrored.labeled[0, 5] and mirrored.labeled[0, 0]
    for joint in range(1, 16):
        x, y = plain.keypoints[0, joint]
        assert np.allclose(mirrored.keypoints[0, BODY16.flip_indices[joint]], (64 - x, y))


@pytest.mark.parametrize(("flip", "wanted"), [(None, 0.5), (0.0, 0.0), (0.25, 0.25)])
def test_bodies_are_mirrored_unless_told_otherwise(tmp_path: Path, flip: float | None, wanted: float) -> None:
    plan = BatchPlan(read_mpii(write(tmp_path, table()), "valid"), 64, 3, augment=AugmentConfig(flip=flip))
    flips = [np.linalg.det(m[:2, :2]) < 0 for epoch in range(400) for m in plan.batch(epoch, 0).input_from_source]
    assert np.mean(flips) == pytest.approx(wanted, abs=0.06)


@pytest.mark.real_data
def test_the_official_file_against_the_floats_and_mmpose() -> None:
    root = shared_path("fixtures/mpii")
    samples = read_mpii(root, "valid", skip_missing=True)
    assert (len(samples), samples.skipped) == (5, 2953)
    exact = loadmat(root / "annot/detections_our_format.mat")
    points = exact["pos_gt_src"].transpose(2, 0, 1)[:5]
    assert np.array_equal(samples.labeled, exact["jnt_missing"].T[:5] == 0)
    off = (samples.keypoints + 0.5 - points)[samples.labeled]
    assert (off < 1e-4).all() and (off > -1).all()  # the h5 is truncated, the .mat has five digits
    box = exact["headboxes_src"]
    assert np.allclose(samples.reference, 0.6 * np.linalg.norm(box[1] - box[0], axis=0)[:5], rtol=1e-6)
    people = json.loads((root / "mmpose_val5.json").read_text())
    for row, person in enumerate(people):
        assert Path(samples.paths[row]).name == Path(person["image"]).name
        raw = np.array(person["center"]) + np.array([0, 15 * person["scale"]])  # 1-based
        assert np.allclose(samples.center[row] + 0.5, raw, atol=0.01)
        assert samples.side[row] == pytest.approx(1.25 * 200 * person["scale"], rel=1e-3)


@pytest.mark.skipif(not (SHARED / "fixtures/mpii").exists(), reason="research data fixtures/mpii is not on this machine")
def test_missing_images_are_counted_and_named() -> None:
    with pytest.raises(HgfastError, match=r"^2724 of 2729 images are missing in .*images, the first 0.*--skip-missing$"):
        read_mpii(SHARED / "fixtures/mpii", "valid")


def test_skip_missing(tmp_path: Path) -> None:
    root = write(tmp_path, table())
    (root / "images/000000001.jpg").unlink()
    with pytest.raises(HgfastError, match=r"1 of 2 images are missing .* the first 000000001\.jpg"):
        read_mpii(root, "valid")
    samples = read_mpii(root, "valid", skip_missing=True)
    assert (len(samples), samples.skipped, samples.summary) == (1, 2, "1 samples (2 more without their image)")
    assert samples.row.tolist() == [0]
    (root / "images/000000001.jpg").write_bytes((root / "images/000000000.jpg").read_bytes())
    (root / "images/000000000.jpg").unlink()
    samples = read_mpii(root, "valid", skip_missing=True)
    assert samples.row.tolist() == [1, 2] and samples.take(np.array([False, True])).row.tolist() == [2]
    (root / "images/000000001.jpg").unlink()
    with pytest.raises(HgfastError, match="2 of 2 images are missing"):
        read_mpii(root, "valid", skip_missing=True)


def without_column(name: str) -> Callable[[Table], Table]:
    return lambda t: {key: values for key, values in t.items() if key != name}


def with_column(name: str, values: Any) -> Callable[[Table], Table]:
    return lambda t: {**t, name: values}


BAD: list[tuple[Callable[[Table], Table], str]] = [
    (without_column("normalize"), "has no data set 'normalize'"),
    (with_column("part", np.zeros((3, 14, 2))), r"part has the shape \(3, 14, 2\), wanted \(3, 16, 2\)"),
    (with_column("scale", np.ones(2)), r"scale has the shape \(2,\), wanted \(3,\)"),
    (with_column("scale", np.array([1, 0, 1.0])), "scale of row 1 is 0, must be above 0"),
    (with_column("normalize", np.array([1, 1, -2.0])), "normalize of row 2 is -2"),
    (with_column("center", np.array([[1, 1], [1, np.nan], [1, 1]])), "center of row 1 is not finite"),
    (with_column("visible", np.full((3, 16), b"x")), "visible holds"),
    (
        with_column("imgname", np.array([b"a.jpg", b"../../b.jpg", b"c.jpg"])),
        r"names the image '../../b.jpg', which is no plain",
    ),
    (lambda t: {name: values[:0] for name, values in t.items()}, "annotates nobody"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_broken_files(tmp_path: Path, change: Callable[[Table], Table], sentence: str) -> None:
    root = write(tmp_path, change(table()))
    with pytest.raises(HgfastError, match=sentence):
        read_mpii(root, "valid")


def test_images_in_another_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "root", table())
    (root / "images").rename(tmp_path / "pictures")
    samples = read_mpii(root, "valid", images=tmp_path / "pictures")
    assert Path(samples.paths[0]).parent == tmp_path / "pictures"


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(HgfastError, match=r"there is no such folder.*hgfast synthetic mpii --out"):
        read_mpii(tmp_path / "nowhere", "train")
    with pytest.raises(HgfastError, match="images is missing"):
        read_mpii(tmp_path, "train")
    root = write(tmp_path, table())
    with pytest.raises(HgfastError, match=r"annot/train\.h5 is missing"):
        read_mpii(root, "train")
    (root / "annot/train.h5").write_text("no HDF5 at all")
    with pytest.raises(HgfastError, match=r"train\.h5 cannot be read as HDF5"):
        read_mpii(root, "train")
    with pytest.raises(HgfastError, match="MPII has the splits train and valid, not 'test'"):
        read_mpii(root, "test")
