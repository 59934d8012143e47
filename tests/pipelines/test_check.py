"""The file check: bad files of every kind, suspicious annotations, stored results, and exclusion from training."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import numpy as np
import pytest

from hgfast.entry_point import run_main
from hgfast.errors import HgfastError
from hgfast.pipelines.check import main
from hgfast.pipelines.checks import images
from hgfast.pipelines.checks import run as module
from hgfast.pipelines.checks.annotations import SAME_HAND_RMS, crops_outside_image, find_duplicate_hands, joints_outside_image
from hgfast.pipelines.checks.result import FILE_NAME, CheckConfig, exclude_bad_images, read_result
from hgfast.pipelines.checks.run import CheckFindings, check, exit_code, format_report
from hgfast.pipelines.datasets import open_samples
from hgfast.pipelines.readers.freihand import split_bounds
from hgfast.pipelines.samples import Samples
from hgfast.skeletons import BODY16
from tests.conftest import NUM_HANDS, shared_path
from tests.odd_images import HEIGHT, WIDTH, scene, write_readable, write_unreadable

Loader = Literal["dali", "opencv"]
LOADERS = ("dali", "opencv")
JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def write_coco(root: Path, names: Sequence[str], sizes: dict[str, Any] | None = None, **person: Any) -> Path:
    """Write a COCO file for images in root/images, with one person of three joints in each."""
    entry = {"category_id": 1, "bbox": [10, 20, 40, 20], "keypoints": [12, 30, 2, 22, 25, 1, 18, 22, 2], **person}
    content = {
        "images": [{"id": n, "file_name": name, **(sizes or {}).get(name, {})} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, **entry} for n, _ in enumerate(names)],
        "categories": [{"id": 1, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": []}],
    }
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "points.json").write_text(json.dumps(content))
    return root / "points.json"


def face_config(root: Path, loader: Loader = "opencv", **options: Any) -> CheckConfig:
    options = {"data": root, "annotations": root / "points.json", "threads": 2, **options}
    return CheckConfig(dataset="coco", loader=loader, **options)


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """Two good images, one truncated image and one file that is no image."""
    write_coco(tmp_path / "data", ["a.jpg", "b.jpg", "cut.jpg", "text.jpg"])
    for name, content in (("a", JPEG), ("b", JPEG), ("cut", JPEG[: len(JPEG) // 2]), ("text", b"not an image")):
        (tmp_path / f"data/images/{name}.jpg").write_bytes(content)
    return tmp_path / "data"


@pytest.fixture
def decoded_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the files that the decoder receives from now on."""
    seen: list[str] = []
    original = module.decode

    def spy(paths: Sequence[str], loader: Loader, threads: int) -> Any:
        seen.extend(Path(path).name for path in paths)
        return original(paths, loader, threads)

    monkeypatch.setattr(module, "decode", spy)
    return seen


def found_bad(findings: CheckFindings) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in findings.bad.items()}


