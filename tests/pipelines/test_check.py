"""The file check: bad files of every kind, odd annotations, what is remembered, and what training leaves out."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import h5py
import numpy as np
import pytest
from conftest import HANDS, Command, beside
from odd_pictures import HEIGHT, WIDTH, scene, write_bad, write_good

from hgfast.errors import HgfastError
from hgfast.skeletons import BODY16
from pipelines import check as module
from pipelines import check_pictures
from pipelines.check import CheckConfig, Findings, check, exit_code, in_words
from pipelines.check_annotations import SAME, joints_outside, same_instants, squares_astray
from pipelines.check_result import NAME, read_result, without_bad
from pipelines.datasets import open_samples
from pipelines.freihand import split_bounds
from pipelines.samples import Samples

Loader = Literal["dali", "torch"]
LOADERS = ("dali", "torch")
JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()


def annotate(root: Path, names: Sequence[str], sizes: dict[str, Any] | None = None, **person: Any) -> Path:
    """A COCO file over pictures in root/images, one person of three joints in each."""
    entry = {"category_id": 1, "bbox": [10, 20, 40, 20], "keypoints": [12, 30, 2, 22, 25, 1, 18, 22, 2], **person}
    content = {
        "images": [{"id": n, "file_name": name, **(sizes or {}).get(name, {})} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, **entry} for n, _ in enumerate(names)],
        "categories": [{"id": 1, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": []}],
    }
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "points.json").write_text(json.dumps(content))
    return root / "points.json"


def faces(root: Path, loader: Loader = "torch", **options: Any) -> CheckConfig:
    options = {"data": root, "annotations": root / "points.json", "threads": 2, **options}
    return CheckConfig(dataset="coco", loader=loader, **options)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two good pictures, one that is cut short and one that is no picture."""
    annotate(tmp_path / "data", ["a.jpg", "b.jpg", "cut.jpg", "text.jpg"])
    for name, content in (("a", JPEG), ("b", JPEG), ("cut", JPEG[: len(JPEG) // 2]), ("text", b"not a picture")):
        (tmp_path / f"data/images/{name}.jpg").write_bytes(content)
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the decoder is given from now on."""
    seen: list[str] = []
    original = module.decode

    def spy(paths: Sequence[str], loader: Loader, threads: int) -> Any:
        seen.extend(Path(path).name for path in paths)
        return original(paths, loader, threads)

    monkeypatch.setattr(module, "decode", spy)
    return seen


def found_bad(findings: Findings) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in findings.bad.items()}


def giant_png() -> bytes:
    """A few bytes that promise 40000 x 40000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("loader", LOADERS)
def test_files_of_every_kind(tmp_path: Path, loader: Loader) -> None:
    images = tmp_path / "images"
    images.mkdir()
    good, bad = write_good(images), write_bad(images)
    (images / "half.jpg").write_bytes(JPEG[: len(JPEG) // 2])
    (images / "half.png").write_bytes((images / "rgba.png").read_bytes()[:2000])
    (images / "giant.png").write_bytes(giant_png())
    os.mkfifo(images / "pipe.jpg")
    bad += ["half.jpg", "half.png", "giant.png"]
    annotate(tmp_path, sorted([*good, *bad, "gone.jpg", "nowhere_else.jpg", "pipe.jpg"]))
    config = faces(tmp_path, loader)
    findings = check(config)
    reasons = found_bad(findings)
    assert sorted(reasons) == sorted(bad)
    assert [Path(path).name for path in findings.missing] == [
        "gone.jpg",
        "nowhere_else.jpg",
        "pipe.jpg",
    ]  # nobody waits for a pipe
    assert all(reason and str(tmp_path) not in reason for reason in reasons.values())
    for name, words in (
        ("zero", "is empty"),
        ("folder", "is a folder"),
        ("nowhere", "No such file"),
    ):
        assert words in reasons[f"{name}.jpg"]
    assert reasons["giant.png"].startswith("has 40000 x 40000 pixels, more than the 268435456 that are decoded")
    result = read_result(tmp_path / NAME)
    assert {name: tuple(result.decoded[f"images/{name}"][2:]) for name in good} == good
    assert findings.table[0] == {
        "split": "train",
        "samples": len(good) + len(bad),
        "pictures": len(good) + len(bad),
        "bad": len(bad),
        "missing": 3,
        "joints outside": 3,
        "squares astray": 1,
    }  # fmt: skip  (the picture of one pixel)
    lines = in_words(config, findings)
    worst = findings.odd["train", "joints outside"][0]
    listed = json.loads((tmp_path / "points.json").read_text())["images"][worst.row]["file_name"]
    assert any(f"points.json, annotation {worst.row} ({listed}): " in line for line in lines)
    assert f"{images / 'zero.jpg'}: is empty" in lines and f"{images / 'gone.jpg'}: is missing" in lines
    assert sum(line.startswith(str(images)) for line in lines) == len(bad) + 3


def test_a_file_without_permission_is_bad_until_it_has_it(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission changes neither size nor time. Whoever runs the tests may be allowed to read anything."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jpg"))
        assert found_bad(check(faces(pair)))["a.jpg"] == "cannot be read (Permission denied)"
    assert sorted(found_bad(check(faces(pair)))) == ["cut.jpg", "text.jpg"]


@pytest.mark.parametrize("loader", LOADERS)
def test_training_leaves_bad_pictures_out(pair: Path, loader: Loader) -> None:
    config = faces(pair, loader)
    samples = open_samples(config, "train")
    assert without_bad(samples, config) is samples  # nothing was checked
    check(config)
    left = without_bad(replace(samples, skipped=2), config)
    assert [Path(path).name for path in left.paths] == ["a.jpg", "b.jpg"]
    assert len(left.keypoints) == left.unreadable == 2 and left.row.tolist() == [0, 1]
    assert left.in_words == "2 samples (2 more without their picture, 2 with one that cannot be read)"
    assert without_bad(samples, config).in_words == "2 samples (2 more with a picture that cannot be read)"
    (pair / "images/text.jpg").write_bytes(JPEG)  # repaired, but not checked again
    assert [Path(path).name for path in without_bad(samples, config).paths] == ["a.jpg", "b.jpg", "text.jpg"]
    with pytest.raises(HgfastError, match="none of the 1 pictures can be used"):
        without_bad(samples.take(samples.paths == str(pair / "images/cut.jpg")), config)


def test_paths_may_be_written_in_another_way(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(faces(pair))
    monkeypatch.chdir(pair)
    config = faces(Path("../data"), annotations=Path("points.json"), images=Path("images"))
    assert without_bad(open_samples(config, "train"), config).unreadable == 2
    beside_images = replace(config, data=None)
    assert without_bad(open_samples(beside_images, "train"), beside_images).unreadable == 2


def test_a_link_that_leads_nowhere_is_left_out_until_it_leads_somewhere(pair: Path) -> None:
    picture = pair / "images/a.jpg"
    picture.unlink()
    picture.symlink_to(pair / "later.jpg")
    config = faces(pair)
    check(config)
    samples = open_samples(config, "train")
    assert without_bad(samples, config).unreadable == 3
    (pair / "later.jpg").write_bytes(JPEG)
    assert without_bad(samples, config).unreadable == 2


def test_data_may_be_moved_with_their_result(pair: Path, decoded: list[str]) -> None:
    check(faces(pair))
    moved = pair.rename(pair.with_name("moved"))
    assert without_bad(open_samples(faces(moved), "train"), faces(moved)).unreadable == 2
    decoded.clear()
    assert len(check(faces(moved)).bad) == 2
    assert decoded == []


@pytest.mark.parametrize("loader", LOADERS)
def test_only_new_and_changed_files_are_decoded_again(pair: Path, decoded: list[str], loader: Loader) -> None:
    config = faces(pair, loader)
    first = check(config)
    assert sorted(decoded) == ["a.jpg", "b.jpg", "cut.jpg", "text.jpg"] and first.decoded == 4
    decoded.clear()
    again = check(config)
    assert decoded == [] and again.decoded == 0 and again.bad == first.bad and again.table == first.table
    os.utime(pair / "images/b.jpg", ns=(1, 1))  # another time
    (pair / "images/cut.jpg").write_bytes(JPEG)  # repaired
    (pair / "images/c.jpg").write_bytes(JPEG[:50])  # new
    annotate(pair, ["a.jpg", "b.jpg", "c.jpg", "cut.jpg", "text.jpg"])
    assert sorted(found_bad(check(config))) == ["c.jpg", "text.jpg"]
    assert sorted(decoded) == ["b.jpg", "c.jpg", "cut.jpg"]
    assert sorted(read_result(pair / NAME).bad) == ["images/c.jpg", "images/text.jpg"]
    decoded.clear()
    check(replace(config, again=True))
    assert len(decoded) == 5
    decoded.clear()
    check(replace(config, loader="dali" if loader == "torch" else "torch"))  # which may see things differently
    assert len(decoded) == 5


def test_a_check_that_fails_forgets_nothing(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad files stay known when another decoder is asked and cannot begin, or everything is asked again and broken off."""
    check(faces(pair, loader="torch"))
    known = read_result(pair / NAME).bad
    assert known

    def broken(*_: object) -> None:
        raise HgfastError("no decoder here")

    monkeypatch.setattr(module, "decode", broken)
    for config in (faces(pair, loader="dali"), faces(pair, loader="torch", again=True)):
        with pytest.raises(HgfastError, match="no decoder"):
            check(config)
        assert read_result(pair / NAME).bad == known


def test_pictures_of_other_annotations_stay_remembered(pair: Path, decoded: list[str]) -> None:
    check(faces(pair))
    shutil.copy(pair / "points.json", pair / "all.json")
    annotate(pair, ["a.jpg"])
    assert check(faces(pair)).bad == {}
    everything = faces(pair, annotations=pair / "all.json")
    assert without_bad(open_samples(everything, "train"), everything).unreadable == 2
    decoded.clear()
    assert len(check(everything).bad) == 2 and decoded == []


def test_a_check_broken_off_goes_on_where_it_was(pair: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]) -> None:
    original = module.decode

    def interrupted(paths: Sequence[str], loader: Loader, threads: int) -> Any:
        yield from list(original(paths, loader, threads))[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "decode", interrupted)
        check(faces(pair))
    decoded.clear()
    check(faces(pair))
    assert decoded == ["text.jpg"]


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2", "[]", "{}", '{"hgfast_check": 1}',
     '{"hgfast_check": 2, "loader": "dali", "report": {}, "bad": {}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": {"a.jpg": [3, "is empty"]}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": {"a.jpg": [3, null, "is empty"]}, "decoded": {}}',
     '{"hgfast_check": 1, "loader": "dali", "report": {}, "bad": [], "decoded": {}}'],
)  # fmt: skip
def test_a_broken_result(pair: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = faces(pair)
    samples = open_samples(config, "train")
    (pair / NAME).write_text(content)
    with pytest.raises(HgfastError, match=rf"{NAME} is no result of .*check.py, .*delete it, or run the check again"):
        without_bad(samples, config)
    assert len(check(config).bad) == 2
    assert "everything is decoded anew" in capsys.readouterr().err
    assert without_bad(samples, config).unreadable == 2


def test_remembered_nonsense_about_a_picture_is_not_believed(pair: Path, decoded: list[str]) -> None:
    check(faces(pair))
    result = json.loads((pair / NAME).read_text())
    result["decoded"]["images/a.jpg"] = "fine"
    result["decoded"]["images/b.jpg"][2] = "12"
    (pair / NAME).write_text(json.dumps(result))
    decoded.clear()
    check(faces(pair))
    assert decoded == ["a.jpg", "b.jpg"]


def test_the_place_of_the_result(pair: Path, tmp_path: Path, decoded: list[str]) -> None:
    place = tmp_path / "results/faces.json"
    config = faces(pair, checked=place)
    samples = open_samples(config, "train")
    with pytest.raises(HgfastError, match=r"there is no result of a file check .*faces.json"):
        without_bad(samples, config)
    check(config)
    assert not (pair / NAME).exists() and [file.name for file in place.parent.iterdir()] == ["faces.json"]
    assert without_bad(samples, config).unreadable == 2
    check(faces(pair, data=None, images=pair / "images"))
    assert (pair / NAME).exists()  # beside the pictures' folder
    decoded.clear()
    points = (pair / "points.json").read_text()
    with pytest.raises(HgfastError, match=r"points.json is no result"):  # and is not overwritten
        check(faces(pair, checked=pair / "points.json"))
    assert (pair / "points.json").read_text() == points
    with pytest.raises(HgfastError, match=r"cannot make the folder .* choose another with --checked"):
        check(faces(pair, checked=pair / "points.json/below.json"))
    (pair / NAME).unlink()
    (pair / NAME).mkdir()
    with pytest.raises(HgfastError, match="which is a folder"):
        check(faces(pair))
    assert decoded == []


def test_dali_gets_few_large_pictures_at_a_time(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[list[str]] = []
    original = check_pictures._Graph.run

    def spy(self: Any, paths: Sequence[str]) -> Any:
        if self._what == "decode":
            batches.append([Path(path).stem for path in paths])
        return original(self, paths)

    monkeypatch.setattr(check_pictures._Graph, "run", spy)
    large = cv2.imencode(".png", np.zeros((3 * HEIGHT, WIDTH, 3), np.uint8))[1].tobytes()
    sizes = {**dict.fromkeys("abdef", (WIDTH, HEIGHT)), "c": (WIDTH, 3 * HEIGHT)}
    for name, size in sizes.items():
        (pair / f"images/{name}.jpg").write_bytes(JPEG if size[1] == HEIGHT else large)
    monkeypatch.setattr(check_pictures, "PIXELS", 2 * WIDTH * HEIGHT)
    paths = {str(pair / f"images/{name}.jpg"): size for name, size in sorted(sizes.items())}
    assert dict(check_pictures.with_dali(list(paths), 2)) == paths
    assert batches == [["a", "b"], ["c"], ["d", "e"], ["f"]]


@pytest.mark.parametrize("loader", LOADERS)
def test_one_bad_file_among_many(tmp_path: Path, loader: Loader) -> None:
    """More than a batch, the bad ones at both ends and in the middle."""
    names = [f"{n}.jpg" for n in range(2 * check_pictures.FILES + 5)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(JPEG[:500] if n in (0, 40, 41, len(names) - 1) else JPEG)
    found = dict(check_pictures.decode([str(tmp_path / name) for name in names], loader, 2))
    bad = [n for n, name in enumerate(names) if isinstance(found[str(tmp_path / name)], str)]
    assert bad == [0, 40, 41, len(names) - 1] and len(found) == len(names)


def test_coco_pictures_of_another_size_than_their_entry(pair: Path, decoded: list[str]) -> None:
    right, wrong = {"width": WIDTH, "height": HEIGHT}, {"width": HEIGHT, "height": WIDTH}
    annotate(pair, ["a.jpg", "b.jpg"], {"a.jpg": right, "b.jpg": wrong})
    assert found_bad(check(faces(pair))) == {"b.jpg": f"is {WIDTH} x {HEIGHT} pixels, wanted {HEIGHT} x {WIDTH}"}
    assert without_bad(open_samples(faces(pair), "train"), faces(pair)).unreadable == 1
    decoded.clear()
    annotate(pair, ["a.jpg", "b.jpg"], {"a.jpg": right, "b.jpg": right})
    assert check(faces(pair)).bad == {}  # although the picture has not changed
    assert decoded == []
    annotate(pair, ["a.jpg", "b.jpg"], {"a.jpg": {"width": 0, "height": None}})
    assert check(faces(pair)).bad == {}


def copy(data: Path, to: Path) -> Path:
    shutil.copytree(data, to)
    return to


@pytest.mark.parametrize("loader", LOADERS)
def test_freihand(hands: Path, tmp_path: Path, loader: Loader) -> None:
    root = copy(hands, tmp_path / "hands")
    rgb, held = root / "training/rgb", root / "evaluation/rgb"
    (rgb / "00000000.jpg").write_bytes(b"")  # the first, which the reader looks at
    cv2.imwrite(str(rgb / "00000007.jpg"), scene())
    (rgb / "00000009.jpg").unlink()
    (held / "00000001.jpg").write_text("not a picture")
    config = CheckConfig(dataset="freihand", data=root, loader=loader, threads=2)
    findings = check(config)
    assert [(row["split"], row["bad"], row["missing"]) for row in findings.table] == [("all", 2, 1), ("evaluation", 1, 0)]
    assert found_bad(findings)["00000007.jpg"] == f"is {WIDTH} x {HEIGHT} pixels, wanted 224 x 224"
    assert findings.missing == [str(rgb / "00000009.jpg")]
    assert findings.twins == []
    once = open_samples(replace(config, versions=["auto"]), "all")
    outside = ((once.keypoints < 0) | (once.keypoints > 224)).any((1, 2))
    assert outside.any()  # each hand is counted once, not once a version
    found = {problem.row for problem in findings.odd["all", "joints outside"]}
    assert len(found) == len(findings.odd["all", "joints outside"])
    assert set(np.nonzero(outside)[0].tolist()) - {0, 7, 9} <= found <= set(np.nonzero(outside)[0].tolist())
    left = without_bad(open_samples(replace(config, skip_missing=True), "train"), config)
    assert (left.unreadable, left.skipped) == (2, 1)
    assert not {"00000000.jpg", "00000007.jpg"} & {Path(path).name for path in left.paths}


def test_a_folder_of_other_pictures_is_refused(hands: Path, tmp_path: Path) -> None:
    root = copy(hands, tmp_path / "hands")
    (root / "evaluation_xyz.json").unlink()
    for file in (root / "training/rgb").iterdir():
        cv2.imwrite(str(file), scene())
    with pytest.raises(HgfastError, match="is 240 x 160 pixels, FreiHAND's are 224 x 224"):
        check(CheckConfig(data=root, loader="torch"))


def moved(xyz: Any, angle: float = 2.0) -> Any:
    rotation, _ = cv2.Rodrigues(np.array([0.3, -0.5, 0.8]) * angle)
    return np.asarray(xyz) @ rotation.T + [0.05, -0.1, 0.2]


def random_hands(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.05, (count, 21, 3))


def test_a_hand_seen_by_another_camera_is_found() -> None:
    train, valid, test = random_hands(40), random_hands(10, 1), random_hands(10, 2)
    valid[4], test[7], test[2] = moved(train[30]), moved(valid[1]), test[1]  # within a split it does no harm
    hands = {"train": (np.arange(40), train), "valid": (100 + np.arange(10), valid), "test": (200 + np.arange(10), test)}
    pairs = same_instants(hands)
    found = {(pair.split, pair.row, pair.other_split, pair.other_row) for pair in pairs}
    assert found == {("valid", 104, "train", 30), ("test", 207, "valid", 101)}
    assert all(pair.difference < 1e-9 for pair in pairs)


def test_how_near_two_hands_must_be() -> None:
    """A hand that is larger by a known root mean square of its distances."""
    hand = random_hands(1)[0]
    first, second = np.triu_indices(21, 1)
    spread = np.sqrt(((hand[first] - hand[second]) ** 2).sum(1).mean())
    for difference, found in ((0.9 * SAME, 1), (1.1 * SAME, 0)):
        larger = moved(hand * (1 + difference / spread))
        pairs = same_instants({"train": (np.arange(1), hand[None]), "valid": (np.arange(1), larger[None])})
        assert len(pairs) == found
        assert all(pair.difference == pytest.approx(difference) for pair in pairs)
    assert same_instants({"train": (np.arange(1), hand[None]), "test": (np.arange(0), hand[None][:0])}) == []


def test_hands_in_two_splits_are_reported(hands: Path, tmp_path: Path) -> None:
    root = copy(hands, tmp_path / "hands")
    _, valid_end = split_bounds(HANDS)
    xyz = json.loads((root / "training_xyz.json").read_text())
    turned = np.array(xyz[3])
    turned[:, :2] = (turned[:, :2] - turned[:, :2].mean(0)) @ [[0.0, 1.0], [-1.0, 0.0]] + turned[:, :2].mean(0)
    xyz[valid_end] = turned.tolist()
    (root / "training_xyz.json").write_text(json.dumps(xyz))
    config = CheckConfig(dataset="freihand", data=root, loader="torch")
    findings = check(config)
    assert [(pair.split, pair.row, pair.other_split, pair.other_row) for pair in findings.twins] == [
        ("test", valid_end, "train", 3)
    ]
    assert any(f"row {valid_end} (test) and row 3 (train) may be one hand" in line for line in in_words(config, findings))
    assert exit_code(config, findings) == 0
    assert read_result(root / NAME).report["same_instant"][0]["other_row"] == 3


@pytest.mark.real_data
def test_real_hands(tmp_path: Path) -> None:
    root = beside("fixtures/FreiHAND_pub_v2_mini")
    findings = check(CheckConfig(data=root, shares=[0.5, 0.5], checked=tmp_path / NAME))
    assert (findings.bad, findings.missing, findings.twins, len(findings.states)) == ({}, [], [], 8)


def body(points: Any, labelled: Any, centre: Any = (50.0, 40.0), side: float = 100.0) -> Samples:
    """One person in a picture of any size."""
    one = np.ones(1)
    return Samples(np.array(["a.jpg"]), np.array([centre], float), one * side, np.asarray(points, float)[None],
                   np.asarray(labelled, bool)[None], one, np.zeros(1, np.int64), np.zeros(1, np.int64), BODY16, 0.0)  # fmt: skip


def test_joints_outside_their_picture() -> None:
    points, labelled = np.full((16, 2), 20.0), np.ones(16, bool)
    size, rows = np.array([[100.0, 80.0]]), np.array([12])
    points[:4] = [[0, 0], [100, 80], [-3, 84], [101, 50]]
    points[4], labelled[4] = (500, 500), False
    (problem,) = joints_outside(body(points, labelled), rows, size)
    assert (problem.row, problem.count, problem.amount) == (12, 2, 5.0)
    assert problem.detail == f"2 joints, the farthest {BODY16.joints[2]}, 5.0 px outside"
    assert joints_outside(body(points, np.arange(16) < 2), rows, size) == []  # on the very edge
    assert joints_outside(body(points, labelled), rows, np.full((1, 2), np.nan)) == []


@pytest.mark.parametrize(
    ("centre", "side", "words"),
    [((-60, 40), 100, "does not touch"), ((50, 130), 100, "does not touch"), ((-49, 40), 100, ""), ((149, 40), 100, ""),
     ((150, 40), 100, "does not touch"), ((50, 40), 0, "has no side"), ((50, 40), -5, "has no side"),
     ((50, 40), np.nan, "no side")],
)  # fmt: skip
def test_squares_astray(centre: tuple[float, float], side: float, words: str) -> None:
    person = body(np.full((16, 2), 20.0), np.ones(16), centre, side)
    problems = squares_astray(person, np.array([3]), np.array([[100.0, 80.0]]))
    assert [words in problem.detail for problem in problems] == ([True] if words else [])


def test_mpii_rows_count_people_whose_picture_is_missing(people: Path, tmp_path: Path) -> None:
    root = copy(people, tmp_path / "MPII")
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
    config = CheckConfig(dataset="mpii", data=root, loader="torch")
    findings = check(config)
    worst = findings.odd["valid", "joints outside"][0]
    assert (worst.row, Path(worst.picture).name, worst.amount) == (row, names[row], pytest.approx(35.0))
    assert f"annot/valid.h5, row {row} ({names[row]}): " in "\n".join(in_words(config, findings))
    assert [Path(path).name for path in findings.missing] == [names[0]]
    assert [row["split"] for row in findings.table] == ["train", "valid"]
    assert exit_code(config, findings) == 1 and exit_code(replace(config, skip_missing=True), replace(findings, bad={})) == 0


def test_a_broken_split_does_not_keep_the_others_from_being_checked(people: Path, tmp_path: Path) -> None:
    root = copy(people, tmp_path / "MPII")
    (root / "annot/valid.h5").write_bytes(b"broken")
    next((root / "images").iterdir()).write_text("not a picture")
    config = CheckConfig(dataset="mpii", data=root, loader="torch")
    findings = check(config)
    assert [row["samples"] > 0 for row in findings.table] == [True, False]
    assert any(
        line.startswith("split valid: ") and "valid.h5 cannot be read as HDF5" in line for line in in_words(config, findings)
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


def test_all_pictures_missing(tmp_path: Path) -> None:
    annotate(tmp_path, ["a.jpg"])
    with pytest.raises(HgfastError, match="1 of 1 pictures are missing"):
        check(faces(tmp_path))


def test_the_command(pair: Path, command: Command, tmp_path: Path) -> None:
    flags = ["--dataset", "coco", "--data", pair, "--annotations", pair / "points.json"]
    run: Callable[..., Any] = lambda *more: command("pipelines/check.py", *flags, *more)  # noqa: E731
    bad = run()
    assert bad.returncode == 1, bad.stderr
    lines = bad.stdout.splitlines()
    assert lines[0].startswith(f"{pair / 'images/cut.jpg'}: cannot be decoded")
    assert lines[1].startswith(f"{pair / 'images/text.jpg'}: cannot be decoded")
    assert "2 of 4 pictures cannot be used" in bad.stdout and str(pair / NAME) in bad.stdout
    for name in ("cut", "text"):
        (pair / f"images/{name}.jpg").write_bytes(JPEG)
    good = run("--loader", "torch")
    assert (good.returncode, good.stderr) == (0, "") and "all 4 pictures can be used" in good.stdout
    wrong = run("--threads", "0")
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", "error: --threads 0 must be at least 1\n")
