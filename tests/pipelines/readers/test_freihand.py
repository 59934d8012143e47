"""The FreiHAND reader against OpenCV's projection, the published numbering and real keypoints; broken files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hgfast.errors import HgfastError
from hgfast.pipelines.readers.freihand import VERSIONS, read_freihand, split_bounds
from tests.conftest import NUM_HANDS, shared_path


def test_keypoints_are_opencvs_projection(hands: Path) -> None:
    samples = read_freihand(hands, "all", ["gs"])
    k_matrices, xyz = (np.array(json.loads((hands / f"training_{n}.json").read_text())) for n in ("K", "xyz"))
    for i in (0, 7, NUM_HANDS - 1):
        uv, _ = cv2.projectPoints(xyz[i], np.zeros(3), np.zeros(3), k_matrices[i], None)
        assert np.allclose(samples.keypoints[i], uv[:, 0], atol=1e-6)
    box = samples.keypoints[3]
    assert samples.reference[3] == pytest.approx(max(np.ptp(box[:, 0]), np.ptp(box[:, 1])))


def test_princeton_split_at_full_size() -> None:
    assert split_bounds(32560) == (28000, 30800)


def test_splits_share_no_hand_and_leave_none_out(hands: Path) -> None:
    groups = [set(read_freihand(hands, split).group.tolist()) for split in ("train", "valid", "test")]
    assert sum(map(len, groups)) == NUM_HANDS
    assert set.union(*groups) == set(range(NUM_HANDS))
    assert len(read_freihand(hands, "train")) == 4 * len(groups[0])


def test_versions_are_numbered_as_published(hands: Path) -> None:
    samples = read_freihand(hands, "all", ["auto"])
    assert VERSIONS.index("auto") == 3
    assert Path(samples.paths[5]).name == f"{5 + 3 * NUM_HANDS:08d}.jpg"
    both = read_freihand(hands, "all", ["gs", "auto"])
    assert np.array_equal(both.keypoints[5], both.keypoints[NUM_HANDS + 5])
    assert both.group[5] == both.group[NUM_HANDS + 5] == 5


@pytest.mark.parametrize("split", ["train", "valid", "test", "all", "evaluation"])
def test_rows_are_the_numbers_in_the_names(hands: Path, split: str) -> None:
    samples = read_freihand(hands, split, ["sample", "gs"])
    assert [f"{row:08d}.jpg" for row in samples.row] == [Path(path).name for path in samples.paths]
    some = samples.take(np.arange(len(samples)) % 2 == 1)
    assert [f"{row:08d}.jpg" for row in some.row] == [Path(path).name for path in some.paths]


def test_evaluation_split(hands: Path) -> None:
    samples = read_freihand(hands, "evaluation")
    assert len(samples) == len(json.loads((hands / "evaluation_K.json").read_text()))
    assert "evaluation/rgb" in samples.paths[0]


def test_evaluation_split_without_its_annotations(hands: Path, tmp_path: Path) -> None:
    shutil.copytree(hands, tmp_path / "copy")
    (tmp_path / "copy/evaluation_xyz.json").unlink()
    samples, known = (read_freihand(root, "evaluation") for root in (tmp_path / "copy", hands))
    assert [Path(p).name for p in samples.paths] == [Path(p).name for p in known.paths]
    assert not samples.labeled.any() and known.labeled.all()


@pytest.mark.parametrize(
    ("shares", "sizes"), [([0.5, 0.25], (24, 12, 12)), ([1 / 3, 1 / 3], (16, 16, 16)), ([0.75, 0.25], (36, 12, None))]
)
def test_split_fractions(hands: Path, shares: list[float], sizes: tuple[int, int, int | None]) -> None:
    for split, size in zip(("train", "valid", "test"), sizes):
        if size is None:
            with pytest.raises(HgfastError, match="is empty"):
                read_freihand(hands, split, ["gs"], split_fractions=shares)
        else:
            assert len(read_freihand(hands, split, ["gs"], split_fractions=shares)) == size


@pytest.mark.parametrize("shares", [[0.5], [0.9, 0.2], [-0.1, 0.5]])
def test_invalid_split_fractions(hands: Path, shares: list[float]) -> None:
    with pytest.raises(HgfastError, match="must be two numbers from 0 to 1"):
        read_freihand(hands, "train", split_fractions=shares)


@pytest.mark.real_data
def test_real_keypoints(real_freihand: Path) -> None:
    """Return the real 2D keypoints as another project ships them, in COCO format."""
    ours = read_freihand(real_freihand, "all")
    coco = json.loads(shared_path("fixtures/freihand_coco/keypoints.json").read_text())
    theirs = sorted(np.array(a["keypoints"]).reshape(21, 3)[:, :2].tolist() for a in coco["annotations"])
    assert np.allclose(sorted(ours.keypoints.tolist()), theirs, atol=1e-3)


@pytest.fixture
def broken(hands: Path, tmp_path: Path) -> Callable[[str, Callable[[list[Any]], Any]], Path]:
    """Copy the annotations with one list changed; images are linked."""

    def make(name: str, change: Callable[[list[Any]], Any]) -> Path:
        for file in hands.glob("*.json"):
            shutil.copy(file, tmp_path)
        for part in ("training", "evaluation"):
            (tmp_path / part).symlink_to(hands / part)
        rows = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(change(rows)))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "training_K.json",
            lambda rows: rows[:-1],
            rf"training_K.json has {NUM_HANDS - 1} rows and training_xyz.json {NUM_HANDS}",
        ),
        ("training_xyz.json", lambda rows: [*rows[:3], rows[3][:20], *rows[4:]], "row 3 is 20 x 3, wanted 21 x 3"),
        ("training_xyz.json", lambda rows: [[[*rows[0][0], 1.0], *rows[0][1:]], *rows[1:]], "row 0 is something else"),
        ("training_xyz.json", lambda rows: [rows[0], "hand", *rows[2:]], "row 1 is something else"),
        ("training_xyz.json", lambda rows: [*rows[:-1], [[float("nan")] * 3] * 21], "not finite"),
        (
            "training_xyz.json",
            lambda rows: [[[x, y, -z] for x, y, z in rows[0]], *rows[1:]],
            "row 0 has a joint at or behind the camera",
        ),
        ("training_K.json", lambda rows: {"K": rows}, "must hold a non-empty list"),
        ("training_K.json", lambda rows: [], "must hold a non-empty list"),
    ],
)
def test_broken_annotations(broken: Callable[..., Path], name: str, change: Callable[[list[Any]], Any], sentence: str) -> None:
    with pytest.raises(HgfastError, match=sentence):
        read_freihand(broken(name, change), "train")


def test_json_cut_short(broken: Callable[..., Path]) -> None:
    root = broken("training_K.json", lambda rows: rows)
    (root / "training_xyz.json").write_text("[[[0.1, 0.2")
    with pytest.raises(HgfastError, match="not valid JSON"):
        read_freihand(root, "train")


def test_missing_images_are_counted_and_named(hands: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(hands, root)
    for number in (2, 4):
        (root / "training/rgb" / f"{number:08d}.jpg").unlink()
    with pytest.raises(HgfastError, match=r"2 of \d+ images are missing in .*00000002.jpg, 00000004.jpg"):
        read_freihand(root, "train")
    assert len(read_freihand(root, "all", ["hom"])) == NUM_HANDS


def test_folder_of_images_of_another_size_is_refused(hands: Path, tmp_path: Path) -> None:
    shutil.copytree(hands, tmp_path / "copy")
    for file in (tmp_path / "copy/training/rgb").iterdir():
        cv2.imwrite(str(file), np.zeros((256, 200, 3), np.uint8))
    with pytest.raises(HgfastError, match="is 200 x 256 pixels"):
        read_freihand(tmp_path / "copy", "train")


def test_a_few_odd_images_do_not_stop_reading(hands: Path, tmp_path: Path) -> None:
    """The file check and the loader handle them; the first image is among them."""
    shutil.copytree(hands, tmp_path / "copy")
    rgb = tmp_path / "copy/training/rgb"
    cv2.imwrite(str(rgb / "00000000.jpg"), np.zeros((256, 200, 3), np.uint8))
    assert len(read_freihand(tmp_path / "copy", "train", ["gs"])) == split_bounds(NUM_HANDS)[0]
    for content in (b"", b"not an image"):
        (rgb / "00000000.jpg").write_bytes(content)
        assert len(read_freihand(tmp_path / "copy", "train", ["gs"])) == split_bounds(NUM_HANDS)[0]
    for file in rgb.iterdir():
        file.write_bytes(b"")
    assert len(read_freihand(tmp_path / "copy", "train", ["gs"])) == split_bounds(NUM_HANDS)[0]


def test_nothing_there(tmp_path: Path, hands: Path) -> None:
    with pytest.raises(HgfastError, match=r"FreiHAND_pub_v2.zip.*hgfast synthetic freihand --out"):
        read_freihand(tmp_path, "train")
    with pytest.raises(HgfastError, match="version 'green' is unknown"):
        read_freihand(hands, "train", ["green"])


@pytest.mark.real_data
def test_too_few_hands_for_a_split(real_freihand: Path) -> None:
    with pytest.raises(HgfastError, match=r"test split of the 2 hands .* is empty"):
        read_freihand(real_freihand, "test")
    with pytest.raises(HgfastError, match=r"FreiHAND_pub_v2_eval.zip"):
        read_freihand(real_freihand, "evaluation")