def giant_png() -> bytes:
    """A few bytes whose header claims 40000 x 40000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("loader", LOADERS)
def test_files_of_every_kind(tmp_path: Path, loader: Loader) -> None:
    images = tmp_path / "images"
    images.mkdir()
    good, bad = write_readable(images), write_unreadable(images)
    (images / "half.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    (images / "half.png").write_bytes((images / "rgba.png").read_bytes()[:2000])
    (images / "giant.png").write_bytes(giant_png())
    os.mkfifo(images / "pipe.jpg")
    bad += ["half.jpg", "half.png", "giant.png"]
    write_coco(tmp_path, sorted([*good, *bad, "gone.jpg", "nowhere_else.jpg", "pipe.jpg"]))
    config = face_config(tmp_path, loader)
    findings = check(config)
    reasons = found_bad(findings)
    assert sorted(reasons) == sorted(bad)
    assert [Path(path).name for path in findings.missing] == [
        "gone.jpg",
        "nowhere_else.jpg",
        "pipe.jpg",
    ]  # pipes do not block
    assert all(reason and str(tmp_path) not in reason for reason in reasons.values())
    for name, words in (
        ("zero", "is empty"),
        ("folder", "is a folder"),
        ("nowhere", "No such file"),
    ):
        assert words in reasons[f"{name}.jpg"]
    assert reasons["giant.png"].startswith("has 40000 x 40000 pixels, more than the 268435456 that are decoded")
    result = read_result(tmp_path / FILE_NAME)
    assert {name: tuple(result.decoded[f"images/{name}"][2:]) for name in good} == good
    assert findings.table[0] == {
        "split": "train",
        "samples": len(good) + len(bad),
        "pictures": len(good) + len(bad),
        "bad": len(bad),
        "missing": 3,
        "joints outside": 3,
        "squares astray": 1,
    }  # fmt: skip  (the image of one pixel)
    lines = format_report(config, findings)
    worst = findings.suspicious["train", "joints outside"][0]
    listed = json.loads((tmp_path / "points.json").read_text())["images"][worst.row]["file_name"]
    assert any(f"points.json, annotation {worst.row} ({listed}): " in line for line in lines)
    assert f"{images / 'zero.jpg'}: is empty" in lines and f"{images / 'gone.jpg'}: is missing" in lines
    assert sum(line.startswith(str(images)) for line in lines) == len(bad) + 3


def test_a_file_without_permission_is_bad_until_it_has_it(two_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions change neither size nor time. The user who runs the tests may be allowed to read everything."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jpg"))
        assert found_bad(check(face_config(two_images)))["a.jpg"] == "cannot be read (Permission denied)"
    assert sorted(found_bad(check(face_config(two_images)))) == ["cut.jpg", "text.jpg"]


@pytest.mark.parametrize("loader", LOADERS)
def test_training_excludes_bad_images(two_images: Path, loader: Loader) -> None:
    config = face_config(two_images, loader)
    samples = open_samples(config, "train")
    assert exclude_bad_images(samples, config) is samples  # nothing was checked
    check(config)
    left = exclude_bad_images(replace(samples, skipped=2), config)
    assert [Path(path).name for path in left.paths] == ["a.jpg", "b.jpg"]
    assert len(left.keypoints) == left.unreadable == 2 and left.row.tolist() == [0, 1]
    assert left.summary == "2 samples (2 more without their image, 2 with one that cannot be read)"
    assert exclude_bad_images(samples, config).summary == "2 samples (2 more with an image that cannot be read)"
    (two_images / "images/text.jpg").write_bytes(JPEG)  # repaired, but not checked again
    assert [Path(path).name for path in exclude_bad_images(samples, config).paths] == ["a.jpg", "b.jpg", "text.jpg"]
    with pytest.raises(HgfastError, match="none of the 1 images can be used"):
        exclude_bad_images(samples.take(samples.paths == str(two_images / "images/cut.jpg")), config)


def test_paths_may_be_written_in_another_way(two_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(face_config(two_images))
    monkeypatch.chdir(two_images)
    config = face_config(Path("../data"), annotations=Path("points.json"), images=Path("images"))
    assert exclude_bad_images(open_samples(config, "train"), config).unreadable == 2
    beside_images = replace(config, data=None)
    assert exclude_bad_images(open_samples(beside_images, "train"), beside_images).unreadable == 2


def test_a_link_that_leads_nowhere_is_left_out_until_it_leads_somewhere(two_images: Path) -> None:
    image = two_images / "images/a.jpg"
    image.unlink()
    image.symlink_to(two_images / "later.jpg")
    config = face_config(two_images)
    check(config)
    samples = open_samples(config, "train")
    assert exclude_bad_images(samples, config).unreadable == 3
    (two_images / "later.jpg").write_bytes(JPEG)
    assert exclude_bad_images(samples, config).unreadable == 2


def test_data_may_be_moved_with_their_result(two_images: Path, decoded_paths: list[str]) -> None:
    check(face_config(two_images))
    moved = two_images.rename(two_images.with_name("moved"))
    assert exclude_bad_images(open_samples(face_config(moved), "train"), face_config(moved)).unreadable == 2
    decoded_paths.clear()
    assert len(check(face_config(moved)).bad) == 2
    assert decoded_paths == []


@pytest.mark.parametrize("loader", LOADERS)
def test_only_new_and_changed_files_are_decoded_again(two_images: Path, decoded_paths: list[str], loader: Loader) -> None:
    config = face_config(two_images, loader)
    first = check(config)
    assert sorted(decoded_paths) == ["a.jpg", "b.jpg", "cut.jpg", "text.jpg"] and first.decoded == 4
    decoded_paths.clear()
    again = check(config)
    assert decoded_paths == [] and again.decoded == 0 and again.bad == first.bad and again.table == first.table
    os.utime(two_images / "images/b.jpg", ns=(1, 1))  # another time
    (two_images / "images/cut.jpg").write_bytes(JPEG)  # repaired
    (two_images / "images/c.jpg").write_bytes(JPEG[:50])  # new
    write_coco(two_images, ["a.jpg", "b.jpg", "c.jpg", "cut.jpg", "text.jpg"])
    assert sorted(found_bad(check(config))) == ["c.jpg", "text.jpg"]
    assert sorted(decoded_paths) == ["b.jpg", "c.jpg", "cut.jpg"]
    assert sorted(read_result(two_images / FILE_NAME).bad) == ["images/c.jpg", "images/text.jpg"]
    decoded_paths.clear()
    check(replace(config, again=True))
    assert len(decoded_paths) == 5
    decoded_paths.clear()
    check(replace(config, loader="dali" if loader == "opencv" else "opencv"))  # which may have other outcomes
    assert len(decoded_paths) == 5


def test_failed_check_keeps_earlier_results(two_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad files stay in the result if another decoder cannot start, or a repeated check is interrupted."""
    check(face_config(two_images, loader="opencv"))
    known = read_result(two_images / FILE_NAME).bad
    assert known

    def broken(*_: object) -> None:
        raise HgfastError("no decoder here")

    monkeypatch.setattr(module, "decode", broken)
    for config in (face_config(two_images, loader="dali"), face_config(two_images, loader="opencv", again=True)):
        with pytest.raises(HgfastError, match="no decoder"):
            check(config)
        assert read_result(two_images / FILE_NAME).bad == known


def test_results_for_other_annotations_are_preserved(two_images: Path, decoded_paths: list[str]) -> None:
    check(face_config(two_images))
    shutil.copy(two_images / "points.json", two_images / "all.json")
    write_coco(two_images, ["a.jpg"])
    assert check(face_config(two_images)).bad == {}
    everything = face_config(two_images, annotations=two_images / "all.json")
    assert exclude_bad_images(open_samples(everything, "train"), everything).unreadable == 2
    decoded_paths.clear()
    assert len(check(everything).bad) == 2 and decoded_paths == []


def test_interrupted_check_resumes(two_images: Path, monkeypatch: pytest.MonkeyPatch, decoded_paths: list[str]) -> None:
    original = module.decode

    def interrupted(paths: Sequence[str], loader: Loader, threads: int) -> Any:
        yield from list(original(paths, loader, threads))[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "decode", interrupted)
        check(face_config(two_images))
    decoded_paths.clear()
    check(face_config(two_images))
    assert decoded_paths == ["text.jpg"]


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2", "[]", "{}", '{"hgfast_check": 1}',
     '{"hgfast_check": 2, "loader": "dali", "report": {}, "bad": {}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": {"a.jpg": [3, "is empty"]}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": {"a.jpg": [3, null, "is empty"]}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": [], "decoded": {}}'],
)  # fmt: skip
def test_a_broken_result(two_images: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = face_config(two_images)
    samples = open_samples(config, "train")
    (two_images / FILE_NAME).write_text(content)
    with pytest.raises(HgfastError, match=rf"{FILE_NAME} is no result of hgfast check, .*delete it, or run the check again"):
        exclude_bad_images(samples, config)
    assert len(check(config).bad) == 2
    assert "decoding every image again" in capsys.readouterr().err
    assert exclude_bad_images(samples, config).unreadable == 2


def test_malformed_cached_results_are_ignored(two_images: Path, decoded_paths: list[str]) -> None:
    check(face_config(two_images))
    result = json.loads((two_images / FILE_NAME).read_text())
    result["decoded"]["images/a.jpg"] = "fine"
    result["decoded"]["images/b.jpg"][2] = "12"
    (two_images / FILE_NAME).write_text(json.dumps(result))
    decoded_paths.clear()
    check(face_config(two_images))
    assert decoded_paths == ["a.jpg", "b.jpg"]


def test_result_path(two_images: Path, tmp_path: Path, decoded_paths: list[str]) -> None:
    place = tmp_path / "results/faces.json"
    config = face_config(two_images, checked=place)
    samples = open_samples(config, "train")
    with pytest.raises(HgfastError, match=r"the file check result .*faces.json does not exist"):
        exclude_bad_images(samples, config)
    check(config)
    assert not (two_images / FILE_NAME).exists() and [file.name for file in place.parent.iterdir()] == ["faces.json"]
    assert exclude_bad_images(samples, config).unreadable == 2
    check(face_config(two_images, data=None, images=two_images / "images"))
    assert (two_images / FILE_NAME).exists()  # next to the image folder
    decoded_paths.clear()
    points = (two_images / "points.json").read_text()
    with pytest.raises(HgfastError, match=r"points.json is no result"):  # and is not overwritten
        check(face_config(two_images, checked=two_images / "points.json"))
    assert (two_images / "points.json").read_text() == points
    with pytest.raises(HgfastError, match=r"cannot make the folder .* choose another with --checked"):
        check(face_config(two_images, checked=two_images / "points.json/below.json"))
    (two_images / FILE_NAME).unlink()
    (two_images / FILE_NAME).mkdir()
    with pytest.raises(HgfastError, match="which is a folder"):
        check(face_config(two_images))
    assert decoded_paths == []


def test_dali_batches_are_limited_by_pixels(two_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = []
    original = images._SizePipeline.run

    def spy(self: Any, paths: Sequence[str]) -> Any:
        if self._mode == "decode":
            batches.append([Path(path).stem for path in paths])
        return original(self, paths)

    monkeypatch.setattr(images._SizePipeline, "run", spy)
    large = cv2.imencode(".png", np.zeros((3 * HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    sizes = {**dict.fromkeys("abdef", (WIDTH, HEIGHT)), "c": (WIDTH, 3 * HEIGHT)}
    for name, size in sizes.items():
        (two_images / f"images/{name}.jpg").write_bytes(JPEG if size[1] == HEIGHT else large)
    monkeypatch.setattr(images, "BATCH_PIXELS", 2 * WIDTH * HEIGHT)
    paths = {str(two_images / f"images/{name}.jpg"): size for name, size in sorted(sizes.items())}
    assert dict(images.decode_with_dali(list(paths), 2)) == paths
    assert batches == [["a", "b"], ["c"], ["d", "e"], ["f"]]


@pytest.mark.parametrize("loader", LOADERS)
def test_one_bad_file_among_many(tmp_path: Path, loader: Loader) -> None:
    """More than one batch, with bad files at both ends and in the middle."""
    names = [f"{n}.jpg" for n in range(2 * images.BATCH_FILES + 5)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(JPEG[:500] if n in (0, 40, 41, len(names) - 1) else JPEG)
    outcomes = dict(images.decode([str(tmp_path / name) for name in names], loader, 2))
    bad = [n for n, name in enumerate(names) if isinstance(outcomes[str(tmp_path / name)], str)]
    assert bad == [0, 40, 41, len(names) - 1] and len(outcomes) == len(names)


def test_coco_images_whose_size_differs_from_their_entry(two_images: Path, decoded_paths: list[str]) -> None:
    right, wrong = {"width": WIDTH, "height": HEIGHT}, {"width": HEIGHT, "height": WIDTH}
    write_coco(two_images, ["a.jpg", "b.jpg"], {"a.jpg": right, "b.jpg": wrong})
    assert found_bad(check(face_config(two_images))) == {"b.jpg": f"is {WIDTH} x {HEIGHT} pixels, wanted {HEIGHT} x {WIDTH}"}
    assert exclude_bad_images(open_samples(face_config(two_images), "train"), face_config(two_images)).unreadable == 1
    decoded_paths.clear()
    write_coco(two_images, ["a.jpg", "b.jpg"], {"a.jpg": right, "b.jpg": right})
    assert check(face_config(two_images)).bad == {}  # although the image has not changed
    assert decoded_paths == []
    write_coco(two_images, ["a.jpg", "b.jpg"], {"a.jpg": {"width": 0, "height": None}})
    assert check(face_config(two_images)).bad == {}


def copy_of(data: Path, to: Path) -> Path:
    shutil.copytree(data, to)
    return to


@pytest.mark.parametrize("loader", LOADERS)
def test_freihand(hands: Path, tmp_path: Path, loader: Loader) -> None:
    root = copy_of(hands, tmp_path / "hands")
    rgb, held = root / "training/rgb", root / "evaluation/rgb"
    (rgb / "00000000.jpg").write_bytes(b"")  # the first image, which the reader opens
    cv2.imwrite(str(rgb / "00000007.jpg"), scene())
    (rgb / "00000009.jpg").unlink()
    (held / "00000001.jpg").write_text("not an image")
    config = CheckConfig(dataset="freihand", data=root, loader=loader, threads=2)
    findings = check(config)
    assert [(row["split"], row["bad"], row["missing"]) for row in findings.table] == [("all", 2, 1), ("evaluation", 1, 0)]
    assert found_bad(findings)["00000007.jpg"] == f"is {WIDTH} x {HEIGHT} pixels, wanted 224 x 224"
    assert findings.missing == [str(rgb / "00000009.jpg")]
    assert findings.duplicates == []
    once = open_samples(replace(config, versions=["auto"]), "all")
    outside = ((once.keypoints < 0) | (once.keypoints > 224)).any((1, 2))
    assert outside.any()  # each hand counts once, not once per version
    found = {problem.row for problem in findings.suspicious["all", "joints outside"]}
    assert len(found) == len(findings.suspicious["all", "joints outside"])
    assert set(np.nonzero(outside)[0].tolist()) - {0, 7, 9} <= found <= set(np.nonzero(outside)[0].tolist())
    left = exclude_bad_images(open_samples(replace(config, skip_missing=True), "train"), config)
    assert (left.unreadable, left.skipped) == (2, 1)
    assert not {"00000000.jpg", "00000007.jpg"} & {Path(path).name for path in left.paths}


@pytest.mark.parametrize("annotated", [True, False])
def test_freihands_evaluation_set_alone(hands: Path, tmp_path: Path, annotated: bool) -> None:
    root = copy_of(hands, tmp_path / "hands")
    shutil.rmtree(root / "training")
    for file in root.glob("training*"):
        file.unlink()
    if not annotated:
        (root / "evaluation_xyz.json").unlink()
    (root / "evaluation/rgb/00000001.jpg").write_text("not an image")
    config = CheckConfig(dataset="freihand", data=root, loader="opencv", threads=1)
    findings = check(config)
    assert [(row["split"], row["bad"], row["missing"]) for row in findings.table] == [("evaluation", 1, 0)]
    assert exit_code(config, findings) == 1


def test_folder_of_other_images_is_refused(hands: Path, tmp_path: Path) -> None:
    root = copy_of(hands, tmp_path / "hands")
    (root / "evaluation_xyz.json").unlink()
    for file in (root / "training/rgb").iterdir():
        cv2.imwrite(str(file), scene())
    with pytest.raises(HgfastError, match="is 240 x 160 pixels, FreiHAND's are 224 x 224"):
        check(CheckConfig(data=root, loader="opencv"))


def rotated_hands(xyz: Any, angle: float = 2.0) -> Any:
    rotation, _ = cv2.Rodrigues(np.array([0.3, -0.5, 0.8]) * angle)
    return np.asarray(xyz) @ rotation.T + [0.05, -0.1, 0.2]


def random_hands(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.05, (count, 21, 3))


def test_a_hand_seen_by_another_camera_is_found() -> None:
    train, valid, test = random_hands(40), random_hands(10, 1), random_hands(10, 2)
    valid[4], test[7], test[2] = (
        rotated_hands(train[30]),
        rotated_hands(valid[1]),
        test[1],
    )  # same split: ignored
    hands = {"train": (np.arange(40), train), "valid": (100 + np.arange(10), valid), "test": (200 + np.arange(10), test)}
    pairs = find_duplicate_hands(hands)
    found = {(pair.split, pair.row, pair.other_split, pair.other_row) for pair in pairs}
    assert found == {("valid", 104, "train", 30), ("test", 207, "valid", 101)}
    assert all(pair.difference < 1e-9 for pair in pairs)


def test_how_near_two_hands_must_be() -> None:
    """A hand enlarged so that the root mean square difference of its distances is known."""
    hand = random_hands(1)[0]
    first, second = np.triu_indices(21, 1)
    spread = np.sqrt(((hand[first] - hand[second]) ** 2).sum(1).mean())
    for difference, found in ((0.9 * SAME_HAND_RMS, 1), (1.1 * SAME_HAND_RMS, 0)):
        larger = rotated_hands(hand * (1 + difference / spread))
        pairs = find_duplicate_hands({"train": (np.arange(1), hand[None]), "valid": (np.arange(1), larger[None])})
        assert len(pairs) == found
        assert all(pair.difference == pytest.approx(difference) for pair in pairs)
    assert find_duplicate_hands({"train": (np.arange(1), hand[None]), "test": (np.arange(0), hand[None][:0])}) == []


def test_hands_in_two_splits_are_reported(hands: Path, tmp_path: Path) -> None:
    root = copy_of(hands, tmp_path / "hands")
    _, valid_end = split_bounds(NUM_HANDS)
    xyz = json.loads((root / "training_xyz.json").read_text())
    turned = np.array(xyz[3])
    turned[:, :2] = (turned[:, :2] - turned[:, :2].mean(0)) @ [[0.0, 1.0], [-1.0, 0.0]] + turned[:, :2].mean(0)
    xyz[valid_end] = turned.tolist()
    (root / "training_xyz.json").write_text(json.dumps(xyz))
    config = CheckConfig(dataset="freihand", data=root, loader="opencv")
    findings = check(config)
    assert [(pair.split, pair.row, pair.other_split, pair.other_row) for pair in findings.duplicates] == [
        ("test", valid_end, "train", 3)
    ]
    assert any(f"row {valid_end} (test) and row 3 (train) may be one hand" in line for line in format_report(config, findings))
    assert exit_code(config, findings) == 0
    assert read_result(root / FILE_NAME).report["same_instant"][0]["other_row"] == 3


@pytest.mark.real_data
def test_real_hands(tmp_path: Path) -> None:
    root = shared_path("fixtures/FreiHAND_pub_v2_mini")
    findings = check(CheckConfig(data=root, split_fractions=[0.5, 0.5], checked=tmp_path / FILE_NAME))
    assert (findings.bad, findings.missing, findings.duplicates, len(findings.states)) == ({}, [], [], 8)


def body_samples(points: Any, labeled: Any, center: Any = (50.0, 40.0), side: float = 100.0) -> Samples:
    """Return one person in an image of any size."""
    one = np.ones(1)
    return Samples(np.array(["a.jpg"]), np.array([center], float), one * side, np.asarray(points, float)[None],
                   np.asarray(labeled, bool)[None], one, np.zeros(1, np.int64), np.zeros(1, np.int64), BODY16, 0.0)  # fmt: skip


def test_joints_outside_their_image() -> None:
    points, labeled = np.full((16, 2), 20.0), np.ones(16, bool)
    size, rows = np.array([[100.0, 80.0]]), np.array([12])
    points[:4] = [[0, 0], [100, 80], [-3, 84], [101, 50]]
    points[4], labeled[4] = (500, 500), False
    (problem,) = joints_outside_image(body_samples(points, labeled), rows, size)
    assert (problem.row, problem.count, problem.distance) == (12, 2, 5.0)
    assert problem.detail == f"2 joints, the farthest {BODY16.joints[2]}, 5.0 px outside"
    assert joints_outside_image(body_samples(points, np.arange(16) < 2), rows, size) == []  # on the very edge
    assert joints_outside_image(body_samples(points, labeled), rows, np.full((1, 2), np.nan)) == []


@pytest.mark.parametrize(
    ("center", "side", "words"),
    [((-60, 40), 100, "does not touch"), ((50, 130), 100, "does not touch"), ((-49, 40), 100, ""), ((149, 40), 100, ""),
     ((150, 40), 100, "does not touch"), ((50, 40), 0, "has no side"), ((50, 40), -5, "has no side"),
     ((50, 40), np.nan, "no side")],
)  # fmt: skip
def test_crops_outside_their_image(center: tuple[float, float], side: float, words: str) -> None:
    person = body_samples(np.full((16, 2), 20.0), np.ones(16), center, side)
    problems = crops_outside_image(person, np.array([3]), np.array([[100.0, 80.0]]))
    assert [words in problem.detail for problem in problems] == ([True] if words else [])


def test_mpii_rows_count_people_without_image(people: Path, tmp_path: Path) -> None:
    root = copy_of(people, tmp_path / "MPII")
    with h5py.File(root / "annot/valid.h5", "r+") as file:
        names = [name.decode() for name in file["imgname"][()]]
        row = len(names) - 1
        part = file["part"][()]
        part[row, 9], part[row, 8] = (40, -34.5), (-6.5, 30)
        visible = file["visible"][()]
        visible[row, 8:10] = 1
        file["part"][...], file["visible"][...] = part, visible
    assert names[0] != names[row]
    (root / "images" / names[0]).unlink()
    (root / "images" / names[row - 1 if names[row - 1] != names[row] else 1]).touch()
    config = CheckConfig(dataset="mpii", data=root, loader="opencv")
    findings = check(config)
    worst = findings.suspicious["valid", "joints outside"][0]
    assert (worst.row, Path(worst.image).name, worst.distance) == (row, names[row], pytest.approx(35.0))
    assert f"annot/valid.h5, row {row} ({names[row]}): " in "\n".join(format_report(config, findings))
    assert [Path(path).name for path in findings.missing] == [names[0]]
    assert [row["split"] for row in findings.table] == ["train", "valid"]
    assert exit_code(config, findings) == 1 and exit_code(replace(config, skip_missing=True), replace(findings, bad={})) == 0


def test_a_broken_split_does_not_keep_the_others_from_being_checked(people: Path, tmp_path: Path) -> None:
    root = copy_of(people, tmp_path / "MPII")
    (root / "annot/valid.h5").write_bytes(b"broken")
    next((root / "images").iterdir()).write_text("not an image")
    config = CheckConfig(dataset="mpii", data=root, loader="opencv")
    findings = check(config)
    assert [row["samples"] > 0 for row in findings.table] == [True, False]
    assert any(
        line.startswith("split valid: ") and "valid.h5 cannot be read as HDF5" in line for line in format_report(config, findings)
    )
    assert exit_code(config, replace(findings, bad={})) == 1


def test_nothing_to_check(tmp_path: Path) -> None:
    for config, sentence in (
        (CheckConfig(dataset="mpii", data=tmp_path), "no MPII data"),
        (CheckConfig(dataset="mpii"), "--data DIR is missing"),
        (CheckConfig(dataset="coco", data=tmp_path), "--annotations FILE is missing"),
        (CheckConfig(dataset="freihand", data=tmp_path / "none"), "no FreiHAND data"),
    ):
        with pytest.raises(HgfastError, match=sentence):
            check(config)
    assert list(tmp_path.iterdir()) == []


def test_all_images_missing(tmp_path: Path) -> None:
    write_coco(tmp_path, ["a.jpg"])
    with pytest.raises(HgfastError, match="1 of 1 images are missing"):
        check(face_config(tmp_path))


def test_the_command(two_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset", "coco", "--data", two_images, "--annotations", two_images / "points.json"]

    def run(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["check.py", *map(str, flags), *more])
        with pytest.raises(SystemExit) as end:
            run_main(main)
        return int(end.value.code or 0), *capsys.readouterr()

    code, out, err = run()
    assert code == 1, err
    lines = out.splitlines()
    assert lines[0].startswith(f"{two_images / 'images/cut.jpg'}: is a JPEG that is cut off")
    assert lines[1].startswith(f"{two_images / 'images/text.jpg'}: is not an image")
    assert "2 of 4 images cannot be used" in out and str(two_images / FILE_NAME) in out
    for name in ("cut", "text"):
        (two_images / f"images/{name}.jpg").write_bytes(JPEG)
    code, out, err = run("--loader", "opencv")
    assert (code, err) == (0, "") and "all 4 images can be used" in out
    assert run("--threads", "0") == (2, "", "error: threads is 0, must be at least 1\n")
